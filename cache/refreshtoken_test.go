package cache

import (
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestRefreshTokensOfTheFirstFormat: they are found until a newer one is kept.
func TestRefreshTokensOfTheFirstFormat(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	sealer, key := c.shared.keys.all()[0], NewKey("refresh", "u")
	name := formerPrefix + strings.TrimPrefix(sealer.nameOf(key), keyPrefix) + refreshSuffix
	head := string(rune(formerVersion)) + string(sealer.id[:]) + strings.Repeat("\x00", formerHead-formerKeyEnd)
	nonce := strings.Repeat("n", sealer.aead.NonceSize())
	sealed := string(sealer.aead.Seal(nil, []byte(nonce), []byte("atrt-former"), []byte(head+name)))

	kept := func(want string, unreadable bool) {
		t.Helper()
		token, ok, err := c.RefreshToken(t.Context(), key)
		if (err != nil) != unreadable || ok != (want != "") || token.Reveal() != want {
			t.Errorf("%v, %v, want %q", ok, err, want)
		}
	}
	kept("", false)
	for value, unreadable := range map[string]bool{
		"": false, "x": true, head: true, head + nonce + sealed + "x": true, "\x02" + head[1:] + nonce + sealed: true,
	} {
		server.Client().Set(t.Context(), name, value, 0)
		kept("", unreadable)
	}
	server.Client().Set(t.Context(), name, head+nonce+sealed, 0)
	kept("atrt-former", false)
	c.KeepRefreshToken(t.Context(), key, secret.Hide("atrt-newer"), time.Now())
	kept("atrt-newer", false)
}

// TestRefreshTokensWithoutTheFirstFormat: an ACL that allows only the names of the current format is no error.
func TestRefreshTokensWithoutTheFirstFormat(t *testing.T) {
	server := testbed.StartRedis(t)
	restrict := []any{"ACL", "SETUSER", "default", "resetkeys", "~" + keyPrefix + "*"}
	if err := server.Client().Do(t.Context(), restrict...).Err(); err != nil {
		t.Fatal(err)
	}
	c := newCache(t, server.URL(), nil)
	if _, ok, err := c.RefreshToken(t.Context(), NewKey("refresh", "u")); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

package cache

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"token-sidecar/internal/secret"
)

// FuzzValue: every value in Redis is either an entry that can be served or unreadable, and never causes a panic. The
// plain text is fuzzed too, as if an attacker had the key.
func FuzzValue(f *testing.F) {
	keys := &Keyring{}
	if err := keys.UseSecret(secret.Hide("s")); err != nil {
		f.Fatal(err)
	}
	at := name{keys.all()[0], "name"}
	token := string(tokenKind) + formatFence(7) + formatToken(newEntry("x", time.Hour), at, time.Now())
	head := token[:tokenMarks+markDigits]
	f.Add(encode(newEntry("x", time.Hour), time.Now()), []byte(token))
	f.Add([]byte{}, []byte("F0000000000000007*00"))
	f.Add([]byte{}, []byte("F0000000000000007-010123456789abcdef"))
	f.Fuzz(func(t *testing.T, plain, raw []byte) {
		for _, value := range []string{string(raw), head + string(at.key.seal(plain, at.text+head[fenceEnd:]))} {
			if h, ok := parseHead(value); ok {
				_ = h.forgets(newEntry("x", time.Hour), at.key)
			}
			e, err := keys.parseToken(value, at, time.Now(), time.Minute)
			if err != nil {
				continue
			}
			place := 0
			for _, hole := range e.Holes() {
				_ = e.Body.Reveal()[place:hole.Start]
				place = hole.End
			}
			if e.KeepFor > e.Life || e.KeepFor <= 0 || time.Since(e.Sent) < 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// TestCodecIsLossless: what one sidecar stores, another can read.
func TestCodecIsLossless(t *testing.T) {
	keys := newKeys(t, "s")
	sealer := keys.all()[0]
	rapid.Check(t, func(t *rapid.T) {
		e := newEntry(rapid.StringN(1, 50, 100).Draw(t, "token"),
			time.Duration(rapid.Int64Range(1, int64(1000*time.Hour)).Draw(t, "keep")))
		age := time.Duration(rapid.Int64Range(0, int64(e.KeepFor)).Draw(t, "age"))
		e.Sent = e.Sent.Add(-age)
		now := time.Now()
		e.Fence = Fence(rapid.Uint64Range(1, 1<<53).Draw(t, "fence"))
		at := name{sealer, "name"}
		got, err := keys.parseToken(string(tokenKind)+formatFence(e.Fence)+formatToken(e, at, now), at, now, e.KeepFor-age)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != e.ID || got.Fence != e.Fence || string(got.Body.Reveal()) != string(e.Body.Reveal()) ||
			got.Holes()[0] != e.Holes()[0] || got.Hashes()[0] != e.Hashes()[0] ||
			got.Life != e.Life || got.KeepFor != e.KeepFor || got.Sent.Sub(e.Sent).Abs() > time.Second {
			t.Fatalf("%+v became %+v", e, got)
		}
	})
}

// TestNamesTellKeysApart: no two keys share a name, nor two secrets.
func TestNamesTellKeysApart(t *testing.T) {
	a, b := newKeys(t, "a").all()[0], newKeys(t, "b").all()[0]
	names := map[string]bool{}
	for i := range 100 {
		names[a.nameOf(NewKey(string(rune(i))))] = true
		names[b.nameOf(NewKey(string(rune(i))))] = true
	}
	if len(names) != 200 {
		t.Errorf("%d names for 200", len(names))
	}
}

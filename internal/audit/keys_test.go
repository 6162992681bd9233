package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestPseudonym: it is the HMAC that the documentation describes, so that any other tool can compute it.
func TestPseudonym(t *testing.T) {
	mac := hmac.New(sha256.New, []byte(strings.Repeat("k", leastKey)))
	mac.Write([]byte("useralice"))
	if want := hex.EncodeToString(mac.Sum(nil)); pseudonym(t, "alice") != want {
		t.Errorf("%s in place of %s", pseudonym(t, "alice"), want)
	}
	keys, err := ParseKeys(secret.Hide(keyText("k") + "\r\n\n " + keyText("o") + "\n"))
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	sum := sha256.Sum256([]byte("alice"))
	seen := map[string]bool{}
	for _, key := range keys {
		for _, text := range []string{key.ID, key.User(secret.Hide("alice")), key.User(secret.Hide("bob")), key.Token(sum)} {
			if seen[text] {
				t.Errorf("%s twice", text)
			}
			seen[text] = true
		}
	}
	if printed := fmt.Sprintf("%v %+v %#v", keys, keys, keys[0]); strings.Contains(printed, "kkkk") ||
		strings.Contains(printed, "107 107") {
		t.Errorf("a key is printed: %s", printed)
	}
}

func TestBadKeys(t *testing.T) {
	for name, content := range map[string]string{
		"none": "", "blank": " \n\r\n", "no base64": strings.Repeat("?", 44), "text": "a passphrase",
		"31 bytes": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MA==", "second is bad": keyText("k") + "\nshort",
	} {
		err := CheckKeys(content)
		if err == nil || content != "" && strings.TrimSpace(content) != "" && strings.Contains(err.Error(), content) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeyRotates: lines contain the id of the key that was in use.
func TestKeyRotates(t *testing.T) {
	keyFile := testbed.WriteFile(t, "key", keyText("k"))
	key, err := secret.Open("AUDIT_KEY_FILE", keyFile, CheckKeys, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.log")
	trail, err := Open(Options{Path: path, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	for _, content := range []string{keyText("n") + "\n" + keyText("k"), "half-writ"} {
		if err := errors.Join(record(t, trail, "alice"), os.WriteFile(keyFile, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		key.Reload()
		key.Reload()
	}
	if err := record(t, trail, "alice"); err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(secret.Hide(keyText("n") + "\n" + keyText("k")))
	if err != nil {
		t.Fatal(err)
	}
	want := []Key{keys[1], keys[0], keys[0]}
	var i int
	for text := range strings.Lines(testbed.ReadFile(t, path)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil || l.Key != want[i].ID ||
			l.User != want[i].User(secret.Hide("alice")) {
			t.Errorf("line %d: %v %s", i, err, text)
		}
		i++
	}
	if i != len(want) {
		t.Errorf("%d lines", i)
	}
}

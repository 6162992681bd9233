package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"token-sidecar/internal/secret"
)

// leastKey is the minimum length of a key, in bytes.
const leastKey = 32

// A Key makes pseudonyms. Whoever has it can find the lines of a user whose id they know.
type Key struct {
	// ID distinguishes keys, and reveals nothing about the key.
	ID   string
	root secret.Value[[]byte]
}

// ParseKeys reads the content of AUDIT_KEY_FILE: 32 bytes or more in base64 on each line. The first key is in use, the
// others are former ones.
func ParseKeys(content secret.Text) ([]Key, error) {
	var keys []Key
	for i, line := range strings.Split(content.Reveal(), "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		root, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(root) < leastKey {
			return nil, fmt.Errorf("line %d is not base64 of %d bytes or more; make a key with: openssl rand -base64 32",
				i+1, leastKey)
		}
		key := Key{root: secret.Hide(root)}
		key.ID = key.hash("key")[:8]
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

// CheckKeys reports what is wrong with the content of AUDIT_KEY_FILE.
func CheckKeys(content string) error {
	_, err := ParseKeys(secret.Hide(content))
	return err
}

// User is the pseudonym of a user: HMAC-SHA256(key, "user" || client_user_id).
func (k Key) User(id secret.Text) string { return k.hash("user", []byte(id.Reveal())) }

// Token returns what represents the token with that SHA-256: HMAC-SHA256(key, "token" || SHA-256 of the token).
func (k Key) Token(sum [sha256.Size]byte) string { return k.hash("token", sum[:]) }

// hash is the HMAC of purpose and parts. No purpose is the beginning of another.
func (k Key) hash(purpose string, parts ...[]byte) string {
	mac := hmac.New(sha256.New, k.root.Reveal())
	_, _ = mac.Write([]byte(purpose)) // never fails
	for _, part := range parts {
		_, _ = mac.Write(part)
	}
	return hex.EncodeToString(mac.Sum(nil))
}

package cache

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/secret"
)

// Refresh tokens are kept without expiry, so a user's token in the first format is still read until one in the current
// format replaces it.
//
//	name   token-sidecar:v1:{HMAC}:refresh
//	value  1 (1 byte) | key id (4) | 0 (8) | nonce (12) | AES-256-GCM of the token
//
// with the first 13 bytes and the name as additional data.

const (
	formerPrefix  = "token-sidecar:v1:"
	formerVersion = 1
	formerKeyEnd  = 5
	formerHead    = formerKeyEnd + 8
)

// formerRefreshToken reads the refresh token of key in the first format. ok is false if Redis holds no such token, or
// if the ACL does not allow reading it.
func (s *shared) formerRefreshToken(ctx context.Context, key Key) (token secret.Text, ok bool, err error) {
	for _, n := range s.keys.names(key) {
		name := formerPrefix + strings.TrimPrefix(n.text, keyPrefix) + refreshSuffix
		look := &command{step: "get", keys: []string{name}}
		err := s.pipeline.do(ctx, look)
		if redis.HasErrorPrefix(err, "NOPERM") {
			return token, false, nil
		}
		if err != nil {
			return token, false, err
		}
		raw, _ := look.reply.(string)
		if raw == "" {
			continue
		}
		nonceEnd := formerHead + n.key.aead.NonceSize()
		if len(raw) < nonceEnd || raw[0] != formerVersion || raw[1:formerKeyEnd] != string(n.key.id[:]) {
			return token, false, errUnreadable
		}
		plain, err := n.key.aead.Open(nil, []byte(raw[formerHead:nonceEnd]), []byte(raw[nonceEnd:]),
			[]byte(raw[:formerHead]+name))
		if err != nil {
			return token, false, errUnreadable
		}
		return secret.Hide(string(plain)), true, nil
	}
	return token, false, nil
}

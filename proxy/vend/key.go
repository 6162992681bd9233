package vend

import (
	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
)

// clientKey is the part of the key that all requests have in common.
func clientKey(authURL, clientID string) string {
	key := cache.NewKey(authURL, clientID)
	return string(key[:])
}

// Key contains everything that the answer to req depends on.
func (b *Broker) Key(req upstream.Request) cache.Key {
	parts := append(make([]string, 0, 8), b.client, req.Path, req.Type, req.UserID.Reveal())
	return cache.NewKey(append(parts, req.Scopes...)...)
}

// RefreshTokenKey is the key of a user's refresh token, independent of the token with which it came.
func RefreshTokenKey(authURL, clientID string, user secret.Text) cache.Key {
	return cache.NewKey("refresh_token", authURL, clientID, user.Reveal())
}

package vend

import (
	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
)

// clientKey stands for what all requests have in common in their keys.
func clientKey(authURL, clientID string) string {
	key := cache.NewKey(authURL, clientID)
	return string(key[:])
}

// Key holds everything that the answer to req depends on.
func (b *Broker) Key(req upstream.Request) cache.Key {
	parts := append(make([]string, 0, 8), b.client, req.Path, req.Type, req.UserID.Reveal())
	return cache.NewKey(append(parts, req.Scopes...)...)
}

// RefreshTokenKey is the key of the refresh token of a user, whatever token it came with.
func RefreshTokenKey(authURL, clientID string, user secret.Text) cache.Key {
	return cache.NewKey("refresh_token", authURL, clientID, user.Reveal())
}

package cache

import (
	"context"
	"errors"
	"log/slog"
	"token-sidecar/internal/secret"
)

const refreshSuffix = ":refresh"

// KeepRefresh keeps the newest refresh token of key in Redis, without end. When Redis cannot be asked, it is
// written as soon as it is back. Without Redis it does nothing.
func (c *Cache) KeepRefresh(ctx context.Context, key Key, token secret.Text) {
	if c.redis == nil {
		return
	}
	if err := c.redis.putRefresh(ctx, key, token); err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.unkept[key]; !known && len(c.unkept) >= maxPending {
		c.metrics.lostRefresh.Inc()
		c.log.Error("a refresh token was not kept: Redis is down and too many others wait to be written", slog.Int("waiting", len(c.unkept)))
		return
	}
	c.unkept[key] = token
}

// writeUnkept writes the refresh tokens that could not be written before.
func (c *Cache) writeUnkept(ctx context.Context) {
	c.mu.Lock()
	unkept := c.unkept
	c.unkept = map[Key]secret.Text{}
	c.mu.Unlock()
	for key, token := range unkept {
		if c.redis.putRefresh(ctx, key, token) == nil {
			continue
		}
		c.mu.Lock()
		if _, newer := c.unkept[key]; !newer {
			c.unkept[key] = token
		}
		c.mu.Unlock()
	}
}

// Refresh returns the refresh token that was kept for key last. ok is false when there is none. The error is
// that Redis cannot be asked, or that what it holds was sealed with a key that is not in use any more.
func (c *Cache) Refresh(ctx context.Context, key Key) (token secret.Text, ok bool, err error) {
	if c.redis == nil {
		return token, false, errors.New("cache: there is no Redis to keep refresh tokens in")
	}
	for _, sealer := range c.redis.keys.all() {
		name := sealer.nameOf(key) + refreshSuffix
		var raw string
		err := c.redis.step(ctx, "get", func(ctx context.Context) (err error) {
			raw, err = c.redis.client.Get(ctx, name).Result()
			return err
		})
		if err != nil {
			return token, false, err
		}
		if raw == "" {
			continue
		}
		plain, _, err := c.redis.keys.open(raw, name)
		if err != nil {
			return token, false, err
		}
		return secret.Hide(string(plain)), true, nil
	}
	return token, false, nil
}

func (r *Redis) putRefresh(ctx context.Context, key Key, token secret.Text) error {
	sealer := r.keys.all()[0]
	name := sealer.nameOf(key) + refreshSuffix
	value := sealer.seal([]byte(token.Reveal()), name, 0)
	return r.step(ctx, "put", func(ctx context.Context) error {
		return r.client.Set(ctx, name, value, 0).Err()
	})
}

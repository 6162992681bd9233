package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"token-sidecar/internal/secret"
)

// A refreshToken is one that Redis holds or has yet to take. Its value in Redis is a stamp of 16 decimal digits, the
// time of its request in microseconds, followed by the sealed token.
type refreshToken struct {
	token secret.Text
	stamp int64
}

const stampDigits = 16

// KeepRefreshToken keeps the newest refresh token of key in Redis without expiry; sent is when it was requested. If
// Redis cannot be written, it is written as soon as that is possible. Without Redis this does nothing.
func (c *Cache) KeepRefreshToken(ctx context.Context, key Key, token secret.Text, sent time.Time) {
	if c.shared == nil {
		return
	}
	kept := refreshToken{token, sent.UnixMicro()}
	if c.shared.putRefreshToken(ctx, key, kept) == nil {
		return
	}
	c.mu.Lock()
	former, known := c.refreshTokens[key]
	full := !known && len(c.refreshTokens) >= maxPending
	if !full && kept.stamp >= former.stamp {
		c.refreshTokens[key] = kept
	}
	c.mu.Unlock()
	if full {
		c.metrics.lostRefresh.Inc()
		c.log.Error("a refresh token was not kept: too many others wait to be written to Redis",
			slog.Int("waiting", maxPending))
		return
	}
	c.flush()
}

// writePendingRefreshTokens writes the refresh tokens that could not be written before, until one fails again.
func (c *Cache) writePendingRefreshTokens(ctx context.Context) {
	c.mu.Lock()
	waiting := maps.Clone(c.refreshTokens)
	c.mu.Unlock()
	for key, token := range waiting {
		if c.shared.putRefreshToken(ctx, key, token) != nil {
			return
		}
		c.mu.Lock()
		if c.refreshTokens[key].stamp == token.stamp {
			delete(c.refreshTokens, key)
		}
		c.mu.Unlock()
	}
}

// RefreshToken returns the newest refresh token kept for key; ok is false if Redis holds none. It fails if Redis
// cannot be read, or if the value was sealed with a key that is not in use.
func (c *Cache) RefreshToken(ctx context.Context, key Key) (token secret.Text, ok bool, err error) {
	if c.shared == nil {
		return token, false, errors.New("cache: there is no Redis to keep refresh tokens in")
	}
	names := c.shared.keys.names(key)
	commands := make([]*command, len(names))
	for i, n := range names {
		commands[i] = &command{step: "get", keys: []string{n.text + refreshSuffix}}
	}
	if err := c.shared.pipeline.do(ctx, commands...); err != nil {
		return token, false, err
	}
	newest := int64(-1)
	for i, command := range commands {
		raw, _ := command.reply.(string)
		if raw == "" {
			continue
		}
		if len(raw) < stampDigits {
			err = errUnreadable
			continue
		}
		stamp, parseErr := strconv.ParseInt(raw[:stampDigits], 10, 64)
		if parseErr != nil || stamp <= newest {
			continue
		}
		plain, openErr := c.shared.keys.open(raw[stampDigits:], names[i].text+refreshSuffix)
		if openErr != nil {
			err = openErr
			continue
		}
		newest, token, ok = stamp, secret.Hide(string(plain)), true
	}
	if ok {
		return token, true, nil
	}
	if err != nil {
		return token, false, err
	}
	return c.shared.formerRefreshToken(ctx, key)
}

func (s *shared) putRefreshToken(ctx context.Context, key Key, token refreshToken) error {
	if !s.up.writable() {
		return errUnavailable
	}
	n := s.keys.names(key)[0]
	name := n.text + refreshSuffix
	_, err := s.pipeline.twice(ctx, func() []*command {
		return []*command{{
			step: "put", script: refreshScript, keys: []string{name},
			args: []any{fmt.Sprintf("%0*d", stampDigits, token.stamp), n.key.seal([]byte(token.token.Reveal()), name)},
		}}
	})
	return err
}

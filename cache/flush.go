package cache

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// flushInterval is roughly how often pending writes to Redis are tried again.
	flushInterval = 200 * time.Millisecond
	// flushers is how many tokens are written at the same time.
	flushers = 8
)

// flush starts the background writer of what is pending, unless it runs already.
func (c *Cache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flushing {
		return
	}
	c.flushing = true
	c.background.Go(func() {
		for c.flushOnce() {
			timer := time.NewTimer(flushInterval/2 + rand.N(flushInterval)) //nolint:gosec // jitter
			select {
			case <-timer.C:
			case <-c.life.Done():
				timer.Stop()
				return
			}
		}
	})
}

// flushOnce writes what it can: Redis may refuse one thing and take others. It returns false when nothing is pending;
// flush must then be called again.
func (c *Cache) flushOnce() bool {
	for _, f := range c.pending.list() {
		if !c.tell(c.life, f, tombstoneLife) && !c.shared.up.writable() {
			return true // Redis takes nothing, so the rest can wait
		}
	}
	c.writePendingRefreshTokens(c.life)
	c.shareUnshared(c.life)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushing = c.pending.len() > 0 || len(c.refreshTokens) > 0 || len(c.unshared) > 0
	return c.flushing
}

// shareLater notes that the token of key, which is in memory, could not be written to Redis. When too many are waiting,
// the token is written when memory next checks with Redis.
func (c *Cache) shareLater(key Key) {
	c.mu.Lock()
	if len(c.unshared) < maxPending {
		c.unshared[key] = true
	}
	c.mu.Unlock()
	c.flush()
}

// shareUnshared writes the tokens that could not be written before.
func (c *Cache) shareUnshared(ctx context.Context) {
	c.mu.Lock()
	waiting := slices.Collect(maps.Keys(c.unshared))
	c.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(flushers)
	for _, key := range waiting {
		if !c.shared.up.writable() || ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if _, _, err := c.LookShared(ctx, key); err == nil {
				c.mu.Lock()
				delete(c.unshared, key)
				c.mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
}

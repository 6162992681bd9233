package vend

import (
	"time"
	"token-sidecar/cache"
)

// A negativeCache remembers briefly which keys the auth service refused, because callers ask again at once.
type negativeCache struct {
	ttl     time.Duration // 0: remember nothing
	entries *cache.Bounded[negativeEntry]
}

type negativeEntry struct {
	err   error
	until time.Time // monotonic
}

func newNegativeCache(ttl time.Duration, size int) *negativeCache {
	return &negativeCache{ttl: ttl, entries: cache.NewBounded(size, func(e negativeEntry) bool { return !time.Now().Before(e.until) })}
}

func (c *negativeCache) get(key cache.Key) error {
	entry, ok := c.entries.Get(key)
	if !ok || !time.Now().Before(entry.until) {
		return nil
	}
	return entry.err
}

func (c *negativeCache) put(key cache.Key, err error) {
	if c.ttl > 0 {
		c.entries.Put(key, negativeEntry{err: err, until: time.Now().Add(c.ttl)})
	}
}

func (c *negativeCache) remove(key cache.Key) {
	c.entries.Change(key, func(old negativeEntry) (negativeEntry, bool) { return old, false })
}

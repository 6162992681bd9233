package proxy

import (
	"time"
	"token-sidecar/cache"

	"github.com/maypok86/otter/v2"
)

// refusals remember briefly which keys the auth service refused, because callers ask again at once.
type refusals struct {
	ttl   time.Duration // 0: remember nothing
	cache *otter.Cache[cache.Key, refusedUntil]
}

type refusedUntil struct {
	err  error
	time time.Time // monotonic
}

func newRefusals(ttl time.Duration, entries int) *refusals {
	return &refusals{ttl: ttl, cache: otter.Must(&otter.Options[cache.Key, refusedUntil]{MaximumSize: entries})}
}

func (r *refusals) get(key cache.Key) error {
	refused, ok := r.cache.GetIfPresent(key)
	if !ok || !time.Now().Before(refused.time) {
		return nil
	}
	return refused.err
}

func (r *refusals) put(key cache.Key, err error) {
	if r.ttl > 0 {
		r.cache.Set(key, refusedUntil{err: err, time: time.Now().Add(r.ttl)})
	}
}

func (r *refusals) remove(key cache.Key) { r.cache.Invalidate(key) }

package proxy

import (
	"time"
	"token-sidecar/cache"
)

// refusals remember briefly which keys the auth service refused, because callers ask again at once.
type refusals struct {
	ttl  time.Duration // 0: remember nothing
	kept *cache.Bounded[refusedUntil]
}

type refusedUntil struct {
	err  error
	time time.Time // monotonic
}

func newRefusals(ttl time.Duration, entries int) *refusals {
	return &refusals{ttl: ttl, kept: cache.NewBounded(entries, func(r refusedUntil) bool { return !time.Now().Before(r.time) })}
}

func (r *refusals) get(key cache.Key) error {
	refused, ok := r.kept.Get(key)
	if !ok || !time.Now().Before(refused.time) {
		return nil
	}
	return refused.err
}

func (r *refusals) put(key cache.Key, err error) {
	if r.ttl > 0 {
		r.kept.Put(key, refusedUntil{err: err, time: time.Now().Add(r.ttl)})
	}
}

func (r *refusals) remove(key cache.Key) {
	r.kept.Change(key, func(old refusedUntil) (refusedUntil, bool) { return old, false })
}

package proxy

import (
	"context"
	"math/rand/v2"
	"time"
	"token-sidecar/cache"
	"token-sidecar/upstream"
)

const (
	// firstHold is how long a renewal keeps others off, and the first step of the backoff of failing ones.
	firstHold = 5 * time.Second
	// longestHold bounds the backoff.
	longestHold = time.Minute
)

// hold is how long nobody tries to renew a token again after that many failures. Short lives need short
// steps, or there would be no second try.
func (l Lifetimes) hold(e *cache.Entry, failures int) time.Duration {
	lead := l.lead(e.Life)
	return max(time.Millisecond, min(min(firstHold, lead/8)<<min(failures, 6), longestHold, lead/2))
}

// renewIfDue starts a renewal in the background when entry is in its window and nobody else does it. Whoever
// was served entry does not wait, and may leave.
func (v *vendor) renewIfDue(key cache.Key, req upstream.Request, entry *cache.Entry, now time.Time) {
	if !v.lifetimes.renewable(entry, now) {
		return
	}
	hold := v.lifetimes.hold(entry, entry.Failures())
	hold = hold/2 + rand.N(hold/2+1) //nolint:gosec // jitter
	if !entry.Claim(now, hold) {     // marked before the goroutine starts, or each hit until then would start one
		return
	}
	v.flights.Go(func() { v.renew(key, req, entry, hold) })
}

func (v *vendor) renew(key cache.Key, req upstream.Request, entry *cache.Entry, hold time.Duration) {
	ctx, cancel := context.WithTimeout(v.life, v.flightLimit())
	defer cancel()
	if !v.tokens.Claim(ctx, key, entry, hold) {
		v.metrics.renewals.WithLabelValues("left_to_another").Inc()
		return
	}
	_, err := v.shareFetch(ctx, key, req, entry.ID)
	switch {
	case err == nil:
		v.metrics.renewals.WithLabelValues("ok").Inc()
		v.renewing.succeeded()
	case v.life.Err() != nil:
		return
	default:
		v.metrics.renewals.WithLabelValues("failed").Inc()
		entry.Failed()
		entry.Postpone(time.Now(), hold)
		v.renewing.failed(err)
	}
}

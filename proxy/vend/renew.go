package vend

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"token-sidecar/cache"
	"token-sidecar/upstream"
)

const (
	// firstHold is how long a renewal excludes others. It is also the first step of the backoff after failures.
	firstHold = 5 * time.Second
	// longestHold bounds the backoff.
	longestHold = time.Minute
)

// hold is the pause before the next renewal of a token after that many failures. Short-lived tokens need short pauses,
// or there would be no second try.
func (l Lifetimes) hold(e *cache.Entry, failures int) time.Duration {
	first, longest := l.holds(e)
	return min(first<<min(failures, 6), longest)
}

// holds are the first and the longest of these pauses.
func (l Lifetimes) holds(e *cache.Entry) (first, longest time.Duration) {
	lead := l.lead(e.Life)
	longest = max(time.Millisecond, min(longestHold, lead/2))
	return max(time.Millisecond, min(firstHold, lead/8, longest)), longest
}

// renewIfDue starts a renewal in the background if entry is due and no other renewal runs. The caller who was served
// entry does not wait for it, and may leave.
func (b *Broker) renewIfDue(key cache.Key, req upstream.Request, entry *cache.Entry, now time.Time) {
	if !b.opts.Lifetimes.renewable(entry, now) {
		return
	}
	hold := b.opts.Lifetimes.hold(entry, entry.Failures())
	hold = hold/2 + rand.N(hold/2+1) //nolint:gosec // jitter
	if !entry.Claim(now, hold) {     // before the goroutine starts, or each hit until then would start another
		return
	}
	if b.begin() {
		go func() {
			defer b.flights.Done()
			b.renew(key, req, entry, hold)
		}()
	}
}

func (b *Broker) renew(key cache.Key, req upstream.Request, entry *cache.Entry, hold time.Duration) {
	ctx, cancel := context.WithTimeout(b.life, b.flightLimit())
	defer cancel()
	req.Key, req.Background = key, true
	if b.opts.AuthService.Held(req) != nil {
		b.metrics.renewals.WithLabelValues("put_off").Inc()
		return
	}
	if !b.claim(ctx, key, entry) {
		b.metrics.renewals.WithLabelValues("left_to_another").Inc()
		return
	}
	t, err := b.shareFetch(ctx, key, req, cache.Want{Avoid: entry, Anyway: true})
	switch {
	case err == nil && t.Entry.SharesToken(entry):
		// The auth service returns the same token until it expires.
		b.metrics.renewals.WithLabelValues("same_token").Inc()
		entry.Failed()
		entry.Postpone(time.Now(), hold)
	case err == nil:
		b.metrics.renewals.WithLabelValues("ok").Inc()
		b.renewing.End()
	case isPutOff(err):
		b.metrics.renewals.WithLabelValues("put_off").Inc()
	case b.life.Err() != nil:
		return
	default:
		b.metrics.renewals.WithLabelValues("failed").Inc()
		entry.Failed()
		entry.Postpone(time.Now(), hold)
		b.renewing.Fail(causeOf(err))
	}
}

// causeOf returns why a fetch failed, in words from a fixed list.
func causeOf(err error) string {
	var e *upstream.Error
	switch {
	case errors.As(err, &e):
		return e.Cause()
	case errors.Is(err, ErrTooLate):
		return "token came too late"
	default:
		return "given up"
	}
}

// claim reports whether this sidecar may renew entry; the whole fleet shares the backoff.
func (b *Broker) claim(ctx context.Context, key cache.Key, entry *cache.Entry) bool {
	first, longest := b.opts.Lifetimes.holds(entry)
	return b.opts.Cache.Claim(ctx, key, entry, first, longest)
}

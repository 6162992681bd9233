package upstream

import (
	"math/rand/v2"
	"sync"
	"time"

	"token-sidecar/internal/secret"
)

const (
	// firstBackoff is how long a key is left alone after its first failed call; each further failure doubles it.
	firstBackoff = 500 * time.Millisecond
	// maxFailing bounds how many failing keys are remembered, at some 300 bytes each.
	maxFailing = 4096
)

// A tokenKey identifies a token that may be asked for.
type tokenKey = [32]byte

// backoffs leave each key alone for a while that fails, and no other: one user whose calls fail must not cost the
// others anything, and is not to be asked for again and again either.
type backoffs struct {
	longest time.Duration // BREAKER_OPEN_FOR

	mu   sync.Mutex
	keys map[tokenKey]*failing
}

// failing is a key whose last call failed.
type failing struct {
	times int
	until time.Time
	last  *Error
}

func newBackoffs(longest time.Duration) *backoffs {
	return &backoffs{longest: longest, keys: map[tokenKey]*failing{}}
}

// check returns how the last call of key failed while it is left alone, else nil. again reports whether the key is
// known to fail, so that one attempt is enough to find out whether it still does.
func (b *backoffs) check(key tokenKey, now time.Time) (held *Error, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.keys[key]
	if f == nil || b.stale(f, now) {
		return nil, false
	}
	if now.Before(f.until) {
		return f.last.held(f.until.Sub(now)), true
	}
	return nil, f.times > 0
}

// failed leaves key alone after a failure, for the backoff or until the time that the auth service named, if that is
// later.
func (b *backoffs) failed(key tokenKey, why *Error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.keys[key]
	if f == nil || b.stale(f, now) {
		b.makeRoom()
		f = &failing{}
		b.keys[key] = f
	}
	var d time.Duration
	if why.Kind != RateLimited { // a 429 speaks of how much is asked, not of this key
		d = b.duration(f.times)
		f.times++
	}
	f.until, f.last = now.Add(max(d, why.RetryAfter)), why.kept()
}

// duration is the backoff after that many failures before: up to a quarter of it is left out at random, so that those
// who failed together do not come back together.
func (b *backoffs) duration(before int) time.Duration {
	d := b.longest
	if doubled := firstBackoff << min(before, 20); doubled < d {
		d = doubled
	}
	return d - rand.N(d/4+1) //nolint:gosec // jitter is no secret
}

// succeeded forgets that key failed.
func (b *backoffs) succeeded(key tokenKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keys, key)
}

// forget forgets all failures of that kind.
func (b *backoffs) forget(kind Kind) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, f := range b.keys {
		if f.last.Kind == kind {
			delete(b.keys, key)
		}
	}
}

// stale reports whether f is so long ago that the next failure would be a first one.
func (b *backoffs) stale(f *failing, now time.Time) bool { return now.Sub(f.until) > 2*b.longest }

// makeRoom keeps the number of keys within its bound. Whichever goes costs the auth service an attempt at most.
func (b *backoffs) makeRoom() {
	for key := range b.keys {
		if len(b.keys) < maxFailing {
			return
		}
		delete(b.keys, key)
	}
}

// count returns how many keys are left alone now.
func (b *backoffs) count(now time.Time) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.keys {
		if now.Before(f.until) {
			n++
		}
	}
	return n
}

// kept is e without what is large or speaks of one request.
func (e *Error) kept() *Error {
	copied := *e
	copied.Body = secret.Value[[]byte]{}
	if !printableCode(copied.Code) {
		copied.Code = ""
	}
	return &copied
}

// held is e as it is told to those whose call did not go out because of it.
func (e *Error) held(left time.Duration) *Error {
	copied := *e.kept()
	copied.notAsked, copied.RetryAfter = true, left
	return &copied
}

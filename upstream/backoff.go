package upstream

import (
	"math/rand/v2"
	"sync"
	"time"

	"token-sidecar/internal/secret"
)

const (
	// firstBackoff is the pause of a key after its first failed call; each further failure doubles it.
	firstBackoff = 500 * time.Millisecond
	// maxFailing bounds how many failing keys are remembered, at about 300 bytes each.
	maxFailing = 4096
)

// A tokenKey identifies the token that a call asks for.
type tokenKey = [32]byte

// backoffs pause each key whose calls fail, and only that key: one user whose calls fail must not affect others, and
// must not be asked for over and over either.
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

// check returns how the last call of key failed, while key is paused, else nil. again reports whether key is known to
// fail, in which case one attempt is enough to find out whether it still does.
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

// failed pauses key after a failure, for the backoff or until the time that the auth service named, whichever is later.
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
	if why.Kind != RateLimited { // a 429 is about the number of calls, not about this key
		d = b.duration(f.times)
		f.times++
	}
	f.until, f.last = now.Add(max(d, why.RetryAfter)), why.kept()
}

// duration is the pause after that many earlier failures. Up to a quarter is subtracted at random, so that callers who
// failed together do not return together.
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

// stale reports whether f is so old that the next failure would count as the first.
func (b *backoffs) stale(f *failing, now time.Time) bool { return now.Sub(f.until) > 2*b.longest }

// makeRoom keeps the number of keys within its bound. Dropping a key costs the auth service one more attempt at most.
func (b *backoffs) makeRoom() {
	for key := range b.keys {
		if len(b.keys) < maxFailing {
			return
		}
		delete(b.keys, key)
	}
}

// count returns how many keys are paused.
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

// kept returns e without what is large or specific to one request.
func (e *Error) kept() *Error {
	copied := *e
	copied.Body = secret.Value[[]byte]{}
	if !printableCode(copied.Code) {
		copied.Code = ""
	}
	return &copied
}

// held returns e for calls that did not go out because of it.
func (e *Error) held(left time.Duration) *Error {
	copied := *e.kept()
	copied.notAsked, copied.RetryAfter = true, left
	return &copied
}

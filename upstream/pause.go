package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"token-sidecar/internal/secret"
)

const (
	// maxPause bounds a Retry-After: a wrong one must not stop the sidecar for a day.
	maxPause = time.Hour
	// defaultPause is the pause after a 429 that names none.
	defaultPause = time.Second
)

// A pause is a time in which nobody asks, because an answer said so. It is shared by all calls.
type pause struct{ current atomic.Pointer[paused] }

type paused struct {
	until time.Time
	why   *Error
}

// check returns nil when calls may go out, else the reason why not, with the time that is left.
func (p *pause) check(now time.Time) *Error {
	in := p.current.Load()
	if in == nil || !now.Before(in.until) {
		return nil
	}
	held := *in.why
	held.held = true
	// It was the answer to another request and may speak of that one's user.
	held.Body = secret.Value[[]byte]{}
	if held.Kind != ClientRefused {
		held.RetryAfter = in.until.Sub(now)
	}
	return &held
}

// set holds all calls back until then. A pause in force that lasts longer stays.
func (p *pause) set(until time.Time, why *Error) {
	next := &paused{until: until, why: why}
	for {
		in := p.current.Load()
		if in != nil && in.until.After(until) {
			return
		}
		if p.current.CompareAndSwap(in, next) {
			return
		}
	}
}

// lift ends a pause that was due to our credentials.
func (p *pause) lift() {
	if in := p.current.Load(); in != nil && in.why.Kind == ClientRefused {
		p.current.CompareAndSwap(in, nil)
	}
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or an HTTP date. 0 when there is
// none that can be read.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxPause/time.Second))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		// Against the answer's own date where it has one: the two clocks may differ.
		if sent, err := http.ParseTime(header.Get("Date")); err == nil {
			now = sent
		}
		return min(max(0, date.Sub(now)), maxPause)
	}
	return 0
}

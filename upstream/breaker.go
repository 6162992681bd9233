package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A breaker stops calls at one path of the auth service while that fails: it opens after BREAKER_FAILURES failed calls
// in a row, and after BREAKER_OPEN_FOR one trial decides whether it closes.
//
// Failures of a single key open it too, but then the problem may be that key and not the auth service. A call of
// another key is therefore let through at once, as a detour around the open breaker. If it succeeds the breaker closes;
// if it fails, several keys fail. There is one detour at a time, and calls that want the next one wait for its outcome.
type breaker struct {
	failing int // BREAKER_FAILURES
	openFor time.Duration
	opened  func() // counts

	mu sync.Mutex // guards the following; the methods of cb are called with it held, so onStateChange must not lock it
	cb *gobreaker.TwoStepCircuitBreaker[struct{}]
	// row is about the current row of failed calls.
	row row
	// trialAt is when the open breaker will let a trial through.
	trialAt time.Time
	// trial is set during the trial of the half-open breaker.
	trial *passage
	// detour is set during a detour, and closed when it ends.
	detour chan struct{}
	// cause is the last failure before the breaker last opened, and first the earliest failure of that row.
	cause, first *Error
	// openedAt is when the breaker first opened since it was last closed.
	openedAt time.Time
}

// A row describes failed calls in a row.
type row struct {
	key     tokenKey // of the first failure
	several bool     // whether there are failures of other keys too
	first   *Error   // nil: there was no failure
	last    *Error
}

// blamesOther reports whether all failures are of one key, and key is another one.
func (r row) blamesOther(key tokenKey) bool { return r.first != nil && !r.several && r.key != key }

func (r *row) add(key tokenKey, err error) {
	failure := &Error{Kind: Unavailable}
	errors.As(err, &failure)
	r.last = failure.kept()
	if r.first == nil {
		r.key, r.first = key, r.last
	}
	r.several = r.several || r.key != key
}

// A passage is a call that the breaker let through. It ends with settle.
type passage struct {
	b    *breaker
	cb   *gobreaker.TwoStepCircuitBreaker[struct{}] // the one in use when the call started
	key  tokenKey
	done func(error) // nil on a detour
	// trial is set if the call decides whether an open breaker closes.
	trial bool
	// detour is set if other calls wait for the outcome of this one.
	detour chan struct{}
}

// single reports whether the call should be a single attempt, because it will most likely fail.
func (p *passage) single() bool { return p.trial && p.detour == nil }

// newBreaker returns a closed breaker. opened is called each time that it opens, and must not call its methods.
func newBreaker(failing int, openFor time.Duration, opened func()) *breaker {
	b := &breaker{failing: failing, openFor: openFor, opened: opened}
	b.reset()
	return b
}

// reset closes the breaker.
func (b *breaker) reset() {
	var cb *gobreaker.TwoStepCircuitBreaker[struct{}]
	cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      b.openFor,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= b.failing },
		IsSuccessful: func(err error) bool { return !isFailure(err) },
		IsExcluded:   isNoVerdict,
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if cb == b.cb {
				b.onStateChange(to)
			}
		},
	})
	b.cb, b.trial = cb, nil
}

// enter lets a call of key through, or returns why not. With wait, it waits for a detour to end.
func (b *breaker) enter(ctx context.Context, key tokenKey, wait bool) (*passage, *Error) {
	for {
		p, detour := b.tryEnter(key)
		switch {
		case p != nil:
			return p, nil
		case detour == nil || !wait:
			return nil, b.rejection()
		}
		select {
		case <-detour:
		case <-ctx.Done():
			return nil, b.rejection()
		}
	}
}

// tryEnter returns nil and the detour in progress, if that is what the call would have to wait for.
func (b *breaker) tryEnter(key tokenKey) (*passage, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &passage{b: b, cb: b.cb, key: key}
	other := b.row.blamesOther(key)
	if b.detour != nil && other {
		return nil, b.detour
	}
	var err error
	p.done, err = b.cb.Allow()
	switch {
	case err != nil && !other:
		return nil, nil
	case err == nil && b.cb.State() == gobreaker.StateClosed:
		return p, nil
	}
	p.trial = true
	if err == nil {
		b.trial = p
	}
	if other {
		b.detour = make(chan struct{})
		p.detour = b.detour
	}
	return p, nil
}

// peek returns why a call of key would not be let through at present. One that would wait for a detour would be.
func (b *breaker) peek(key tokenKey) *Error {
	b.mu.Lock()
	state := b.cb.State()
	free := state == gobreaker.StateClosed || (state == gobreaker.StateHalfOpen && b.trial == nil) ||
		b.row.blamesOther(key)
	b.mu.Unlock()
	if free {
		return nil
	}
	return b.rejection()
}

// overtaken returns why the call may not go out after all: the breaker has opened meanwhile.
func (p *passage) overtaken() *Error {
	b := p.b
	b.mu.Lock()
	free := p.trial || b.cb.State() == gobreaker.StateClosed || b.row.blamesOther(p.key)
	b.mu.Unlock()
	if free {
		return nil
	}
	return b.rejection()
}

// settle tells the breaker the outcome of the call.
func (p *passage) settle(err error) {
	b := p.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trial == p {
		b.trial = nil
	}
	if p.detour != nil {
		close(p.detour)
		if b.detour == p.detour {
			b.detour = nil
		}
	}
	if p.cb != b.cb {
		return // the breaker was closed meanwhile
	}
	if isFailure(err) && !isNoVerdict(err) {
		b.row.add(p.key, err)
	}
	if p.done != nil {
		p.done(err)
	}
	if isFailure(err) || isNoVerdict(err) {
		return
	}
	// A success also closes an open breaker, unless it is that of the failing key, even if the call went out before.
	if b.cb.State() != gobreaker.StateClosed {
		if !p.trial && !b.row.blamesOther(p.key) {
			return
		}
		b.reset()
		b.onStateChange(gobreaker.StateClosed)
	}
	b.row = row{}
}

// onStateChange is called by cb, with b.mu held.
func (b *breaker) onStateChange(to gobreaker.State) {
	switch to {
	case gobreaker.StateOpen:
		now := time.Now()
		if b.openedAt.IsZero() {
			b.openedAt = now
		}
		b.trialAt = now.Add(b.openFor)
		b.cause, b.first = b.row.last, b.row.first
		b.opened()
	case gobreaker.StateClosed:
		b.openedAt = time.Time{}
	}
}

// rejection returns the error of a call that is not let through.
func (b *breaker) rejection() *Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &Error{
		Kind: Unavailable, RetryAfter: max(time.Until(b.trialAt), time.Second),
		detail: "not asked, the circuit breaker is open", notAsked: true,
	}
	if b.cause != nil {
		e.detail += " since " + b.cause.Error()
		e.cause = b.cause.Cause()
	}
	return e
}

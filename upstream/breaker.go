package upstream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// A breaker keeps calls from one path of the auth service while it fails: after so many failed calls in a row it is
// open, and after BREAKER_OPEN_FOR one trial tells whether it closes.
//
// Failures of one key alone open it too, but then the bad thing may be that key and not the auth service. So a call of
// another key is let through at once, as a detour around the open breaker: its success closes the breaker, its failure
// means that several keys fail. There is one detour at a time, and who wants the next one waits for how it ends.
type breaker struct {
	failing int // BREAKER_FAILURES
	openFor time.Duration
	opened  func() // counts

	mu sync.Mutex // guards what follows; the methods of cb are called with it held, so onStateChange must not lock it
	cb *gobreaker.TwoStepCircuitBreaker[struct{}]
	// row are the failed calls in a row.
	row row
	// trialAt is when the open breaker lets a trial through.
	trialAt time.Time
	// trial is set while the half-open breaker's trial is under way.
	trial *passage
	// detour is set while there is one, and closed when it ends.
	detour chan struct{}
	// cause is the last failure before the breaker last opened, and first the one that its row of failures began with.
	cause, first *Error
	// openedAt is when the breaker opened first since it was last closed.
	openedAt time.Time
}

// A row is what is known of failed calls in a row.
type row struct {
	key     tokenKey // of the first of them
	several bool     // not all of them are of that key
	first   *Error   // nil: there is none
	last    *Error
}

// blamesOther reports whether all failures are of one key, and it is not this one.
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

// A passage is a call that the breaker has let through. It ends with settle.
type passage struct {
	b    *breaker
	cb   *gobreaker.TwoStepCircuitBreaker[struct{}] // that was in force
	key  tokenKey
	done func(error) // nil on a detour
	// trial is set when the call decides whether an open breaker closes.
	trial bool
	// detour is set when others wait for how the call ends.
	detour chan struct{}
}

// single reports whether the call is to be a single attempt, because most likely it fails.
func (p *passage) single() bool { return p.trial && p.detour == nil }

// newBreaker returns a closed breaker. opened is called each time that it opens, and must not call it back.
func newBreaker(failing int, openFor time.Duration, opened func()) *breaker {
	b := &breaker{failing: failing, openFor: openFor, opened: opened}
	b.reset()
	return b
}

// reset puts a closed breaker in force.
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

// enter lets a call of key through, or returns why not. With wait it waits for the end of a detour.
func (b *breaker) enter(ctx context.Context, key tokenKey, wait bool) (*passage, *Error) {
	for {
		p, detour := b.tryEnter(key)
		switch {
		case p != nil:
			return p, nil
		case detour == nil || !wait:
			return nil, b.refusal()
		}
		select {
		case <-detour:
		case <-ctx.Done():
			return nil, b.refusal()
		}
	}
}

// tryEnter returns nil and the detour in progress, if it is that which stands in the way.
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

// peek returns why a call of key would not be let through now. One that would wait for a detour is.
func (b *breaker) peek(key tokenKey) *Error {
	b.mu.Lock()
	state := b.cb.State()
	free := state == gobreaker.StateClosed || (state == gobreaker.StateHalfOpen && b.trial == nil) ||
		b.row.blamesOther(key)
	b.mu.Unlock()
	if free {
		return nil
	}
	return b.refusal()
}

// overtaken returns why the call may not go out any more: the breaker has opened since.
func (p *passage) overtaken() *Error {
	b := p.b
	b.mu.Lock()
	free := p.trial || b.cb.State() == gobreaker.StateClosed || b.row.blamesOther(p.key)
	b.mu.Unlock()
	if free {
		return nil
	}
	return b.refusal()
}

// settle tells the breaker how the call ended.
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
	// A success also closes an open breaker if it was not the failing key's, though it went out before the opening.
	if b.cb.State() != gobreaker.StateClosed {
		if !p.trial && !b.row.blamesOther(p.key) {
			return
		}
		b.reset()
		b.onStateChange(gobreaker.StateClosed)
	}
	b.row = row{}
}

// onStateChange is called with b.mu held, from within cb.
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

// refusal is what a call is told that is not let through.
func (b *breaker) refusal() *Error {
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

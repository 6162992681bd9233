package upstream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// fleetTrust is how long the shared gate's answer about a hold is used without asking again.
	fleetTrust = time.Second
	// tellLimit bounds how long reporting an attempt to the shared gate may take: the answer is there, and callers wait
	// for it.
	tellLimit = 500 * time.Millisecond
)

// fleet asks the gate that all sidecars share. Where no gate is shared, or it fails, this process has
// one of its own.
type fleet struct {
	shared Gate // nil: none
	local  *LocalGate
	// longest bounds a hold: BREAKER_OPEN_FOR.
	longest time.Duration
	failed  func() // counts failed exchanges with the shared gate

	mu   sync.Mutex
	seen map[string]seen
}

// seen is the latest known hold of a path.
type seen struct {
	until   time.Time
	status  int
	heardAt time.Time
}

func newFleet(shared Gate, longest time.Duration, failed func()) *fleet {
	return &fleet{
		shared: shared, local: NewLocalGate(), longest: longest, failed: failed,
		seen: map[string]seen{},
	}
}

// A ticket lets one attempt out. It ends with settle.
type ticket struct {
	fleet *fleet
	path  string
	gate  Gate // the gate that let it out
	local bool // whether gate is the local one
	trial string
}

// enter asks whether an attempt may go out. It may, with the ticket, if neither Held nor Wait of the pass is set.
func (f *fleet) enter(ctx context.Context, ask Ask) (ticket, Pass) {
	gate := f.shared
	var pass Pass
	err := errors.ErrUnsupported
	if gate != nil {
		if pass, err = gate.Enter(ctx, ask); err != nil {
			f.failed()
		}
	}
	if err != nil {
		gate = f.local
		pass, _ = gate.Enter(ctx, ask)
	}
	if over := pass.Wait == 0 && pass.Trial == ""; over || pass.Held > 0 {
		f.heard(ask.Path, pass.Held, pass.Status)
	}
	return ticket{fleet: f, path: ask.Path, gate: gate, local: err != nil, trial: pass.Trial}, pass
}

// peek returns how long path is held, as far as this process knows, without asking the shared gate.
func (f *fleet) peek(path string, now time.Time) Pass {
	if f.shared == nil {
		return f.local.peek(path, now)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seen[path]
	if now.Sub(s.heardAt) >= fleetTrust || !now.Before(s.until) {
		return Pass{}
	}
	return Pass{Held: s.until.Sub(now), Status: s.status}
}

// last returns the latest known hold of path, for the status page.
func (f *fleet) last(path string, now time.Time) Pass {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seen[path]
	return Pass{Held: max(0, s.until.Sub(now)), Status: s.status}
}

// heard notes how long path is held.
func (f *fleet) heard(path string, d time.Duration, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d <= 0 {
		delete(f.seen, path)
		return
	}
	now := time.Now()
	f.seen[path] = seen{until: now.Add(d), status: status, heardAt: now}
}

// settle tells the gates the outcome of the attempt. Only an answer of the auth service itself is shared: that this
// process cannot reach it says nothing about the others.
func (t ticket) settle(ctx context.Context, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellLimit)
	defer cancel()
	var e *Error
	errors.As(err, &e)
	switch {
	case e != nil && e.RetryAfter > 0:
		t.hold(ctx, Hold{For: min(e.RetryAfter, t.fleet.longest), Status: e.Status})
	case t.trial == "":
	case err == nil || (e != nil && (e.Kind == Refused || e.Kind == Unauthorized || e.Kind == ClientRefused)):
		t.release(ctx, true)
		t.fleet.local.drop(t.path)
		t.fleet.heard(t.path, 0, 0)
	case isNoVerdict(err):
		t.release(ctx, false)
	}
}

// hold tells both gates, so that the local one is up to date when the shared one fails. Only one of them knows the
// trial.
func (t ticket) hold(ctx context.Context, h Hold) {
	f := t.fleet
	here, there := h, h
	if t.local {
		here.Trial = t.trial
	} else {
		there.Trial = t.trial
	}
	_ = f.local.Hold(ctx, t.path, here)
	if f.shared != nil && f.shared.Hold(ctx, t.path, there) != nil {
		f.failed()
	}
	f.heard(t.path, h.For, h.Status)
}

func (t ticket) release(ctx context.Context, success bool) {
	if err := t.gate.Release(ctx, t.path, t.trial, success); err != nil {
		t.fleet.failed()
	}
}

// error is the error of a call that p holds back.
func (p Pass) error() *Error {
	e := &Error{
		Kind: Unavailable, Status: p.Status, RetryAfter: p.Held, detail: "not asked, it asked for a pause",
		notAsked: true,
	}
	if p.Status == http.StatusTooManyRequests {
		e.Kind = RateLimited
	}
	return e
}

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
	// tellLimit is how long callers wait for the shared gate to hear of an attempt, when they could have their answer.
	tellLimit = 500 * time.Millisecond
)

// fleet asks the gate that all sidecars share. Where no gate is shared, or it fails, this process has one of its own,
// with the holds that it knows of from the shared one.
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
	untold  bool // the shared gate does not know it yet
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
	out := ticket{fleet: f, path: ask.Path, gate: f.shared}
	if untold := f.tell(ctx, ask.Path); untold.Held > 0 {
		return out, untold
	}
	asked := time.Now()
	var pass Pass
	err := errors.ErrUnsupported
	if f.shared != nil {
		if pass, err = f.shared.Enter(ctx, ask); err != nil {
			f.failed()
		}
	}
	if err != nil {
		out.gate, out.local = f.local, true
		pass, _ = f.local.Enter(ctx, ask)
	}
	out.trial = pass.Trial
	switch {
	case pass.Held > 0:
		if !out.local {
			_ = f.local.Hold(ctx, ask.Path, Hold{For: pass.Held, Status: pass.Status})
		}
		f.heard(ask.Path, pass, false)
	case pass.Wait == 0 && pass.Trial == "" && !f.knows(ask.Path).heardAt.After(asked):
		f.over(ask.Path)
	}
	return out, pass
}

// tell tells the shared gate of the hold that it does not know yet, if there is one, and returns it if that fails.
func (f *fleet) tell(ctx context.Context, path string) Pass {
	s := f.knows(path)
	left := time.Until(s.until)
	if !s.untold || left <= 0 || f.share(ctx, path, Hold{For: left, Status: s.status}) {
		return Pass{}
	}
	pass := Pass{Held: left, Status: s.status}
	f.heard(path, pass, true)
	return pass
}

// share tells the shared gate of a hold that [fleet.heard] has noted, and reports whether it has heard.
func (f *fleet) share(ctx context.Context, path string, h Hold) bool {
	if err := f.shared.Hold(ctx, path, h); err != nil {
		f.failed()
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.seen[path]; ok {
		s.untold = false
		f.seen[path] = s
	}
	return true
}

// peek returns how long path is held, as far as this process knows, without asking the shared gate.
func (f *fleet) peek(path string, now time.Time) Pass {
	if f.shared == nil {
		return f.local.peek(path, now)
	}
	s := f.knows(path)
	if now.Sub(s.heardAt) >= fleetTrust || !now.Before(s.until) {
		return Pass{}
	}
	return Pass{Held: s.until.Sub(now), Status: s.status}
}

// last returns the latest known hold of path, for the status page.
func (f *fleet) last(path string, now time.Time) Pass {
	s := f.knows(path)
	return Pass{Held: max(0, s.until.Sub(now)), Status: s.status}
}

// knows returns what this process knows of a hold of path: the zero value, if it knows of no hold.
func (f *fleet) knows(path string) seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[path]
}

// heard notes how long path is held. The shared gate must be told if this is news, or if it has yet to be told.
func (f *fleet) heard(path string, p Pass, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	untold := f.shared != nil && (news || f.seen[path].untold)
	f.seen[path] = seen{until: now.Add(p.Held), status: p.Status, heardAt: now, untold: untold}
}

// over notes that path is no longer held.
func (f *fleet) over(path string) {
	f.local.drop(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.seen, path)
}

// settle tells the gates the outcome of the attempt. Only an answer of the auth service itself is shared: that this
// process cannot reach it says nothing about the others.
func (t ticket) settle(ctx context.Context, err error) {
	ctx = context.WithoutCancel(ctx)
	var e *Error
	errors.As(err, &e)
	switch {
	case e != nil && e.RetryAfter > 0:
		t.hold(ctx, Hold{For: min(e.RetryAfter, t.fleet.longest), Status: e.Status})
	case t.trial == "":
	case err == nil || (e != nil && (e.Kind == Refused || e.Kind == Unauthorized || e.Kind == ClientRefused)):
		t.fleet.over(t.path)
		t.release(ctx, true)
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
	f.heard(t.path, Pass{Held: h.For, Status: h.Status}, true)
	if f.shared != nil {
		briefly(func() { f.share(ctx, t.path, there) })
	}
}

func (t ticket) release(ctx context.Context, success bool) {
	briefly(func() {
		if err := t.gate.Release(ctx, t.path, t.trial, success); err != nil {
			t.fleet.failed()
		}
	})
}

// briefly waits until the gate has been told, for tellLimit at most; telling goes on after that.
func briefly(tell func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tell()
	}()
	limit := time.NewTimer(tellLimit)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
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

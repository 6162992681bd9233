package upstream

import (
	"time"

	"github.com/sony/gobreaker/v2"

	"token-sidecar/internal/health"
)

// State is the state of the auth service, for the status page.
type State struct {
	// Breaker is closed, half-open or open: the worse of the two paths.
	Breaker string
	// Paused is why calls are held back (a [Kind]), empty if they are not; PausedFor is for how much longer.
	Paused    string
	PausedFor time.Duration
	// Refused is why the auth service refuses our own credentials, empty if it does not. RefusedSince is when that
	// began, and RefusedFor the time until the next trial.
	Refused      string
	RefusedSince time.Time
	RefusedFor   time.Duration
	// FailingKeys is how many tokens are paused because their calls failed.
	FailingKeys int
	// Limited says when UPSTREAM_CALLS_PER_MINUTE delayed calls.
	Limited health.Run
	// Paths are the states of the two calls.
	Paths []PathState
}

// PathState is the part of a [State] that concerns one path.
type PathState struct {
	Path string
	// whether a call was ever sent
	Asked   bool
	Breaker string
	// TrialIn is the time to the next trial while the breaker is open.
	TrialIn time.Duration
	// OneKey is set if the breaker is open because of one token alone: calls for others still go out, one at a time.
	OneKey bool
	// Cause is the failure that last opened the breaker, and FirstCause the earliest failure of that row.
	Cause, FirstCause string
	// OpenedAt is when the breaker opened, zero while it is closed.
	OpenedAt time.Time
	// Held is why a Retry-After holds the path back (a [Kind]), empty if none does; HeldCause is the answer that
	// contained it, and HeldFor for how much longer it applies.
	Held, HeldCause string
	HeldFor         time.Duration
	// Failing are the recent calls that failed, except those that did not go out.
	Failing health.Run
}

// State returns the state of the breakers and holds.
func (c *Client) State() State {
	now := time.Now()
	s := State{FailingKeys: c.failing.count(now), Limited: c.limited.Run(now)}
	worst := gobreaker.StateClosed
	for _, name := range []string{ConnectPath, AdminPath} {
		state, p := c.paths[name].breaker.state(now)
		p.Path, p.Asked, p.Failing = name, c.paths[name].asked.Load(), c.paths[name].failed.Run(now)
		worst = max(worst, state)
		if pass := c.fleet.last(name, now); pass.Held > 0 {
			why := pass.error()
			p.Held, p.HeldCause, p.HeldFor = why.Kind.String(), why.Cause(), pass.Held
		}
		if p.HeldFor > s.PausedFor {
			s.Paused, s.PausedFor = p.Held, p.HeldFor
		}
		s.Paths = append(s.Paths, p)
	}
	s.Breaker = worst.String()
	if why, since, left := c.credentials.state(now); why != nil {
		s.Refused, s.RefusedSince, s.RefusedFor = why.Cause(), since, left
		if left > 0 {
			s.Paused, s.PausedFor = ClientRefused.String(), left
		}
	}
	return s
}

func (b *breaker) state(now time.Time) (gobreaker.State, PathState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := b.cb.State()
	p := PathState{Breaker: state.String(), OpenedAt: b.openedAt}
	if b.cause != nil {
		p.Cause, p.FirstCause = b.cause.Cause(), b.first.Cause()
	}
	if state == gobreaker.StateOpen {
		p.TrialIn = max(0, b.trialAt.Sub(now))
	}
	p.OneKey = state != gobreaker.StateClosed && b.row.first != nil && !b.row.several
	return state, p
}

package upstream

import (
	"time"

	"github.com/sony/gobreaker/v2"

	"token-sidecar/internal/health"
)

// State is what a status page tells of the auth service.
type State struct {
	// Breaker is closed, half-open or open: the worst of the two paths.
	Breaker string
	// Paused is why calls are held back (a [Kind]), empty when they are not; PausedFor is how long still.
	Paused    string
	PausedFor time.Duration
	// Refused is why the auth service refuses our own credentials, empty when it does not, RefusedSince since when, and
	// RefusedFor how long nobody asks.
	Refused      string
	RefusedSince time.Time
	RefusedFor   time.Duration
	// FailingKeys is how many tokens are left alone because their calls failed.
	FailingKeys int
	// Limited is when UPSTREAM_CALLS_PER_MINUTE made calls wait.
	Limited health.Run
	// Paths are the two calls by themselves.
	Paths []PathState
}

// PathState is the part of a [State] that is of one path.
type PathState struct {
	Path string
	// Asked is whether a call ever went out.
	Asked   bool
	Breaker string
	// TrialIn is the time to the next trial while the breaker is open.
	TrialIn time.Duration
	// OneKey tells that the breaker is open because of one token alone: calls for others still go out, one at a time.
	OneKey bool
	// Cause is the failure that opened the breaker last, and FirstCause the one that its row of failures began with.
	Cause, FirstCause string
	// OpenedAt is when the breaker opened, zero while it is closed.
	OpenedAt time.Time
	// Held is what a Retry-After came with that holds the path back (a [Kind]), empty when none does, HeldCause the answer
	// it was in, and HeldFor how long still.
	Held, HeldCause string
	HeldFor         time.Duration
	// Failing are the calls that failed of late, those that did not go out aside.
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

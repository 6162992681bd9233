package upstream

import (
	"time"

	"github.com/sony/gobreaker/v2"
)

// State is what a status page tells of the auth service.
type State struct {
	// Breaker is closed, half-open or open: the worst of the two paths.
	Breaker string `json:"breaker"`
	// TrialIn is the time to the next trial while the breaker is open.
	TrialIn time.Duration `json:"trial_in"`
	// Paused is why calls are held back (a [Kind]), empty when they are not; PausedFor is how long still.
	Paused    string        `json:"paused"`
	PausedFor time.Duration `json:"paused_for"`
	// FailingKeys is how many tokens are left alone because their calls failed.
	FailingKeys int `json:"failing_keys"`
	// Paths are the two calls by themselves.
	Paths []PathState `json:"paths"`
}

// PathState is the part of a [State] that is of one path.
type PathState struct {
	Path    string        `json:"path"`
	Breaker string        `json:"breaker"`
	TrialIn time.Duration `json:"trial_in"`
	// OneKey tells that the breaker is open because of one token alone: calls for others still go out, one at a time.
	OneKey bool `json:"one_key"`
	// Cause is the failure that opened the breaker last, and OpenedAt when; empty and zero if it never did.
	Cause    string    `json:"cause"`
	OpenedAt time.Time `json:"opened_at"`
	// Held is what a Retry-After came with that holds the path back (a [Kind]), empty when none does; HeldFor is how long
	// still.
	Held    string        `json:"held"`
	HeldFor time.Duration `json:"held_for"`
}

// State returns the state of the breakers and holds.
func (c *Client) State() State {
	now := time.Now()
	s := State{FailingKeys: c.failing.count(now)}
	worst := gobreaker.StateClosed
	for _, name := range []string{ConnectPath, AdminPath} {
		state, p := c.paths[name].breaker.state(now)
		p.Path = name
		worst = max(worst, state)
		s.TrialIn = max(s.TrialIn, p.TrialIn)
		if pass := c.fleet.last(name, now); pass.Held > 0 {
			p.Held, p.HeldFor = pass.error().Kind.String(), pass.Held
		}
		if p.HeldFor > s.PausedFor {
			s.Paused, s.PausedFor = p.Held, p.HeldFor
		}
		s.Paths = append(s.Paths, p)
	}
	s.Breaker = worst.String()
	if held := c.credentials.peek(now); held != nil {
		s.Paused, s.PausedFor = held.Kind.String(), held.RetryAfter
	}
	return s
}

func (b *breaker) state(now time.Time) (gobreaker.State, PathState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := b.cb.State()
	p := PathState{Breaker: state.String(), Cause: b.cause, OpenedAt: b.openedAt}
	if state == gobreaker.StateOpen {
		p.TrialIn = max(0, b.trialAt.Sub(now))
	}
	p.OneKey = state != gobreaker.StateClosed && b.row.any && !b.row.several
	return state, p
}

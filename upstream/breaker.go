package upstream

import (
	"log/slog"
	"time"

	"github.com/sony/gobreaker/v2"
)

// onStateChange runs under the breaker's lock: it must not call the breaker.
func (c *Client) onStateChange(_ string, _, to gobreaker.State) {
	switch to {
	case gobreaker.StateOpen:
		trial := time.Now().Add(c.opts.BreakerOpenFor)
		c.openUntil.Store(&trial)
		c.metrics.opened.Inc()
		c.opts.Log.Warn("circuit breaker open: the auth service fails; cached tokens are still served, others get 503 until a trial succeeds",
			slog.Duration("trial_in", c.opts.BreakerOpenFor))
	case gobreaker.StateHalfOpen:
		c.opts.Log.Info("circuit breaker half open: the next call is a trial")
	case gobreaker.StateClosed:
		c.opts.Log.Info("circuit breaker closed: the auth service answers again")
	}
}

// untilTrial is how long the breaker stays open at least; a second while a trial is under way.
func (c *Client) untilTrial() time.Duration {
	if trial := c.openUntil.Load(); trial != nil {
		return max(time.Until(*trial), time.Second)
	}
	return time.Second
}

// State is what a status page tells of the auth service.
type State struct {
	// Breaker is closed, half-open or open.
	Breaker string `json:"breaker"`
	// TrialIn is the time to the next trial while the breaker is open.
	TrialIn time.Duration `json:"trial_in"`
	// Paused is why calls are held back (a [Kind]), empty when they are not; PausedFor is how long still.
	Paused    string        `json:"paused"`
	PausedFor time.Duration `json:"paused_for"`
}

// State returns the state of the breaker and of the pause.
func (c *Client) State() State {
	s := State{Breaker: c.breaker.State().String()}
	now := time.Now()
	if trial := c.openUntil.Load(); trial != nil && s.Breaker == gobreaker.StateOpen.String() {
		s.TrialIn = max(0, trial.Sub(now))
	}
	if in := c.pause.current.Load(); in != nil && now.Before(in.until) {
		s.Paused, s.PausedFor = in.why.Kind.String(), in.until.Sub(now)
	}
	return s
}

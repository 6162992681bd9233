package upstream

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"
)

// bareKeys is how many keys must get a 401 without an errorCode, with no success in between, to mean that our own
// credentials are refused. Fewer are treated as problems of those keys.
const bareKeys = 3

// credentials hold back all calls, at both paths, after the auth service has refused our client_id or client_secret: it
// would refuse them again, and repeated failures might lock the client out.
type credentials struct {
	pause time.Duration // 0: never hold calls back

	mu    sync.Mutex
	hold  hold
	why   *Error
	since time.Time  // the first refusal since the hold was last lifted
	bare  []tokenKey // keys that got a bare 401 since the last success
}

// enter returns why calls are held back; or, once that time is over, the number of the trial that the call becomes.
// longest is the longest that the trial may take.
func (c *credentials) enter(now time.Time, longest time.Duration) (trial uint64, held *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left, trial := c.hold.enter(now, longest)
	if left > 0 {
		return 0, c.why.held(left)
	}
	return trial, nil
}

// peek is enter, without becoming the trial.
func (c *credentials) peek(now time.Time) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := c.hold.left(now); left > 0 {
		return c.why.held(left)
	}
	return nil
}

// settle notes the outcome of a call of key, and returns the error to report: one bare 401 too many becomes a refusal
// of our credentials.
func (c *credentials) settle(key tokenKey, trial uint64, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var e *Error
	errors.As(err, &e)
	switch {
	case err == nil, e != nil && e.Kind == Refused:
		c.bare = nil
		c.hold.release(now, trial, true)
	case e != nil && e.Kind == Unauthorized && !e.notAsked:
		if !slices.Contains(c.bare, key) && len(c.bare) < bareKeys {
			c.bare = append(c.bare, key)
		}
		if len(c.bare) < bareKeys {
			c.hold.release(now, trial, false)
			return err
		}
		copied := *e
		copied.Kind = ClientRefused
		c.refused(now, trial, &copied)
		return &copied
	case e != nil && e.Kind == ClientRefused && !e.notAsked:
		c.refused(now, trial, e)
	default: // the call did not get far enough to tell
		c.hold.release(now, trial, false)
	}
	return err
}

func (c *credentials) refused(now time.Time, trial uint64, why *Error) {
	if c.pause <= 0 {
		return
	}
	if !c.hold.on() {
		c.since = now
	}
	c.hold.extend(now, c.pause, trial)
	c.why = why.kept()
}

// state returns why our credentials are refused (nil if they are not), when that began, and the time until the next
// trial.
func (c *credentials) state(now time.Time) (why *Error, since time.Time, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold.on() {
		return nil, time.Time{}, 0
	}
	return c.why, c.since, c.hold.left(now)
}

// lift ends the hold, because the secret has changed.
func (c *credentials) lift() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold, c.bare = hold{turn: c.hold.turn + 1}, nil
}

// isClientRefusal reports whether errorCode is about our own credentials.
func isClientRefusal(errorCode string) bool {
	return errorCode == "INVALID_CLIENT_ID" || errorCode == "INVALID_CLIENT_ID_OR_SECRET"
}

// isBare reports whether a refusal gives no reason beyond being unauthorized.
func isBare(status int, errorCode string) bool {
	return status == http.StatusUnauthorized && errorCode == ""
}

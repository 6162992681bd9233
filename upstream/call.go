package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"token-sidecar/internal/health"
	"token-sidecar/internal/secret"
)

// A call asks for one token, in one or more attempts.
type call struct {
	req    Request
	key    tokenKey
	path   *path
	single bool        // only one attempt: it is a trial, or the key is known to fail
	used   secret.Text // the client secret used for the last attempt

	credentials uint64   // the trial of our credentials that this call is, or 0
	passage     *passage // through the breaker
}

// path is the state of one of the auth service's paths.
type path struct {
	breaker *breaker
	retries *budget
	failed  health.Streak
	asked   atomic.Bool
}

// waitStep is how often a call that waits for the end of a short hold checks again.
const waitStep = 250 * time.Millisecond

// Token asks for a token. The error is an [*Error], or wraps [context.Canceled] when ctx was cancelled.
func (c *Client) Token(ctx context.Context, req Request) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limit())
	defer cancel()
	answer, err := c.guarded(ctx, &call{req: req, key: req.key(), path: c.paths[req.Path]})
	c.metrics.call(err)
	return answer, err
}

// Held returns why req would be held back at present, nil if it could go out, perhaps after a short wait. It uses only
// local state and does not become a trial, so another call may still go first.
func (c *Client) Held(req Request) error {
	now, path := time.Now(), c.paths[req.Path]
	if path == nil {
		return errPath
	}
	key := req.key()
	held, _ := c.failing.check(key, now)
	if held == nil {
		held = c.credentials.peek(now)
	}
	if held == nil {
		held = path.breaker.peek(key)
	}
	pass := c.fleet.peek(req.Path, now)
	if held == nil && pass.Held > 0 && !c.worthWaiting(pass, now.Add(c.Limit()-c.opts.Timeout), req.Background) {
		held = pass.error()
	}
	if held == nil {
		return nil // a nil *Error in an error would not be nil
	}
	return held
}

var (
	errPath = &Error{Kind: Unavailable, detail: "there is no such call", notAsked: true}
	// errGivenUp is the outcome of a call that was abandoned: it says nothing about the auth service.
	errGivenUp = &Error{Kind: Unavailable, detail: "given up", notAsked: true}
)

// guarded makes a call that no guard holds back, and tells the guards its outcome.
func (c *Client) guarded(ctx context.Context, k *call) (answer *Answer, err error) {
	if k.path == nil {
		return nil, errPath
	}
	held, again := c.failing.check(k.key, time.Now())
	if held != nil {
		return nil, held
	}
	k.credentials, held = c.credentials.enter(time.Now(), c.Limit())
	if held != nil {
		return nil, held
	}
	err = errGivenUp
	defer func() { err = c.judged(k, err) }()
	k.passage, held = c.enterBreaker(ctx, k)
	if held != nil {
		return nil, ended(ctx, held)
	}
	outcome := error(errGivenUp)
	defer func() { k.passage.settle(outcome) }()
	k.single = again || k.credentials != 0 || k.passage.single()
	answer, outcome = c.attempts(ctx, k)
	return answer, outcome
}

func (c *Client) enterBreaker(ctx context.Context, k *call) (*passage, *Error) {
	ctx, cancel := context.WithDeadline(ctx, c.startBy(ctx))
	defer cancel()
	return k.path.breaker.enter(ctx, k.key, !k.req.Background)
}

// overtaken returns why k may not go out after all: thousands of calls may have waited for a permit while the first
// ones failed.
func (c *Client) overtaken(k *call) *Error {
	if k.credentials == 0 {
		if held := c.credentials.peek(time.Now()); held != nil {
			return held
		}
	}
	return k.passage.overtaken()
}

// judged notes the outcome of a call, for its key and for our credentials, and returns the error for the callers.
func (c *Client) judged(k *call, err error) error {
	err = c.credentials.settle(k.key, k.credentials, err)
	var e *Error
	if errors.As(err, &e) && !isNoVerdict(err) && e.Kind != Refused {
		k.path.failed.Fail(e.Cause())
	}
	switch {
	case err == nil:
		c.failing.succeeded(k.key)
	case e == nil || isNoVerdict(err):
	case e.Kind == ClientRefused:
		c.metrics.clientRefusals.Inc()
		if !secret.Equal(k.used, c.opts.Secret.Text().Reveal()) {
			c.secretChanged() // it changed while the old one was refused
		}
	case e.Kind == Refused:
		c.failing.succeeded(k.key)
	default:
		c.failing.failed(k.key, e, time.Now())
	}
	return err
}

// secretChanged lifts everything that holds calls back because of the former client secret.
func (c *Client) secretChanged() {
	c.credentials.lift()
	c.failing.forget(Unauthorized)
}

// attempts makes the attempts of one call.
func (c *Client) attempts(ctx context.Context, k *call) (*Answer, error) {
	var last error
	for n := 1; ; n++ {
		out, held := c.letOut(ctx, k)
		if held != nil {
			if last != nil {
				return nil, last
			}
			return nil, held
		}
		if n == 1 {
			k.path.asked.Store(true)
			k.path.retries.call()
		}
		answer, err := c.once(ctx, k, out)
		if err == nil {
			return answer, nil
		}
		last = err
		pause := c.backoff(n)
		if n >= c.opts.MaxAttempts || !c.mayRetry(ctx, k, pause, err) {
			return nil, err
		}
		if !sleep(ctx, pause) {
			return nil, ended(ctx, err)
		}
	}
}

// mayRetry reports whether to make another attempt after that pause, and takes it from the budget.
func (c *Client) mayRetry(ctx context.Context, k *call, pause time.Duration, err error) bool {
	var failed *Error
	if !errors.As(err, &failed) || failed.final || k.single {
		return false
	}
	// An attempt without its full time could time out because of us.
	startBy := c.startBy(ctx)
	if time.Now().Add(pause).After(startBy) {
		return false
	}
	if pass := c.fleet.peek(k.req.Path, time.Now()); pass.Held > 0 && !c.worthWaiting(pass, startBy, k.req.Background) {
		return false
	}
	if !k.path.retries.retry() {
		c.metrics.retriesForgone.Inc()
		return false
	}
	return true
}

// once makes an attempt that letOut has admitted.
func (c *Client) once(ctx context.Context, k *call, out ticket) (answer *Answer, err error) {
	defer c.permits.give()
	err = errGivenUp
	defer func() { out.settle(ctx, err) }()
	answer, err = c.attempt(ctx, k)
	return answer, err
}

// letOut waits until an attempt may go out: for a permit, and for the gate. It returns with a permit taken, or with the
// reason why not.
func (c *Client) letOut(ctx context.Context, k *call) (ticket, error) {
	startBy, background := c.startBy(ctx), k.req.Background
	paid := false
	for {
		if pass := c.fleet.peek(k.req.Path, time.Now()); pass.Held > 0 {
			if !c.worthWaiting(pass, startBy, background) {
				return ticket{}, pass.error()
			}
			if !sleep(ctx, min(pass.Held, waitStep)) {
				return ticket{}, ended(ctx, pass.error())
			}
			continue
		}
		if !c.permits.take(ctx, startBy, background) {
			late := c.putOff(background, "UPSTREAM_MAX_CONCURRENT calls are in progress", causeConcurrent, time.Second)
			return ticket{}, ended(ctx, late)
		}
		if held := c.overtaken(k); held != nil {
			c.permits.give()
			return ticket{}, held
		}
		ask := Ask{Path: k.req.Path, Rate: c.rate(background), Paid: paid, TrialLimit: c.opts.Timeout + time.Second}
		if !background {
			ask.Patience = max(0, time.Until(startBy))
		}
		out, pass := c.fleet.enter(ctx, ask)
		if pass.Held <= 0 && pass.Wait <= 0 {
			return out, nil
		}
		c.permits.give()
		if pass.Wait > 0 {
			c.metrics.rateWaits.Inc()
			c.limited.Fail(causeFleetLimit)
			if pass.Wait > ask.Patience {
				return ticket{}, c.putOff(background, "the fleet is at UPSTREAM_CALLS_PER_MINUTE", causeFleetLimit, pass.Wait)
			}
			if !sleep(ctx, pass.Wait) {
				return ticket{}, ended(ctx, errGivenUp)
			}
			paid = true
		}
	}
}

// putOff returns the error of a call that cannot start in time.
func (c *Client) putOff(background bool, why, cause string, after time.Duration) error {
	e := &Error{
		Kind: Unavailable, RetryAfter: max(after, time.Second), detail: "not asked in time, " + why,
		cause: cause, notAsked: true,
	}
	if background {
		e.detail = "put off, " + why + " and callers come first"
	}
	return e
}

// startBy is the latest time at which an attempt can begin and still have its full time.
func (c *Client) startBy(ctx context.Context) time.Time {
	deadline, _ := ctx.Deadline()
	return deadline.Add(-c.opts.Timeout)
}

// worthWaiting reports whether a call waits for the end of a hold: only if that is soon, or the next trial will be over
// soon.
func (c *Client) worthWaiting(pass Pass, startBy time.Time, background bool) bool {
	return !background && pass.error().Kind == Unavailable &&
		pass.Held <= c.opts.Timeout+time.Second && time.Now().Add(pass.Held).Before(startBy)
}

// ended returns the error of a call whose context ended while it waited: last, unless it was cancelled.
func ended(ctx context.Context, last error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return transportError(ctx, ctx.Err())
	}
	return last
}

// backoff returns the pause after the given attempt: doubling from 100 ms, half of it at random, and all of
// them together within backoffBudget.
func (c *Client) backoff(attempt int) time.Duration {
	most := backoffBudget / time.Duration(max(1, c.opts.MaxAttempts-1))
	d := min(100*time.Millisecond<<min(attempt-1, 10), most)
	return d/2 + rand.N(d/2) //nolint:gosec // jitter is no secret
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/audit"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// An Auditor writes the audit log; see [audit.Trail].
type Auditor interface {
	Check() error
	Record(ctx context.Context, e audit.Event) error
}

const (
	// auditPatience is how long an answer waits for its line in the audit log. leastPatience is how long it waits even
	// if the token took long to arrive. A longer wait would break the promised limit for answers.
	auditPatience = time.Second
	leastPatience = 100 * time.Millisecond
)

// auditable returns an error while the audit log cannot be written, because no token may be vended then.
func (h *Handler) auditable() error {
	if h.opts.Audit == nil || h.opts.Audit.Check() == nil {
		return nil
	}
	return errAudit
}

// recorded writes the audit line of a request that ended with t or err, before it is answered. It returns what to
// answer: the same, or errAudit if the line could not be written. An invalid request, whose req has no Type, did not
// ask for any user's token and gets no line. began is when the request had been parsed.
func (h *Handler) recorded(
	r *http.Request, req upstream.Request, began time.Time, t vend.Token, err error,
) (vend.Token, error) {
	if h.opts.Audit == nil || req.Type == "" || errors.Is(err, errAudit) {
		return t, err
	}
	patience := max(leastPatience, time.Until(began.Add(h.broker.Longest()+leastPatience)))
	// The line is written even if the caller leaves.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), min(patience, auditPatience))
	defer cancel()
	e := audit.Event{Path: req.Path, Type: req.Type, User: req.UserID}
	describe(&e, t, err, r.Context().Err() != nil)
	if h.opts.Audit.Record(ctx, e) != nil {
		return vend.Token{}, errAudit
	}
	if t.Entry != nil { // it has aged meanwhile
		if t.At = time.Now(); !t.Entry.Usable(t.At) {
			return vend.Token{}, vend.ErrTooLate
		}
	}
	return t, err
}

// describe sets how the request ended.
func describe(e *audit.Event, t vend.Token, err error, callerLeft bool) {
	switch {
	case errors.Is(err, context.Canceled) && callerLeft:
		e.Outcome = audit.Abandoned
	case errors.Is(err, errForgetPending):
		e.Outcome, e.Status = audit.Forgotten, http.StatusAccepted
	case err != nil:
		answer := explain(err)
		e.Outcome, e.Status, e.ErrorCode, e.RequestID = audit.Failed, answer.status, answer.countedAs(), answer.requestID
		if answer.status < http.StatusInternalServerError && answer.status != http.StatusTooManyRequests {
			e.Outcome = audit.Refused
		}
	case t.Entry == nil:
		e.Outcome, e.Status = audit.Forgotten, http.StatusNoContent
	default:
		e.Outcome, e.Status = vendedAs(t), http.StatusOK
		if hashes := t.Entry.Hashes(); len(hashes) > 0 {
			e.Token = (*[len(cache.Hash{})]byte)(&hashes[0])
		}
	}
}

func vendedAs(t vend.Token) audit.Outcome {
	switch {
	case t.From == cache.FromMemory:
		return audit.Memory
	case t.From == cache.FromRedis:
		return audit.Redis
	case t.Collapsed:
		return audit.Collapsed
	default:
		return audit.Fetched
	}
}

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
	// auditPatience is how long an answer waits for its line in the audit log, and leastPatience how long it does even
	// when the token has been long in coming. What is promised of the longest answer leaves no more than that.
	auditPatience = time.Second
	leastPatience = 100 * time.Millisecond
)

// auditable returns why no token can be vended now: the audit log cannot be written.
func (h *Handler) auditable() error {
	if h.opts.Audit == nil || h.opts.Audit.Check() == nil {
		return nil
	}
	return errAudit
}

// recorded writes the line of a request that ended with t or err, before it is answered, and returns what it is to be
// answered with: that, or errAudit when there is no line. A request that was not understood, so that req has no Type,
// asked for nobody's token and has none. began is when it was understood.
func (h *Handler) recorded(
	r *http.Request, req upstream.Request, began time.Time, t vend.Token, err error,
) (vend.Token, error) {
	if h.opts.Audit == nil || req.Type == "" || errors.Is(err, errAudit) {
		return t, err
	}
	patience := max(leastPatience, time.Until(began.Add(h.broker.Longest()+leastPatience)))
	// The line is written whether or not the caller waits for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), min(patience, auditPatience))
	defer cancel()
	e := audit.Event{Path: req.Path, Type: req.Type, User: req.UserID}
	describe(&e, t, err, r.Context().Err() != nil)
	if h.opts.Audit.Record(ctx, e) != nil {
		return vend.Token{}, errAudit
	}
	if t.Entry != nil { // it has grown older meanwhile
		if t.At = time.Now(); !t.Entry.Usable(t.At) {
			return vend.Token{}, vend.ErrTooLate
		}
	}
	return t, err
}

// describe fills in how a request ended.
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

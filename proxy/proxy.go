// Package proxy serves the HTTP calls on LISTEN_ADDR: their guards, parsing, answers and all error texts.
//
// It promises: the guards refuse every request that a container of the pod would not send; the answer to an invalid
// request names the field and the remedy; a valid one is passed to package vend, and its token is answered with the
// lifetime that is left.
package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// Options configure a [Handler]. Broker, ClientID, Path and MaxConcurrent are required.
type Options struct {
	// Broker vends the tokens. The Handler closes it.
	Broker *vend.Broker
	// ClientID is the only one that callers may send.
	ClientID string
	// Path is the path of the auth service for GET and POST /token: [upstream.ConnectPath] or [upstream.AdminPath].
	Path string
	// CallerToken, if set, is required from callers.
	CallerToken *secret.File
	// AnyHost skips the Host check: for a socket file, and where remote callers are allowed.
	AnyHost bool
	// Audit, if set, records every request that was parsed. No token is vended without its record.
	Audit Auditor
	// AllowedTypes are the types that may be asked for. Default: all.
	AllowedTypes []string
	// MaxConcurrent is how many requests may wait for Redis or the auth service at once.
	MaxConcurrent int
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// A Handler answers the calls on LISTEN_ADDR.
type Handler struct {
	opts     Options
	guard    guard
	broker   *vend.Broker
	metrics  *metrics
	inUse    atomic.Int64 // requests that are not answered yet
	waiting  atomic.Int64 // those of them that wait; see enter
	stopping atomic.Bool
}

// New returns a handler.
func New(opts Options) *Handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{opts: opts, guard: guard{token: opts.CallerToken, anyHost: opts.AnyHost}, broker: opts.Broker}
	h.metrics = newMetrics(opts.Registerer, h)
	return h
}

// InProgress is how many requests have not been answered yet.
func (h *Handler) InProgress() int { return int(h.inUse.Load()) }

// Drain makes h refuse new requests.
func (h *Handler) Drain() { h.stopping.Store(true) }

// Draining reports whether Drain was called.
func (h *Handler) Draining() bool { return h.stopping.Load() }

// Close ends the background work. No request may be in progress.
func (h *Handler) Close() { h.broker.Close() }

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	how := h.serve(w, r, began)
	how.method, how.route = r.Method, route(r.URL.Path)
	h.done(r.Context(), how, began)
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetAttributes(attribute.String("token_sidecar.outcome", how.outcome.String()))
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, now time.Time) ending {
	if err := h.guard.check(r); err != nil {
		w.Header().Set("Connection", "close")
		return ending{outcome: guarded, failure: h.writeError(w, err)}
	}
	t, how, err := h.handle(w, r, now)
	if h.Draining() {
		w.Header().Set("Connection", "close")
	}
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		failure := explain(err)
		failure.write(w) // the caller has left, but without this net/http would report status 200
		return ending{outcome: abandoned, failure: &failure}
	case errors.Is(err, errForgetPending):
		writeMessage(w, http.StatusAccepted, errForgetPending.Error())
		return ending{outcome: forgotten, status: http.StatusAccepted}
	case err != nil:
		return ending{outcome: outcomeOfError(err), failure: h.writeError(w, err)}
	case t.Entry == nil:
		w.WriteHeader(http.StatusNoContent)
		return ending{outcome: how, status: http.StatusNoContent}
	default:
		h.writeToken(w, t)
		return ending{outcome: outcomeOf(t), status: http.StatusOK}
	}
}

// handle carries out a request. It returns the answer rather than writing it, so that callers who do not read do not
// count as in progress.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request, now time.Time) (vend.Token, outcome, error) {
	defer h.inUse.Add(-1)
	h.inUse.Add(1)
	if h.Draining() {
		return vend.Token{}, shed, errStopping
	}
	return h.dispatch(w, r, now)
}

// call returns the auth service's path for the call to target, and empty fields for it; ok is false for an unknown
// call.
func (h *Handler) call(target string) (path string, f fields, ok bool) {
	switch target {
	case "/token":
		return h.opts.Path, f, true
	case upstream.ConnectPath:
		return upstream.ConnectPath, fields{dropIn: true}, true
	case upstream.AdminPath:
		return upstream.AdminPath, fields{dropIn: true}, true
	}
	return "", f, false
}

// dispatch carries out the call. A token without an entry means an answer without a body.
func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request, now time.Time) (vend.Token, outcome, error) {
	path, f, ok := h.call(r.URL.Path)
	switch {
	case !ok:
		return vend.Token{}, rejected, errNotFound
	case r.Method == http.MethodPost:
		t, err := h.post(r, &f, path)
		return t, miss, err
	case f.dropIn:
		w.Header().Set("Allow", "POST")
		return vend.Token{}, rejected, errMethod
	case r.Method == http.MethodGet:
		t, err := h.get(r, &f, path, now)
		return t, miss, err
	case r.Method == http.MethodDelete:
		return vend.Token{}, forgotten, h.delete(r, &f, path)
	}
	w.Header().Set("Allow", "GET, POST, DELETE")
	return vend.Token{}, rejected, errMethod
}

func (h *Handler) get(r *http.Request, f *fields, path string, now time.Time) (vend.Token, error) {
	if err := f.parseTarget(r); err != nil {
		return vend.Token{}, err
	}
	return h.vend(r, f, path, now)
}

func (h *Handler) post(r *http.Request, f *fields, path string) (vend.Token, error) {
	if err := f.parseBody(r); err != nil {
		return vend.Token{}, err
	}
	return h.vend(r, f, path, time.Now()) // the body may have taken long to arrive
}

func (h *Handler) vend(r *http.Request, f *fields, path string, now time.Time) (vend.Token, error) {
	req, err := h.request(f, path)
	if err == nil {
		err = h.auditable()
	}
	var t vend.Token
	if err == nil {
		t, err = h.tokenFor(r, f, req, now)
	}
	return h.recorded(r, req, now, t, err)
}

// tokenFor returns the token for a valid request.
func (h *Handler) tokenFor(r *http.Request, f *fields, req upstream.Request, now time.Time) (vend.Token, error) {
	fresh := noCache(r.Header) && !f.dropIn // clients of the drop-in calls send no-cache out of habit
	if !fresh && req.Type != typeSession {
		if t, ok := h.broker.Known(now, req); ok { //nolint:contextcheck // a renewal outlives the caller
			return t, nil
		}
	}
	if !h.enter() {
		if !fresh && req.Type != typeSession {
			if err := h.broker.Refused(req); err != nil {
				return vend.Token{}, err
			}
		}
		return vend.Token{}, errOverload
	}
	defer h.leave()
	if req.Type == typeSession {
		return h.broker.VendSession(r.Context(), req)
	}
	return h.broker.Vend(r.Context(), now, req, fresh)
}

// enter admits one more waiting request, unless MAX_CONCURRENT_REQUESTS are waiting already. Requests that memory can
// answer do not wait, so they are never refused; neither does a request whose body has not arrived.
func (h *Handler) enter() bool {
	if h.waiting.Add(1) > int64(h.opts.MaxConcurrent) {
		h.waiting.Add(-1)
		return false
	}
	return true
}

// leave ends what enter began.
func (h *Handler) leave() { h.waiting.Add(-1) }

// request converts f to a request to the auth service at path. If it has no Type, f was not valid.
func (h *Handler) request(f *fields, path string) (upstream.Request, error) {
	req, err := f.token(path)
	if f.clientID != "" && f.clientID != h.opts.ClientID {
		return req, errClientID
	}
	if err == nil && h.opts.AllowedTypes != nil && !slices.Contains(h.opts.AllowedTypes, req.Type) {
		err = errTypeNotAllowed
	}
	return req, err
}

func (h *Handler) delete(r *http.Request, f *fields, path string) error {
	if err := f.parseTarget(r); err != nil {
		return err
	}
	began := time.Now()
	req, err := h.request(f, path)
	if err == nil {
		err = h.forget(r, req)
	}
	_, err = h.recorded(r, req, began, vend.Token{}, err)
	return err
}

func (h *Handler) forget(r *http.Request, req upstream.Request) error {
	hash, err := rejectedHash(r.Header)
	if err != nil || req.Type == typeSession { // which is never cached
		return err
	}
	if !h.enter() {
		return errOverload
	}
	defer h.leave()
	if !h.broker.Forget(r.Context(), req, hash) {
		return errForgetPending
	}
	return nil
}

// rejectedHash reads X-Rejected-Token-Hash, nil if it was not sent.
func rejectedHash(header http.Header) (*cache.Hash, error) {
	values := header["X-Rejected-Token-Hash"]
	if len(values) == 0 {
		return nil, nil
	}
	var hash cache.Hash
	if len(values) > 1 || len(values[0]) != 2*len(hash) {
		return nil, errHash
	}
	if _, err := hex.Decode(hash[:], []byte(values[0])); err != nil {
		return nil, errHash
	}
	return &hash, nil
}

// noCache reports whether the request asks to skip the caches (RFC 9111, section 5.2.1.4).
func noCache(header http.Header) bool {
	for _, value := range header["Cache-Control"] {
		for directive := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
				return true
			}
		}
	}
	return false
}

// Package proxy is what callers meet: the calls on LISTEN_ADDR, and the rule that vends a token from the cache
// or the auth service.
//
// It promises: no request gets past the guards that a container of the pod would not send; a caller gets a
// token of the user it named, before its margin, or an error that tells what to do, within the auth service's
// limit and a second more; callers who ask together for one key cost one fetch, and none of them can fail the
// others by leaving.
package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Options configure a [Handler]. Tokens, Source, ClientID and MaxConcurrent are required.
type Options struct {
	Tokens Tokens
	Source AuthService
	// AuthURL and ClientID are part of every key.
	AuthURL, ClientID string
	// Path is where GET and POST /token ask: [upstream.ConnectPath] or [upstream.AdminPath].
	Path string
	// Keeper, when set, is given every refresh token that comes.
	Keeper RefreshKeeper
	// Lifetimes is the rule of the three states.
	Lifetimes Lifetimes
	// NegativeTTL is how long a refusal is remembered; NegativeEntries bounds how many are.
	NegativeTTL     time.Duration
	NegativeEntries int
	// CallerToken, when set, is what callers must show.
	CallerToken *secret.File
	// AnyHost skips the Host check: for a socket file, and where remote callers are allowed.
	AnyHost bool
	// MaxConcurrent is how many requests may be in progress.
	MaxConcurrent int
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// A RefreshKeeper keeps the newest refresh token of a user; see [RefreshKey].
type RefreshKeeper interface {
	KeepRefresh(ctx context.Context, key cache.Key, token secret.Text)
}

// RefreshKey is the key of the refresh token of a user, whatever token it came with.
func RefreshKey(authURL, clientID string, user secret.Text) cache.Key {
	return cache.NewKey("refresh_token", authURL, clientID, user.Reveal())
}

// A Handler answers the calls on LISTEN_ADDR.
type Handler struct {
	opts     Options
	guard    guard
	client   string // see clientKey
	vendor   *vendor
	metrics  *metrics
	inUse    atomic.Int64
	stopping atomic.Bool
}

// New returns a handler.
func New(opts Options) *Handler {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	h := &Handler{opts: opts, guard: guard{token: opts.CallerToken, anyHost: opts.AnyHost}, client: clientKey(opts.AuthURL, opts.ClientID)}
	h.metrics = newMetrics(opts.Registerer, h)
	h.vendor = &vendor{
		tokens: opts.Tokens, source: opts.Source, lifetimes: opts.Lifetimes,
		refused: newRefusals(opts.NegativeTTL, max(1, opts.NegativeEntries)), metrics: h.metrics, log: opts.Log, keepRefresh: func(context.Context, secret.Text, secret.Text) {},
		fetching: trouble{
			log: opts.Log, begins: "the auth service fails: cached tokens are served, callers without one get errors; see its status and the way there",
			ends: "the auth service answers again",
		},
		renewing: trouble{
			log: opts.Log, begins: "tokens cannot be renewed ahead of time: callers notice nothing until a token's margin; see the auth service",
			ends: "tokens are renewed again",
		},
	}
	if opts.Keeper != nil {
		h.vendor.keepRefresh = func(ctx context.Context, user, token secret.Text) {
			opts.Keeper.KeepRefresh(ctx, RefreshKey(opts.AuthURL, opts.ClientID, user), token)
		}
	}
	h.vendor.life, h.vendor.end = context.WithCancel(context.Background())
	return h
}

// InProgress is how many requests are not answered yet.
func (h *Handler) InProgress() int { return int(h.inUse.Load()) }

// Drain makes h refuse what comes from now on.
func (h *Handler) Drain() { h.stopping.Store(true) }

// Draining reports whether Drain was called.
func (h *Handler) Draining() bool { return h.stopping.Load() }

// Close ends what runs in the background. No request may be in progress.
func (h *Handler) Close() { h.vendor.close() }

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	how := h.serve(w, r, began)
	h.done(r.Context(), how, began)
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetAttributes(attribute.String("token_sidecar.outcome", how.String()))
	}
}

// done counts a request.
func (h *Handler) done(ctx context.Context, how outcome, began time.Time) {
	took := time.Since(began)
	h.metrics.request(how, took)
	if h.opts.Log.Enabled(ctx, slog.LevelDebug) {
		h.opts.Log.DebugContext(ctx, "request", slog.String("outcome", how.String()), slog.Duration("took", took))
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, now time.Time) outcome {
	if err := h.guard.check(r); err != nil {
		w.Header().Set("Connection", "close")
		h.writeError(w, err)
		return guarded
	}
	defer h.inUse.Add(-1)
	if h.inUse.Add(1) > int64(h.opts.MaxConcurrent) {
		h.writeError(w, errOverload)
		return shed
	}
	if h.Draining() {
		w.Header().Set("Connection", "close")
		h.writeError(w, errStopping)
		return shed
	}
	s, how, err := h.route(w, r, now)
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		answer(w, explain(err)) // nobody reads it, but without it net/http would say 200
		return abandoned
	case err != nil:
		h.writeError(w, err)
		return outcomeOfError(err)
	case s.entry == nil:
		w.WriteHeader(http.StatusNoContent)
		return how
	default:
		h.writeToken(w, s)
		return outcomeOf(s)
	}
}

// call returns where the call to target asks the auth service, and its fields, empty; ok is false when there is none.
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

// route finds the call. A served without an entry is an answer without a body.
func (h *Handler) route(w http.ResponseWriter, r *http.Request, now time.Time) (served, outcome, error) {
	path, f, ok := h.call(r.URL.Path)
	switch {
	case !ok:
		return served{}, rejected, errNotFound
	case r.Method == http.MethodPost:
		s, err := h.post(r, &f, path)
		return s, miss, err
	case f.dropIn:
		w.Header().Set("Allow", "POST")
		return served{}, rejected, errMethod
	case r.Method == http.MethodGet:
		s, err := h.get(r, &f, path, now)
		return s, miss, err
	case r.Method == http.MethodDelete:
		return served{}, forgotten, h.delete(r, &f, path)
	}
	w.Header().Set("Allow", "GET, POST, DELETE")
	return served{}, rejected, errMethod
}

func (h *Handler) get(r *http.Request, f *fields, path string, now time.Time) (served, error) {
	if err := f.parseTarget(r); err != nil {
		return served{}, err
	}
	return h.vend(r, f, path, now)
}

func (h *Handler) post(r *http.Request, f *fields, path string) (served, error) {
	if err := f.parseBody(r); err != nil {
		return served{}, err
	}
	return h.vend(r, f, path, time.Now()) // the body may have been long in coming
}

func (h *Handler) vend(r *http.Request, f *fields, path string, now time.Time) (served, error) {
	req, err := h.request(f, path)
	if err != nil {
		return served{}, err
	}
	if req.Type == typeSession {
		return h.vendor.direct(r.Context(), req)
	}
	return h.vendor.vend(r.Context(), now, h.key(req), req, noCache(r.Header))
}

// request makes of f what to ask at path.
func (h *Handler) request(f *fields, path string) (upstream.Request, error) {
	if f.seen&seenClientID != 0 && f.clientID != h.opts.ClientID {
		return upstream.Request{}, errClientID
	}
	return f.token(path)
}

// clientKey stands for what all requests have in common in their keys.
func clientKey(authURL, clientID string) string {
	key := cache.NewKey(authURL, clientID)
	return string(key[:])
}

// key holds everything that the answer to req depends on.
func (h *Handler) key(req upstream.Request) cache.Key {
	parts := append(make([]string, 0, 8), h.client, req.Path, req.Type, req.UserID.Reveal())
	return cache.NewKey(append(parts, req.Scopes...)...)
}

func (h *Handler) delete(r *http.Request, f *fields, path string) error {
	if err := f.parseTarget(r); err != nil {
		return err
	}
	if f.tokenType == typeSession {
		return nil // never kept
	}
	req, err := h.request(f, path)
	if err != nil {
		return err
	}
	hash, err := rejectedHash(r.Header)
	if err != nil {
		return err
	}
	h.vendor.forget(r.Context(), h.key(req), hash)
	return nil
}

// rejectedHash reads X-Rejected-Token-Hash, nil when it was not sent.
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

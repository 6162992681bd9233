package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"token-sidecar/upstream"
)

// An ending is how a request ended.
type ending struct {
	outcome outcome
	method  string
	route   string         // see route
	status  int            // of a success
	failure *errorResponse // of a failure
}

// done counts a request and, at level debug, logs it.
func (h *Handler) done(ctx context.Context, e ending, began time.Time) {
	took := time.Since(began)
	h.metrics.request(e.outcome, took)
	if e.outcome == failed || e.outcome == shed {
		h.metrics.failing.Fail(e.failure.countedAs())
	}
	if !h.opts.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	// Nothing that a caller sent is logged verbatim: paths and methods may contain anything.
	attrs := []slog.Attr{
		slog.String("outcome", e.outcome.String()), slog.String("method", knownMethod(e.method)),
		slog.String("route", e.route), slog.Int("status", e.answered()), slog.Duration("took", took),
	}
	if status := e.outcome.cacheStatus(); status != "" {
		attrs = append(attrs, slog.String("cache_status", status))
	}
	if f := e.failure; f != nil {
		attrs = append(attrs, slog.String("errorCode", f.countedAs()))
		if f.cause != "" {
			attrs = append(attrs, slog.String("cause", f.cause))
		}
		if f.requestID != "" { // for support cases with the auth service
			attrs = append(attrs, slog.String("x-humanapi-request-id", f.requestID))
		}
	}
	h.opts.Log.LogAttrs(ctx, slog.LevelDebug, "request", attrs...)
}

func (e ending) answered() int {
	if e.failure != nil {
		return e.failure.status
	}
	return e.status
}

// cacheStatus returns the Cache-Status header of an answer with a token, without the parts that vary.
func (o outcome) cacheStatus() string {
	switch o {
	case hitMemory:
		return "hit; detail=memory"
	case hitRedis:
		return "hit; detail=redis"
	case miss:
		return "fwd=miss"
	case collapsed:
		return "fwd=miss; collapsed"
	default:
		return ""
	}
}

// other replaces a path or method that is not one of ours.
const other = "other"

// route returns the name of the call at path. The result contains no bytes of path.
func route(path string) string {
	switch path {
	case "/token":
		return "/token"
	case upstream.ConnectPath:
		return upstream.ConnectPath
	case upstream.AdminPath:
		return upstream.AdminPath
	default:
		return other
	}
}

func knownMethod(method string) string {
	if slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodDelete}, method) {
		return method
	}
	return other
}

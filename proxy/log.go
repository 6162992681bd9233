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
	status  int            // of an answer that is no error
	failure *errorResponse // of one that is
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
	// Nothing that a caller sent is logged as it is: paths and methods may hold anything.
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
		if f.requestID != "" { // for support cases
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

// cacheStatus is the header Cache-Status of an answer with a token, without what differs from one to the next.
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

// other stands for what a caller sent that is none of ours.
const other = "other"

// route is the call to path; what is returned is none of path's bytes.
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

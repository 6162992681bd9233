package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHandler(ready bool) http.Handler {
	return New(Options{
		Ready: func() bool { return ready }, Metrics: prometheus.NewRegistry(),
		Status: func() Status { return Status{Serving: ready, Version: "v1"} },
	})
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		ready        bool
		method, path string
		status       int
		part         string
	}{
		{true, "GET", "/livez", 200, "ok"},
		{false, "GET", "/livez", 200, "ok"},
		{true, "GET", "/readyz", 200, "ok"},
		{false, "GET", "/readyz", 503, "draining"},
		{true, "GET", "/metrics", 200, ""},
		{true, "GET", "/status.json", 200, `"version":"v1"`},
		{true, "GET", "/", 200, "<title>token-sidecar</title>"},
		{true, "GET", "/token", 404, ""},
		{true, "POST", "/", 405, ""},
	} {
		rec := httptest.NewRecorder()
		newHandler(c.ready).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil))
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.part) {
			t.Errorf("%s %s: %d %s", c.method, c.path, rec.Code, rec.Body)
		}
	}
}

// TestThePageLoadsNothingElse: its own script and style are allowed by their hashes, and nothing else is.
func TestThePageLoadsNothingElse(t *testing.T) {
	rec := httptest.NewRecorder()
	newHandler(true).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	policy := rec.Header().Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %s", policy)
	}
	for _, foreign := range []string{"http://", "https://", " src=", "@import", "url("} {
		if strings.Contains(strings.ReplaceAll(rec.Body.String(), "http://www.w3.org/2000/svg", ""), foreign) {
			t.Errorf("the page holds %q", foreign)
		}
	}
}

func TestHistoryIsAnHourLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits atomic.Int64
		h := NewHistory(func() map[string]int64 { return map[string]int64{"hit": hits.Load(), "never": 0} })
		ctx, stop := context.WithCancel(t.Context())
		go h.Run(ctx)
		for minute := range 90 {
			hits.Add(int64(minute + 1))
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		hits.Add(7)
		got := h.Minutes()
		if len(got) != minutes {
			t.Fatalf("%d minutes", len(got))
		}
		if now := got[minutes-1].Requests; now["hit"] != 7 || len(now) != 1 {
			t.Errorf("this minute: %v", now)
		}
		if last, first := got[minutes-2].Requests["hit"], got[0].Requests["hit"]; last != 90 || first != 32 {
			t.Errorf("the last full minute %d, the first %d", last, first)
		}
		stop()
		synctest.Wait()
	})
}

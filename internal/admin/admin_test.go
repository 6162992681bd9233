package admin

import (
	"bufio"
	"context"
	"encoding/json"
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
		Ready: func() bool { return ready }, Metrics: prometheus.NewRegistry(), Status: func() Status { return Status{Serving: ready, Redis: "up"} },
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
		{true, "GET", "/status.json", 200, `"redis":"up"`},
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

// TestThePageLoadsNothingElse: its own script and style are allowed by their hashes, and no other.
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

func TestEventsComeAgainAndAgain(t *testing.T) {
	server := httptest.NewServer(newHandler(true))
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	open := func() *http.Response {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/events", nil)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := open()
	defer func() { _ = res.Body.Close() }()
	if kind := res.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("Content-Type %s", kind)
	}
	lines := bufio.NewScanner(res.Body)
	for events := 0; events < 2 && lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var s Status
		if err := json.Unmarshal([]byte(data), &s); err != nil || !s.Serving {
			t.Errorf("%q: %v", data, err)
		}
		events++
	}
	for range maxPages - 1 {
		other := open()
		defer func() { _ = other.Body.Close() }()
		if other.StatusCode != http.StatusOK {
			t.Fatalf("status %d", other.StatusCode)
		}
	}
	tooMany := open()
	defer func() { _ = tooMany.Body.Close() }()
	if tooMany.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one page too many: %d", tooMany.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
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

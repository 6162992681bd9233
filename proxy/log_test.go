package proxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"token-sidecar/upstream/sandbox"
)

// TestRequestsAreLogged: at debug, with what a support case needs, and with nothing that a caller sent.
func TestRequestsAreLogged(t *testing.T) {
	var log bytes.Buffer
	const sent = "sent-by-a-caller"
	inWorld(t, func(s *settings) {
		s.proxy.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s.upstream.MaxAttempts = 1
	}, func(t *testing.T, w *world) {
		for name, c := range map[string]struct {
			mood    sandbox.Mood
			request *http.Request
			want    []string
		}{
			"fetched": {sandbox.Mood{}, request("GET", "/token?client_user_id="+sent, ""), []string{
				"outcome=miss method=GET route=/token status=200", `cache_status="fwd=miss"`,
			}},
			"refused": {sandbox.Mood{}, request("GET", "/token?client_user_id=unknown-"+sent, ""), []string{
				"outcome=refused", "status=404", "errorCode=UNKNOWN_CLIENT_USER_ID",
				`cause="404 UNKNOWN_CLIENT_USER_ID"`, "x-humanapi-request-id=",
			}},
			"forgotten":      {sandbox.Mood{}, request("DELETE", "/token?client_user_id="+sent, ""), []string{"method=DELETE", "status=204"}},
			"unknown path":   {sandbox.Mood{}, request("GET", "/"+sent, ""), []string{"route=other", "status=404", "errorCode=NOT_FOUND"}},
			"unknown method": {sandbox.Mood{}, request("SENT-BY-A-CALLER", "/token", ""), []string{"method=other", "status=405"}},
			"failed": {sandbox.Mood{Status: 500}, request("GET", "/token?client_user_id=b"+sent, ""), []string{
				"outcome=failed", "status=503", "errorCode=UPSTREAM_UNAVAILABLE", `cause="500 Internal Server Error"`,
			}},
			"web page": {sandbox.Mood{}, request("GET", "/token?client_user_id="+sent, "", "Origin", sent), []string{
				"outcome=guarded", "status=403", "errorCode=CALLER_NOT_ALLOWED",
			}},
		} {
			log.Reset()
			w.auth.Set(c.mood)
			w.do(c.request)
			for _, want := range c.want {
				if !strings.Contains(log.String(), want) {
					t.Errorf("%s: no %s in %s", name, want, &log)
				}
			}
			if strings.Contains(strings.ToLower(log.String()), sent) {
				t.Errorf("%s: repeats what was sent: %s", name, &log)
			}
		}
	})
}

// TestFirstCauseIsKept: a breaker that holds calls back hides neither why it opened nor what callers are told.
func TestFirstCauseIsKept(t *testing.T) {
	inWorld(t, func(s *settings) { s.upstream.MaxAttempts = 1 }, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Fault: "cut"})
		w.get("a")
		w.auth.Set(sandbox.Mood{Status: 500})
		for i := range 20 {
			w.get(fmt.Sprint("user-", i))
		}
		path := w.source.State().Paths[0]
		if path.Breaker != "open" || path.FirstCause != "connection closed" || path.Cause != "500 Internal Server Error" ||
			path.Failing.First != "connection closed" || path.Failing.Times != 5 {
			t.Errorf("%+v", path)
		}
		if run := w.handler.Failing(); run.Cause != "UPSTREAM_UNAVAILABLE" || run.Times != 21 {
			t.Errorf("callers: %+v", run)
		}
		time.Sleep(61 * time.Second)
		if w.handler.Failing().Any() || w.source.State().Paths[0].Failing.Any() {
			t.Error("a quiet minute does not end the run")
		}
	})
}

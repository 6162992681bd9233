package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

const observability = "charts/token-sidecar/files/"

// queries are those of the dashboard, with its variables replaced.
func queries(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(testbed.ReadFile(t, observability+"dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			variables := strings.NewReplacer("$namespace", ".*", "$pod", ".*", "$__rate_interval", "1m")
			all = append(all, variables.Replace(target.Expr))
		}
	}
	return all
}

// TestEveryOutcomeIsSeen produces each outcome and finds it in the metrics, the log, the trace and on the page, finds
// data for each query of the dashboard, and finds no user id anywhere.
func TestEveryOutcomeIsSeen(t *testing.T) {
	testbed.Needs(t, "prometheus")
	var mu sync.Mutex
	var received bytes.Buffer // what the trace collector received
	otlp := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = received.ReadFrom(r.Body)
	}))
	defer otlp.Close()
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "OTEL_EXPORTER_OTLP_ENDPOINT="+otlp.URL, "MAX_CONCURRENT_REQUESTS=2",
		"UPSTREAM_MAX_ATTEMPTS=1")
	other := testbed.StartSidecar(t, auth.Environ("REDIS_URL="+redis.URL())...)
	s := testbed.StartSidecar(t, environ...)
	prometheus := startPrometheus(t, map[string]string{"web-1": s.Admin}, time.Second)

	drive := func(n int) {
		user := func(name string) string { return fmt.Sprint("policy-4711-", name, "-", n) }
		s.Get(user("miss"))
		s.Get(user("miss"))
		other.Get(user("redis"))
		s.Get(user("redis"))
		auth.Set(sandbox.Mood{LatencyMS: 300})
		var two sync.WaitGroup
		for range 2 {
			two.Go(func() { s.Get(user("collapsed")) })
		}
		two.Wait()
		calls := auth.Counts().Calls
		for i := range 2 {
			two.Go(func() { s.Get(user(fmt.Sprint("busy", i))) })
		}
		testbed.Until(t, "two are busy", func() bool { return auth.Counts().Calls == calls+2 })
		s.Get(user("shed"))
		two.Wait()
		left, leave := context.WithCancel(t.Context())
		calls = auth.Counts().Calls
		two.Go(func() {
			req, _ := http.NewRequestWithContext(left, http.MethodGet, "http://"+s.Addr+"/token?client_user_id="+user("left"),
				nil)
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		})
		testbed.Until(t, "the call is under way", func() bool { return auth.Counts().Calls == calls+1 })
		leave()
		two.Wait()
		auth.Set(sandbox.Mood{Status: 500})
		s.Get(user("failed"))
		auth.Set(sandbox.Mood{})
		s.Do("DELETE", "client_user_id="+user("miss"))
		s.Get("unknown-policy-4711")
		s.Get("unknown-policy-4711")
		s.Do("GET", "client_user_id=policy-4711&type=wrong")
		s.Get("policy-4711", "Origin", "http://evil.example")
	}
	outcomes := []string{
		"hit_memory", "hit_redis", "miss", "collapsed", "forgotten", "refused", "failed", "rejected",
		"guarded", "shed", "abandoned",
	}
	n := 0
	missing := outcomes
	testbed.Until(t, "every outcome is counted", func() bool { // the machine decides which of two callers is shed
		drive(n)
		n++
		metrics := s.Metrics()
		missing = slices.DeleteFunc(slices.Clone(outcomes), func(o string) bool {
			return regexp.MustCompile(`token_sidecar_requests_total\{outcome="` + o + `"\} [1-9]`).MatchString(metrics)
		})
		t.Logf("missing after round %d: %v", n, missing)
		return len(missing) == 0
	})
	_, page := s.Fetch("http://" + s.Admin + "/status.json")
	for _, outcome := range outcomes {
		testbed.Until(t, outcome+" is in the log", func() bool {
			return strings.Contains(s.Log(), `"outcome":"`+outcome+`"`)
		})
		if !regexp.MustCompile(`"` + outcome + `":[1-9]`).MatchString(page) {
			t.Errorf("%s is not on the page", outcome)
		}
	}
	for _, code := range []string{
		"UNKNOWN_CLIENT_USER_ID", "OVERLOADED", "UPSTREAM_UNAVAILABLE", "INVALID_TOKEN_TYPE",
		"CALLER_NOT_ALLOWED",
	} {
		if !strings.Contains(page, `"code":"`+code+`"`) {
			t.Errorf("%s is not on the page", code)
		}
	}
	for _, query := range queries(t) {
		testbed.Until(t, "data for "+query, func() bool {
			status, body := s.Fetch(prometheus.url + "/api/v1/query?query=" + url.QueryEscape(query))
			if status == http.StatusBadRequest {
				t.Fatalf("%s: %s", query, body)
			}
			if status == 200 && strings.Contains(body, `"result":[{`) && !strings.Contains(body, `"NaN"]}]`) {
				return true
			}
			s.Get(fmt.Sprint("policy-4711-", n)) // a rate needs changes between two scrapes
			s.Get("policy-4711-hit")
			s.Do("GET", "client_user_id=policy-4711&type=wrong")
			n++
			return false
		})
	}
	s.Signal(syscall.SIGTERM)
	s.Wait()
	mu.Lock()
	defer mu.Unlock()
	traces := received.String()
	for _, outcome := range outcomes {
		if !strings.Contains(traces, outcome) {
			t.Errorf("%s is in no trace", outcome)
		}
	}
	for place, text := range map[string]string{"log": s.Log(), "page": page, "traces": traces} {
		if strings.Contains(text, "policy-4711") {
			t.Errorf("%s: a user id", place)
		}
	}
}

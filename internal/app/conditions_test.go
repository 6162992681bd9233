package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/health"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream"
)

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestConditions: in each bad state, each part has a cause, an effect, a remedy and an alert.
func TestConditions(t *testing.T) {
	now := time.Now()
	run := health.Run{
		Since: now.Add(-time.Minute), Last: now, Times: 7, First: "connection refused", Cause: "no answer in time",
	}
	few := map[string]int64{"hit_memory": 990, "failed": 5, "shed": 5}
	many := map[string]int64{"hit_memory": 989, "failed": 5, "shed": 6}
	down := upstream.PathState{
		Breaker: "open", Cause: "no answer in time", FirstCause: "connection refused", TrialIn: 5 * time.Second,
	}
	one, trial, failing := down, down, upstream.PathState{Breaker: "closed", Failing: run}
	one.OneKey, trial.Breaker, trial.TrialIn = true, "half-open", 0
	paused := upstream.PathState{Breaker: "closed", Held: "rate_limited", HeldCause: "429 Too Many Requests"}
	refused := upstream.State{Refused: "401 INVALID_CLIENT_ID"}
	redis := func(state, cause string) health.Condition {
		return redisCondition(cache.RedisState{State: state, Cause: cause, FirstCause: cause})
	}
	auth := func(path upstream.PathState) health.Condition { return authService(upstream.State{}, path, now) }
	for _, c := range []struct {
		health.Condition
		level               health.Level
		state, cause, first string
	}{
		{callers(health.Run{}, map[string]int64{"hit_memory": 5}, now), health.Good, "served", "", ""},
		{callers(run, few, now), health.Warn, "some fail", run.Cause, run.First},
		{callers(run, many, now), health.Bad, "failing", run.Cause, run.First},
		{auth(upstream.PathState{Breaker: "closed"}), health.Good, "answers", "", ""},
		{auth(failing), health.Warn, "some calls fail", run.Cause, run.First},
		{auth(paused), health.Warn, "asks for a pause", "429 Too Many Requests", ""},
		{auth(down), health.Bad, "breaker open", down.Cause, down.FirstCause},
		{auth(trial), health.Bad, "breaker open", down.Cause, down.FirstCause},
		{auth(one), health.Warn, "breaker open for one token", down.Cause, down.FirstCause},
		{authService(refused, down, now), health.Bad, "secret refused", "401 INVALID_CLIENT_ID", ""},
		{redis(cache.RedisUp, ""), health.Good, "up", "", ""},
		{redis(cache.RedisOff, ""), health.None, "not used", "", ""},
		{redis(cache.RedisReadOnly, "OOM"), health.Warn, "read-only", "OOM", ""},
		{redis(cache.RedisWriteOnly, "NOPERM"), health.Warn, "write-only", "NOPERM", ""},
		{redis(cache.RedisDown, "WRONGPASS"), health.Bad, "down", "WRONGPASS", ""},
		{forgets(0, cache.RedisState{}), health.Good, "told", "", ""},
		{forgets(3, cache.RedisState{Cause: "OOM"}), health.Warn, "waiting", "OOM", ""},
		{renewals(health.Run{}, now), health.Good, "done in time", "", ""},
		{renewals(run, now), health.Warn, "failing", run.Cause, run.First},
		{fleetLimit(health.Run{}, settings.Settings{}, now), health.Good, "kept", "", ""},
		{fleetLimit(run, settings.Settings{}, now), health.Warn, "reached", run.Cause, ""},
		{auditLog(audit.State{}), health.Good, "written", "", ""},
		{
			auditLog(audit.State{Since: now, Cause: "disk quota exceeded", First: "permission denied"}),
			health.Bad, "not written", "disk quota exceeded", "permission denied",
		},
		{hits(map[string]int64{"failed": 7}), health.None, "–", "", ""},
		{hits(map[string]int64{"hit_memory": 4, "miss": 6}), health.None, "too few to tell", "", ""},
		{hits(map[string]int64{"hit_redis": 5, "miss": 5, "refused": 99}), health.Good, "mostly", "", ""},
		{hits(map[string]int64{"hit_memory": 400, "miss": 300, "collapsed": 300}), health.Warn, "less than half", "", ""},
	} {
		if c.Level != c.level || c.State != c.state || c.Cause != c.cause || c.First != c.first {
			t.Errorf("%s is told as %+v", c.state, c.Condition)
		}
		if told := c.Effect != "" && c.Remedy != "" && c.Alert != ""; told != c.Level.Degraded() {
			t.Errorf("%s: what it means, what to do or the alert is missing, or too much: %+v", c.state, c.Condition)
		}
		if c.Alert != "" && !strings.Contains(read(t, "charts/token-sidecar/files/alerts.yaml"), "alert: "+c.Alert+"\n") {
			t.Errorf("%s: there is no alert %s", c.state, c.Alert)
		}
	}
}

// TestAuditLogIsACondition: if there is an audit log that cannot be written, that is reported with its cause.
func TestAuditLogIsACondition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	audited := []string{"AUDIT_LOG=" + path, "AUDIT_KEY_FILE=" + testbed.WriteFile(t, "key", strings.Repeat("A", 43)+"=")}
	for name, environ := range map[string][]string{"": nil, "written": audited, "not written": audited} {
		s, err := settings.Load(append(environ, "HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b"))
		if err != nil {
			t.Fatal(err)
		}
		parts, err := NewParts(s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer parts.Close()
		want := ""
		if name == "not written" {
			_ = parts.Audit.Record(t.Context(), audit.Event{})
			want = "no space left on device"
		}
		got := health.Condition{}
		for _, c := range parts.status.get().Conditions {
			if c.Part == "audit" {
				got = c
			}
		}
		if got.State != name || got.Cause != want || got.Minor {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

// TestTheSameFormula: page, alerts and dashboard count the same requests as failing and as answered from a cache.
func TestTheSameFormula(t *testing.T) {
	failing := `outcome=~"` + strings.Join(failingOutcomes(), "|") + `"`
	found := `outcome=~"` + strings.Join(hitOutcomes(), "|") + `"`
	all := `outcome=~"` + strings.Join(append(hitOutcomes(), fetchOutcomes()...), "|") + `"`
	for _, path := range []string{"alerts.yaml", "dashboard.json"} {
		text := strings.ReplaceAll(read(t, "charts/token-sidecar/files/"+path), `\"`, `"`)
		for _, part := range []string{failing, found, all, "[5m]", "[15m]"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s does not ask for %s", path, part)
			}
		}
	}
}

// TestEveryCauseIsInTheRunbook, with what to do.
func TestEveryCauseIsInTheRunbook(t *testing.T) {
	runbook := read(t, "docs/runbook.md")
	for _, cause := range slices.Concat(cache.Causes(), upstream.Causes(), audit.Causes()) {
		if !strings.Contains(runbook, "`"+cause+"`") {
			t.Errorf("the runbook does not know %s", cause)
		}
	}
}

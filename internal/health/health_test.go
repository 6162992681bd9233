package health

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a watcher of one part, on virtual time.
type watched struct {
	*Watcher
	current Condition
	log     bytes.Buffer
}

func watch(t *testing.T, test func(*watched)) {
	synctest.Test(t, func(*testing.T) {
		w := &watched{current: well}
		log := slog.New(slog.NewTextHandler(&w.log, nil))
		w.Watcher = NewWatcher(func() []Condition { return []Condition{w.current} }, log)
		w.Conditions()
		test(w)
	})
}

// stays keeps the part in that state for d.
func (w *watched) stays(c Condition, d time.Duration) {
	w.current = c
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(lookInterval) {
		w.Conditions()
	}
}

// lines returns what was logged since the last call.
func (w *watched) lines() []string {
	defer w.log.Reset()
	return strings.Split(strings.TrimSuffix(w.log.String(), "\n"), "\n")
}

func (w *watched) tells(t *testing.T, states ...string) {
	t.Helper()
	lines := w.lines()
	for i, line := range lines {
		if i >= len(states) || !strings.Contains(line, `msg="Redis: `+states[i]+`"`) {
			t.Errorf("line %d is not of %v: %s", i, states, line)
		}
	}
	if len(lines) < len(states) {
		t.Errorf("%d lines for %v", len(lines), states)
	}
}

var (
	well = Condition{Part: "redis", Title: "Redis", Level: Good, State: "up"}
	sick = Condition{
		Part: "redis", Title: "Redis", Level: Warn, State: "read-only", Cause: "OOM", Effect: "e", Remedy: "r", Alert: "a",
	}
	dead = Condition{Part: "redis", Title: "Redis", Level: Bad, State: "down", Cause: "connection refused"}
)

// TestChangesAreToldOnce: with their effect and remedy; changes for the worse at once.
func TestChangesAreToldOnce(t *testing.T) {
	watch(t, func(w *watched) {
		w.stays(sick, 5*time.Second)
		line := w.lines()
		if len(line) != 1 || !strings.Contains(line[0], `level=WARN msg="Redis: read-only" part=redis state=read-only cause=OOM means=e remedy=r runbook=a since=2000-01-01T00:00:00.000Z`) {
			t.Errorf("%q", line)
		}
		w.stays(dead, 5*time.Second)
		w.tells(t, "down")
		w.stays(well, 5*time.Minute)
		w.tells(t, "up")
		if got := w.Events(); len(got) != 3 || got[0].State != "up" || got[2].Cause != "OOM" {
			t.Errorf("%+v", got)
		}
	})
}

// TestNoStateIsToldTwiceInAMinute: however much it flaps; the final state is logged in the end.
func TestNoStateIsToldTwiceInAMinute(t *testing.T) {
	watch(t, func(w *watched) {
		for range 60 {
			w.stays(dead, 3*time.Second)
			w.stays(well, 2*time.Second)
		}
		lines := w.lines()
		if downs := strings.Count(strings.Join(lines, "\n"), ": down"); len(lines) > 10 || downs < 2 || downs > 5 {
			t.Errorf("%d lines in five minutes:\n%s", len(lines), strings.Join(lines, "\n"))
		}
		if !strings.Contains(strings.Join(lines, "\n"), "changes_since_last_logged") {
			t.Error("the number of changes is not told")
		}
		w.stays(dead, 2*time.Minute)
		if events := w.Events(); events[0].State != "down" {
			t.Errorf("in the end: %+v", events[0])
		}
	})
}

// TestWhatStaysBadIsToldAgain: every ten minutes, with the time since when.
func TestWhatStaysBadIsToldAgain(t *testing.T) {
	watch(t, func(w *watched) {
		w.stays(dead, 25*time.Minute)
		w.tells(t, "down", "down", "down")
		if len(w.Events()) != 1 {
			t.Error("to stay so is no change")
		}
		for i := range 100 {
			changed := dead
			changed.Cause = fmt.Sprint(i)
			w.stays(changed, 61*time.Second)
		}
		if events := w.Events(); len(events) != maxEvents || events[0].Cause != "99" {
			t.Errorf("%d events, the last %+v", len(events), events[0])
		}
	})
}

func TestRun(t *testing.T) {
	watch(t, func(w *watched) {
		ctx, stop := context.WithCancel(context.Background())
		go w.Run(ctx)
		w.mu.Lock()
		w.current = dead
		w.mu.Unlock()
		time.Sleep(lookInterval)
		synctest.Wait()
		if !strings.Contains(w.log.String(), "down") {
			t.Error("it does not look by itself")
		}
		stop()
	})
}

// TestCollector: a degraded condition is a metric with its cause, others are not.
func TestCollector(t *testing.T) {
	w := NewWatcher(func() []Condition { return []Condition{sick, {Part: "other", Level: Good, State: "well"}} },
		slog.New(slog.DiscardHandler))
	const want = `
# HELP token_sidecar_degraded 1 for each part that is degraded, with its state and the cause; no series while all is well.
# TYPE token_sidecar_degraded gauge
token_sidecar_degraded{cause="OOM",part="redis",path="",state="read-only"} 1
`
	if err := testutil.CollectAndCompare(NewCollector(w), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Streak
		if s.Run(time.Now()).Any() {
			t.Error("a run without a failure")
		}
		began := time.Now()
		for _, cause := range []string{"first", "second", "third"} {
			time.Sleep(59 * time.Second)
			s.Fail(cause)
		}
		got := s.Run(time.Now())
		if got.First != "first" || got.Cause != "third" || got.Times != 3 || !got.Since.Equal(began.Add(59*time.Second)) {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Minute)
		if s.Run(time.Now()).Any() {
			t.Error("a quiet minute does not end a run")
		}
		s.Fail("later")
		if got := s.Run(time.Now()); got.First != "later" || got.Times != 1 {
			t.Errorf("%+v", got)
		}
		s.End()
		if s.Run(time.Now()).Any() {
			t.Error("it does not end")
		}
	})
}

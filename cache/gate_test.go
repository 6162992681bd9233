package cache

import (
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// TestAHoldThatComesLate, because whoever asked for it was frozen, counts from when it was asked for.
func TestAHoldThatComesLate(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	for name, hold := range map[string]struct{ asked, left time.Duration }{
		"it is over":   {30 * time.Second, 0},
		"the rest":     {90 * time.Second, 30 * time.Second},
		"and a longer": {time.Hour, 59 * time.Minute},
	} {
		g := c.Gate(name)
		g.heard.Store(&clockReading{time.Now().Add(-time.Minute).UnixMicro(), time.Now()})
		if err := g.Hold(t.Context(), "/path", hold.asked, 429, ""); err != nil {
			t.Fatal(err)
		}
		pass, err := g.Enter(t.Context(), GateAsk{Hold: "/path"})
		if err != nil || pass.Held > hold.left || pass.Held < hold.left-20*time.Second {
			t.Errorf("%s: held for %v, want %v: %v", name, pass.Held, hold.left, err)
		}
	}
}

// TestATrialWhoseReplyWasLost is the trial still when it asks again.
func TestATrialWhoseReplyWasLost(t *testing.T) {
	c, _ := losing(t, testbed.StartRedis(t), enterScript)
	g := c.Gate("scope")
	if err := g.Hold(t.Context(), "/path", time.Minute, 503, ""); err != nil {
		t.Fatal(err)
	}
	g.Skew = func() time.Duration { return time.Hour } // the hold is over
	pass, err := g.Enter(t.Context(), GateAsk{Hold: "/path", TrialLimit: time.Minute})
	if err != nil || pass.Held != 0 || pass.Trial == "" {
		t.Errorf("%+v, %v", pass, err)
	}
	if other, err := g.Enter(t.Context(), GateAsk{Hold: "/path"}); err != nil || other.Held == 0 {
		t.Errorf("beside the trial: %+v, %v", other, err)
	}
}

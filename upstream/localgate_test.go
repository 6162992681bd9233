package upstream_test

import (
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/upstream"
	"token-sidecar/upstream/gatetest"
)

func TestLocalGate(t *testing.T) {
	for _, c := range gatetest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := upstream.NewLocalGate()
				c.Run(t, gatetest.World{One: gate, Other: gate, Advance: time.Sleep, Unit: time.Second})
			})
		})
	}
}

func TestRates(t *testing.T) {
	for _, perMinute := range []int{1, 2, 7, 10, 19, 60, 100, 599, 6000} {
		caller, renewal := upstream.RateOf(perMinute, false), upstream.RateOf(perMinute, true)
		if caller.Leave != 0 || renewal.Leave > renewal.Burst/2 || (caller.Burst > 1 && renewal.Leave == 0) {
			t.Errorf("%d a minute: callers leave %d, renewals %d of %d", perMinute, caller.Leave, renewal.Leave, renewal.Burst)
		}
		// In the first minute after a pause.
		var tat time.Time
		begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		n := 0
		for now := begin; now.Before(begin.Add(time.Minute)); {
			wait, next := caller.Next(tat, now)
			now = now.Add(wait)
			tat = next
			if now.Before(begin.Add(time.Minute)) {
				n++
			}
		}
		if n != perMinute {
			t.Errorf("%d a minute lets %d out", perMinute, n)
		}
	}
	if wait, _ := upstream.RateOf(0, true).Next(time.Now().Add(time.Hour), time.Now()); wait != 0 {
		t.Error("no limit makes wait")
	}
}

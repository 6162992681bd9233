package gatetest

import (
	"testing"
	"time"

	"token-sidecar/upstream"
)

// limited is an attempt under a rate limit of one every four units, and three at once.
func (w World) limited() upstream.Ask {
	ask := w.ask()
	ask.Rate = upstream.Rate{Interval: w.units(4), Burst: 3}
	return ask
}

func (w World) mustWait(t *testing.T, pass upstream.Pass, units int) {
	t.Helper()
	if !w.near(pass.Wait, units) || pass.Held > 0 || pass.Trial != "" {
		t.Fatalf("%+v, want it to wait for %v", pass, w.units(units))
	}
}

func pace(t *testing.T, w World) {
	for range 2 { // a pause restores the burst, and no more
		w.mustGo(t, w.enter(t, w.One, w.limited()))
		w.mustGo(t, w.enter(t, w.Other, w.limited()))
		other := w.limited()
		other.Path = otherPath // one limit for all paths
		w.mustGo(t, w.enter(t, w.One, other))
		w.mustWait(t, w.enter(t, w.Other, w.limited()), 4)
		w.mustWait(t, w.enter(t, w.One, w.limited()), 4) // an attempt that does not wait takes no slot
		w.Advance(w.units(4))
		w.mustGo(t, w.enter(t, w.One, w.limited()))
		w.mustWait(t, w.enter(t, w.Other, w.limited()), 4)
		w.Advance(w.units(40))
	}
}

func minute(t *testing.T, w World) {
	const perMinute = 60
	ask := w.ask()
	ask.Rate = upstream.RateOf(perMinute, false)
	ask.Rate.Interval = ask.Rate.Interval * w.Unit / time.Second
	var advanced time.Duration
	now := func() time.Duration {
		if w.Elapsed == nil {
			return advanced
		}
		return advanced + w.Elapsed()
	}
	type attempt struct{ before, after time.Duration } // it went out between them
	var out []attempt
	for advanced < w.units(130) {
		for {
			before := now()
			if w.enter(t, w.One, ask) != (upstream.Pass{}) {
				break
			}
			out = append(out, attempt{before, now()})
		}
		w.Advance(w.Unit / 4)
		advanced += w.Unit / 4
	}
	most := 0
	for i, first := range out {
		n := 0
		for _, other := range out[i:] {
			if other.after-first.before < w.units(60) {
				n++
			}
		}
		most = max(most, n)
	}
	if most > perMinute || most < perMinute*9/10 {
		t.Errorf("%d attempts within a minute, want %d at most", most, perMinute)
	}
}

func patience(t *testing.T, w World) {
	for range 3 {
		w.mustGo(t, w.enter(t, w.One, w.limited()))
	}
	patient := w.limited()
	patient.Patience = w.units(10)
	w.mustWait(t, w.enter(t, w.One, patient), 4)
	w.mustWait(t, w.enter(t, w.Other, patient), 8)
	w.mustWait(t, w.enter(t, w.One, patient), 12) // too long: no slot is reserved
	w.mustWait(t, w.enter(t, w.One, patient), 12)
	w.Advance(w.units(4))
	patient.Paid = true
	w.mustGo(t, w.enter(t, w.One, patient))
	w.Advance(w.units(4))
	w.mustGo(t, w.enter(t, w.Other, patient))
	w.mustWait(t, w.enter(t, w.One, w.limited()), 4)
}

func background(t *testing.T, w World) {
	renewal := w.limited()
	renewal.Rate.Leave = 1
	w.mustGo(t, w.enter(t, w.One, renewal))
	w.mustGo(t, w.enter(t, w.Other, renewal))
	w.mustWait(t, w.enter(t, w.One, renewal), 4)
	w.mustGo(t, w.enter(t, w.One, w.limited()))
	w.mustWait(t, w.enter(t, w.One, w.limited()), 4)
	w.mustWait(t, w.enter(t, w.One, renewal), 8)
}

func heldTakesNoSlot(t *testing.T, w World) {
	for range 2 {
		w.mustGo(t, w.enter(t, w.One, w.limited()))
	}
	w.hold(t, w.One, 1, "")
	for range 5 {
		w.mustHold(t, w.enter(t, w.One, w.limited()), 1)
	}
	other := w.limited()
	other.Path = otherPath
	w.mustGo(t, w.enter(t, w.Other, other)) // the third of the burst
	w.Advance(w.units(1))
	patient := w.limited()
	patient.Patience = w.units(10)
	w.mustWait(t, w.enter(t, w.One, patient), 3)
	w.mustTry(t, w.enter(t, w.Other, w.ask()))
	w.Advance(w.units(3))
	patient.Paid = true
	w.mustTry(t, w.enter(t, w.One, patient))
}

package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestHeadroom: what may be allocated between two collections is bounded by a number or by what is alive, is never less
// under load than at rest, and is enough for few collections whether little or much is alive.
func TestHeadroom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.Uint64Range(0, 1<<30).Draw(t, "live")
		headroom := func(busy bool) uint64 { return max(live, 1<<20) * uint64(percentFor(live, busy)) / 100 }
		const rounding = 11 << 20 // a hundredth of the largest
		atRest, underLoad := headroom(false), headroom(true)
		if bound := max(leastHeadroom, live*7/10); atRest > bound || atRest+rounding < bound {
			t.Errorf("%d at rest", atRest)
		}
		if underLoad < atRest || underLoad > max(busyHeadroom, atRest) {
			t.Errorf("%d under load, %d at rest", underLoad, atRest)
		}
		if live >= busyHeadroom*100/busyPercent && underLoad+rounding/8 < busyHeadroom {
			t.Errorf("%d under load", underLoad)
		}
	})
}

// TestBusy: one collection soon after another begins a load, which a longer pause then does not end.
func TestBusy(t *testing.T) {
	for _, c := range []struct {
		already bool
		since   time.Duration
		want    bool
	}{
		{false, 50 * time.Millisecond, true},
		{false, 300 * time.Millisecond, false},
		{true, 300 * time.Millisecond, true},
		{true, 2 * time.Second, false},
		{false, 2 * time.Minute, false},
	} {
		if got := isBusy(c.already, c.since); got != c.want {
			t.Errorf("%v after the last, already busy %t: %t", c.since, c.already, got)
		}
	}
}

// Package gatetest has the tests that every [upstream.Gate] must pass.
//
//	for _, c := range gatetest.Cases() {
//		t.Run(c.Name, func(t *testing.T) { c.Run(t, newWorld(t)) })
//	}
package gatetest

import (
	"testing"
	"time"

	"token-sidecar/upstream"
)

// A World is a new gate, and the clock by which it runs.
type World struct {
	// One and Other are the same gate, as seen by two sidecars of a fleet.
	One, Other upstream.Gate
	// Advance lets time pass.
	Advance func(d time.Duration)
	// Elapsed is the time that has passed without Advance; nil if none does.
	Elapsed func() time.Duration
	// Unit is the unit of time of the cases, which are accurate to half of it: a second where Advance is free, less
	// where it really waits.
	Unit time.Duration
}

// A Case is one promise of a gate.
type Case struct {
	Name string
	Run  func(t *testing.T, w World)
}

// Cases returns all cases.
func Cases() []Case {
	return []Case{
		{"nothing is held at first", free},
		{"a hold is everybody's, and of its path alone", held},
		{"one trial goes out after a hold", oneTrial},
		{"one trial of many who come at once", oneOfMany},
		{"a trial has the time that it needs", longTrial},
		{"success ends the hold", success},
		{"a trial that is never heard of again renews the hold", failure},
		{"the trial's own answer renews the hold for as long as it says", renewed},
		{"a trial that was given up is given to the next", givenUp},
		{"a trial that a newer hold has overtaken has no say", overtaken},
		{"a shorter hold does not replace a longer one", shorter},
		{"the rate limit lets a burst out, and then a steady pace", pace},
		{"no more in any minute than the rate says", minute},
		{"an attempt waits for its slot if it has the patience", patience},
		{"a background attempt leaves some slots to callers", background},
		{"a held attempt takes no slot, and one that waits no trial", heldTakesNoSlot},
	}
}

// The paths could be any.
const (
	path      = upstream.ConnectPath
	otherPath = upstream.AdminPath
)

// ask is an attempt without a rate limit, whose trial takes one unit.
func (w World) ask() upstream.Ask { return upstream.Ask{Path: path, TrialLimit: w.Unit} }

func (w World) enter(t *testing.T, g upstream.Gate, ask upstream.Ask) upstream.Pass {
	t.Helper()
	pass, err := g.Enter(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	return pass
}

func (w World) hold(t *testing.T, g upstream.Gate, units int, trial string) {
	t.Helper()
	if err := g.Hold(t.Context(), path, upstream.Hold{For: w.units(units), Status: 429, Trial: trial}); err != nil {
		t.Fatal(err)
	}
}

func (w World) release(t *testing.T, g upstream.Gate, trial string, success bool) {
	t.Helper()
	if err := g.Release(t.Context(), path, trial, success); err != nil {
		t.Fatal(err)
	}
}

func (w World) units(n int) time.Duration { return time.Duration(n) * w.Unit }

// mustGo checks that a pass lets the attempt out, and not as a trial.
func (w World) mustGo(t *testing.T, pass upstream.Pass) {
	t.Helper()
	if pass != (upstream.Pass{}) {
		t.Fatalf("%+v, want to go", pass)
	}
}

// mustTry checks that a pass lets the attempt out as the trial, and returns the trial's name.
func (w World) mustTry(t *testing.T, pass upstream.Pass) string {
	t.Helper()
	if pass.Trial == "" || pass.Held > 0 || pass.Wait > 0 {
		t.Fatalf("%+v, want the trial", pass)
	}
	return pass.Trial
}

// mustHold checks that a pass holds the attempt back for that many more units.
func (w World) mustHold(t *testing.T, pass upstream.Pass, units int) {
	t.Helper()
	if !w.near(pass.Held, units) || pass.Status != 429 || pass.Trial != "" || pass.Wait > 0 {
		t.Fatalf("%+v, want it held for %v", pass, w.units(units))
	}
}

func (w World) near(d time.Duration, units int) bool {
	return d > 0 && d <= w.units(units) && d > w.units(units)-w.Unit/2
}

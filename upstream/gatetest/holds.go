package gatetest

import (
	"sync"
	"testing"

	"token-sidecar/upstream"
)

func free(t *testing.T, w World) {
	w.mustGo(t, w.enter(t, w.One, w.ask()))
	w.mustGo(t, w.enter(t, w.Other, w.ask()))
}

func held(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.Advance(w.units(3))
	w.mustHold(t, w.enter(t, w.Other, w.ask()), 7)
	ask := w.ask()
	ask.Path = otherPath
	w.mustGo(t, w.enter(t, w.Other, ask))
}

func oneTrial(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.Advance(w.units(10))
	w.mustTry(t, w.enter(t, w.Other, w.ask()))
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.mustHold(t, w.enter(t, w.Other, w.ask()), 10)
}

func oneOfMany(t *testing.T, w World) {
	w.hold(t, w.One, 2, "")
	w.Advance(w.units(3))
	var mu sync.Mutex
	trials, passed := 0, 0
	var all sync.WaitGroup
	for i := range 40 {
		gate := []upstream.Gate{w.One, w.Other}[i%2]
		all.Go(func() {
			pass, err := gate.Enter(t.Context(), w.ask())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case pass.Trial != "":
				trials++
			case pass.Held <= 0:
				passed++
			}
		})
	}
	all.Wait()
	if trials != 1 || passed != 0 {
		t.Errorf("%d trials, and %d attempts besides", trials, passed)
	}
}

func longTrial(t *testing.T, w World) {
	w.hold(t, w.One, 1, "")
	w.Advance(w.units(1))
	ask := w.ask()
	ask.TrialLimit = w.units(8)
	w.mustTry(t, w.enter(t, w.One, ask))
	w.Advance(w.units(2))
	w.mustHold(t, w.enter(t, w.Other, w.ask()), 6)
}

func success(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.Advance(w.units(10))
	trial := w.mustTry(t, w.enter(t, w.One, w.ask()))
	w.release(t, w.One, trial, true)
	w.mustGo(t, w.enter(t, w.Other, w.ask()))
	w.mustGo(t, w.enter(t, w.One, w.ask()))
}

func failure(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.Advance(w.units(12))
	lost := w.mustTry(t, w.enter(t, w.One, w.ask()))
	w.Advance(w.units(4))
	w.mustHold(t, w.enter(t, w.Other, w.ask()), 6)
	w.Advance(w.units(6))
	w.mustTry(t, w.enter(t, w.Other, w.ask()))
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.release(t, w.One, lost, true) // superseded long ago, so it changes nothing
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
}

func renewed(t *testing.T, w World) {
	for _, length := range []int{3, 20} {
		w.hold(t, w.One, 10, "")
		w.Advance(w.units(10))
		trial := w.mustTry(t, w.enter(t, w.One, w.ask()))
		w.hold(t, w.One, length, trial)
		w.mustHold(t, w.enter(t, w.Other, w.ask()), length)
		w.Advance(w.units(length))
		next := w.mustTry(t, w.enter(t, w.Other, w.ask()))
		w.release(t, w.One, trial, true) // settled already
		w.mustHold(t, w.enter(t, w.One, w.ask()), length)
		w.release(t, w.Other, next, true)
		w.mustGo(t, w.enter(t, w.One, w.ask()))
	}
}

func givenUp(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.Advance(w.units(10))
	trial := w.mustTry(t, w.enter(t, w.One, w.ask()))
	w.release(t, w.One, trial, false)
	next := w.mustTry(t, w.enter(t, w.Other, w.ask()))
	if next == trial {
		t.Error("two trials have one name")
	}
	w.release(t, w.One, trial, false)
	w.release(t, w.One, trial, true)
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.release(t, w.Other, next, true)
	w.mustGo(t, w.enter(t, w.One, w.ask()))
}

func overtaken(t *testing.T, w World) {
	w.hold(t, w.One, 5, "")
	w.Advance(w.units(5))
	slow := w.mustTry(t, w.enter(t, w.One, w.ask()))
	w.hold(t, w.Other, 10, "") // by an attempt that was in progress
	w.release(t, w.One, slow, true)
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.hold(t, w.One, 2, slow)
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.Advance(w.units(10))
	w.mustTry(t, w.enter(t, w.Other, w.ask()))
	w.release(t, w.One, slow, false)
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
}

func shorter(t *testing.T, w World) {
	w.hold(t, w.One, 10, "")
	w.hold(t, w.Other, 3, "")
	w.mustHold(t, w.enter(t, w.One, w.ask()), 10)
	w.Advance(w.units(5))
	w.hold(t, w.Other, 8, "")
	w.mustHold(t, w.enter(t, w.One, w.ask()), 8)
	w.Advance(w.units(8))
	w.mustTry(t, w.enter(t, w.One, w.ask()))
	w.mustHold(t, w.enter(t, w.Other, w.ask()), 8)
}

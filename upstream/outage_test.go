package upstream

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/testbed"
)

var recordTo = flag.String("record", "", "write what was counted into this document")

// TestTenMinutesOfOutage counts the attempts of a fleet while the auth service is down for ten minutes. Each sidecar
// has a new user every ten seconds, who asks again after five. first is what a thousand sidecars of the first version
// made, which had one breaker for all calls and shared no Retry-After.
func TestTenMinutesOfOutage(t *testing.T) {
	sidecars := 50
	if *recordTo != "" {
		sidecars = 1000
	}
	for _, c := range []struct {
		name  string
		mood  mood
		first int
		alone int // the most attempts of one sidecar that shares nothing
		gate  int // the most attempts of all sidecars that share a gate; 0: the gate makes no difference
	}{
		{"503", mood{status: 503, latency: 20 * time.Millisecond}, 63000, 25, 0},
		{"503 with `Retry-After: 60`", mood{status: 503, latency: 20 * time.Millisecond, retryAfter: "60"}, 10000, 20, 30},
		{"429 with `Retry-After: 60`", mood{status: 429, latency: 20 * time.Millisecond, retryAfter: "60"}, 10000, 20, 30},
		{"no answer", hangs, 57000, 25, 0},
	} {
		alone, gate := outage(t, c.mood, sidecars, nil), outage(t, c.mood, sidecars, NewLocalGate())
		if alone > sidecars*c.alone || (c.gate > 0 && gate > c.gate) {
			t.Errorf("%s: %d attempts of %d sidecars that share nothing, %d of as many that share a gate", c.name, alone,
				sidecars, gate)
		}
		testbed.Record(t, *recordTo, "outage, "+c.name, fmt.Sprintf("| %s | %d | %d | %d |", c.name, c.first, alone, gate))
	}
}

// outage returns how many attempts reach the auth service while it is down for ten minutes.
func outage(t *testing.T, m mood, sidecars int, gate Gate) (attempts int) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		s.is("", m)
		var fleet sync.WaitGroup
		end := time.Now().Add(10 * time.Minute)
		for pod := range sidecars {
			c := s.client(func(o *Options) { o.Gate = gate })
			fleet.Go(func() {
				time.Sleep(rand.N(10 * time.Second))
				for n := 0; time.Now().Before(end); n++ {
					fleet.Go(func() { _, _ = c.Token(t.Context(), named(fmt.Sprint("user-", pod, "-", n/2))) })
					time.Sleep(5 * time.Second)
				}
			})
		}
		time.Sleep(time.Until(end))
		attempts = s.count()
		s.heals()
		time.Sleep(time.Minute)
		fleet.Wait()
	})
	return attempts
}

package upstream

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A pausing is what one sidecar of a fleet must know of the pauses that the auth service asks for.
type pausing struct {
	*Client
	until time.Time // it was told, or has heard of a pause until then
	over  bool      // it has asked since by way of the gate, and got a token
}

// A slowGate takes its time to hear of a pause, or that one is over.
type slowGate struct{ Gate }

const slowness = 3 * time.Second

func (g slowGate) Hold(ctx context.Context, path string, h Hold) error {
	if !sleep(ctx, slowness) {
		return ctx.Err()
	}
	return g.Gate.Hold(ctx, path, h)
}

func (g slowGate) Release(ctx context.Context, path, trial string, success bool) error {
	if !sleep(ctx, slowness) {
		return ctx.Err()
	}
	return g.Gate.Release(ctx, path, trial, success)
}

// TestASlowGateHearsAll: the caller does not wait for it, and the others learn of it.
func TestASlowGateHearsAll(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		gate := slowGate{NewLocalGate()}
		one, other := s.client(func(o *Options) { o.Gate = gate }), s.client(func(o *Options) { o.Gate = gate })
		s.is("alice", mood{status: 429, retryAfter: "20"})
		tell := func(user string) {
			began := time.Now()
			ask(t, one, named(user))
			if took := time.Since(began); took > tellLimit {
				t.Errorf("%s waited %v", user, took)
			}
			time.Sleep(slowness)
		}
		tell("alice")
		if e := ask(t, other, named("bob")); e == nil || !e.Held() {
			t.Errorf("the pause: %v", e)
		}
		time.Sleep(20 * time.Second)
		tell("trial")
		if e := ask(t, other, named("bob")); e != nil {
			t.Errorf("after the pause: %v", e)
		}
	})
}

// TestPausesWhileTheGateComesAndGoes: a sidecar that knows of a pause keeps it, and tells the others as soon as it can.
// When the pause is over for the fleet, it is over for all who have asked since, also when the gate is lost later.
func TestPausesWhileTheGateComesAndGoes(t *testing.T) {
	const pause, moment = 20 * time.Second, 2 * fleetTrust // after a moment, everybody asks the gate again
	type event struct {
		wait   time.Duration
		who    int
		action string
	}
	events := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
		return event{
			wait:   rapid.SampledFrom([]time.Duration{moment, moment, moment, moment, pause, time.Hour}).Draw(t, "wait"),
			who:    rapid.IntRange(0, 1).Draw(t, "who"),
			action: rapid.SampledFrom([]string{"ask", "ask", "ask", "pause", "lose", "find"}).Draw(t, "action"),
		}
	}), 1, 300)
	rapid.Check(t, func(rt *rapid.T) {
		script := events.Draw(rt, "events")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			s := newService()
			gate := &brokenGate{Gate: NewLocalGate()}
			var fleet [2]pausing
			for i := range fleet {
				fleet[i].Client = s.client(func(o *Options) { o.Gate = gate })
			}
			var told time.Time // the fleet was told of a pause until then
			tell := func(until time.Time) {
				told = until
				for i := range fleet {
					fleet[i].over = false
				}
			}
			for n, event := range script {
				time.Sleep(event.wait)
				who := &fleet[event.who]
				now := time.Now()
				switch event.action {
				case "lose", "find":
					gate.broken = event.action == "lose"
					continue
				case "pause":
					s.is("", mood{status: 429, retryAfter: fmt.Sprint(pause.Seconds())})
				case "ask":
					s.is("", mood{latency: time.Millisecond})
				}
				if !gate.broken {
					if who.until.After(told) {
						tell(who.until)
					}
					who.until = told
				}
				before := s.count()
				var errs [2]error
				var callers sync.WaitGroup
				for i := range errs {
					req := named(fmt.Sprint(n, "-", i))
					req.Background = true // it does not wait for the end of a pause
					callers.Go(func() { _, errs[i] = who.Token(t.Context(), req) })
				}
				callers.Wait()
				problem := ""
				asked := s.count() - before
				switch {
				case now.Before(who.until) && asked > 0:
					problem = "it does not keep the pause"
				case event.action == "pause" && asked > 0:
					who.until, who.over = now.Add(pause), false
					if !gate.broken {
						tell(who.until)
					}
				case event.action == "ask" && !now.Before(who.until) && errs[0] != nil && errs[1] != nil:
					problem = "nobody is let out after the pause"
				case event.action == "ask" && who.over && (errs[0] != nil || errs[1] != nil):
					problem = "somebody is held back, though the pause is over"
				case event.action == "ask" && asked > 0 && !gate.broken:
					who.over = true
				}
				if problem != "" {
					problems = append(problems,
						fmt.Sprintf("event %d, %v, gate lost: %v: %s: %v", n, event, gate.broken, problem, errs))
					break
				}
			}
		})
		if len(problems) > 0 {
			rt.Fatalf("%v", problems)
		}
	})
}

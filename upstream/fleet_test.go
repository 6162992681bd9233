package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestAPauseIsKeptByAll: as long as the auth service says, but no longer than BREAKER_OPEN_FOR; then one trial goes
// out.
func TestAPauseIsKeptByAll(t *testing.T) {
	reset := func(d time.Duration) http.Header {
		return http.Header{"X-Rate-Limit-Reset": {strconv.FormatInt(time.Now().Add(d).Unix(), 10)}}
	}
	for name, c := range map[string]struct {
		mood func() mood
		kind Kind
		want time.Duration
	}{
		"429":                  {func() mood { return mood{status: 429, retryAfter: "20"} }, RateLimited, 20 * time.Second},
		"429, a day":           {func() mood { return mood{status: 429, retryAfter: "86400"} }, RateLimited, 30 * time.Second},
		"429, reset":           {func() mood { return mood{status: 429, header: reset(20 * time.Second)} }, RateLimited, 20 * time.Second},
		"429, both":            {func() mood { return mood{status: 429, retryAfter: "9", header: reset(time.Hour)} }, RateLimited, 9 * time.Second},
		"429, nothing said":    {func() mood { return mood{status: 429} }, RateLimited, time.Second},
		"429, a fraction":      {func() mood { return mood{status: 429, retryAfter: "2.5"} }, RateLimited, 3 * time.Second},
		"503":                  {func() mood { return mood{status: 503, retryAfter: "20"} }, Unavailable, 20 * time.Second},
		"503, beyond 64 bits":  {func() mood { return mood{status: 503, retryAfter: "99999999999999999999"} }, Unavailable, 30 * time.Second},
		"500 with Retry-After": {func() mood { return mood{status: 500, retryAfter: "20"} }, Unavailable, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				client := s.client(nil)
				s.is("alice", c.mood())
				ask(t, client, named("alice"))
				if client.State().Paused != c.kind.String() || client.State().PausedFor != c.want {
					t.Errorf("%+v", client.State())
				}
				s.heals()
				time.Sleep(c.want - time.Millisecond)
				renewal := named("bob")
				renewal.Background = true // it does not wait, even for a moment
				if e := ask(t, client, renewal); e == nil || !e.Held() || e.Kind != c.kind || e.RetryAfter != time.Millisecond {
					t.Errorf("before the end: %+v", e)
				}
				// A caller waits for the end of a pause that is nearly over, except after a 429.
				if client.Held(renewal) == nil || (client.Held(named("bob")) == nil) == (c.kind == RateLimited) {
					t.Error("Held does not tell what Token does")
				}
				if e := ask(t, client, Request{Path: AdminPath, Type: "client"}); e != nil {
					t.Errorf("the other path: %v", e)
				}
				time.Sleep(time.Millisecond)
				s.is("", mood{latency: time.Second})
				s.most = 0
				var callers sync.WaitGroup
				var mu sync.Mutex
				answered := 0
				for i := range 10 {
					callers.Go(func() {
						renewal := named(fmt.Sprint(i))
						renewal.Background = true
						if ask(t, client, renewal) == nil {
							mu.Lock()
							defer mu.Unlock()
							answered++
						}
					})
				}
				callers.Wait()
				if answered != 1 || s.most != 1 {
					t.Errorf("%d were answered, %d at once", answered, s.most)
				}
				if e := ask(t, client, named("carol")); e != nil || client.State().Paused != "" {
					t.Errorf("after the trial: %v, %+v", e, client.State())
				}
			})
		})
	}
}

// TestShortPausesAreWaitedOut: by callers, except after a 429.
func TestShortPausesAreWaitedOut(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		s.is("", mood{status: 503, retryAfter: "2"})
		time.AfterFunc(time.Second, s.heals)
		var callers sync.WaitGroup
		for i := range 50 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				began := time.Now()
				if e := ask(t, c, named(fmt.Sprint(i))); e != nil || time.Since(began) > 3*time.Second {
					t.Errorf("%v after %v", e, time.Since(began))
				}
			})
		}
		callers.Wait()
		if n := s.count(); n != 51 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestAFleetKeepsOnePause: twelve sidecars ask once, and once more after the pause.
func TestAFleetKeepsOnePause(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		gate := NewLocalGate()
		var fleet []*Client
		for range 12 {
			fleet = append(fleet, s.client(func(o *Options) { o.Gate = gate }))
		}
		s.is("", mood{status: 429, retryAfter: "20"})
		for i := range 12 * 65 {
			if e := ask(t, fleet[i%12], named(fmt.Sprint(i))); e == nil || e.Kind != RateLimited ||
				e.RetryAfter > 20*time.Second {
				t.Fatalf("%v", e)
			}
			time.Sleep(time.Second / 12)
		}
		if n := s.count(); n != 4 {
			t.Errorf("%d attempts in 65 s", n)
		}
		s.heals()
		time.Sleep(16 * time.Second)
		if e := ask(t, fleet[0], named("trial")); e != nil {
			t.Fatal(e)
		}
		time.Sleep(fleetTrust)
		for _, c := range fleet {
			if e := ask(t, c, named("anybody")); e != nil {
				t.Error(e)
			}
		}
	})
}

// TestAFleetLearnsThatAPauseIsOver: within a second.
func TestAFleetLearnsThatAPauseIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		gate := &brokenGate{Gate: NewLocalGate()}
		one, other := s.client(func(o *Options) { o.Gate = gate }), s.client(func(o *Options) { o.Gate = gate })
		s.is("alice", mood{status: 429, retryAfter: "20"})
		ask(t, one, named("alice"))
		time.Sleep(20 * time.Second)
		s.is("trial", mood{latency: time.Second})
		var trial sync.WaitGroup
		trial.Go(func() {
			if e := ask(t, one, named("trial")); e != nil {
				t.Errorf("the trial: %v", e)
			}
		})
		time.Sleep(900 * time.Millisecond)
		if e := ask(t, other, named("bob")); e == nil || !e.Held() || e.RetryAfter < 19*time.Second {
			t.Errorf("during the trial: %v", e)
		}
		trial.Wait()
		time.Sleep(fleetTrust)
		if e := ask(t, other, named("bob")); e != nil {
			t.Errorf("after the trial: %v", e)
		}
		// The sidecar that first heard of the pause does not continue it alone.
		gate.broken = true
		s.is("", mood{latency: time.Second})
		for i := range 10 {
			trial.Go(func() {
				renewal := named(fmt.Sprint(i))
				renewal.Background = true
				if e := ask(t, one, renewal); e != nil {
					t.Errorf("without the gate: %v", e)
				}
			})
		}
		trial.Wait()
	})
}

// A brokenGate fails while it is broken.
type brokenGate struct {
	Gate
	broken bool
	holds  atomic.Int32
}

var errBroken = errors.New("the gate is away")

func (g *brokenGate) Enter(ctx context.Context, ask Ask) (Pass, error) {
	if g.broken {
		return Pass{Held: time.Hour, Trial: "x"}, errBroken
	}
	return g.Gate.Enter(ctx, ask)
}

func (g *brokenGate) Hold(ctx context.Context, path string, h Hold) error {
	g.holds.Add(1)
	if g.broken {
		return errBroken
	}
	return g.Gate.Hold(ctx, path, h)
}

func (g *brokenGate) Release(ctx context.Context, path, trial string, success bool) error {
	if g.broken {
		return errBroken
	}
	return g.Gate.Release(ctx, path, trial, success)
}

// TestWithoutItsGateASidecarKeepsToItself: it then uses a gate of its own.
func TestWithoutItsGateASidecarKeepsToItself(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		gate := &brokenGate{Gate: NewLocalGate(), broken: true}
		c := s.client(func(o *Options) { o.Gate, o.CallsPerMinute = gate, 30 })
		s.is("", mood{status: 429, retryAfter: "20"})
		ask(t, c, named("alice"))
		s.heals()
		time.Sleep(10 * time.Second)
		if e := ask(t, c, named("bob")); e == nil || e.Kind != RateLimited {
			t.Errorf("%v", e)
		}
		time.Sleep(10 * time.Second)
		if e := ask(t, c, named("carol")); e != nil {
			t.Errorf("%v", e)
		}
		before := s.count()
		for i := range 60 {
			renewal := named(fmt.Sprint(i))
			renewal.Background = true
			ask(t, c, renewal)
			time.Sleep(time.Second)
		}
		if n := s.count() - before; n > 30 || n < 25 {
			t.Errorf("%d attempts in a minute", n)
		}
		if testutil.ToFloat64(c.metrics.gateFailures) == 0 {
			t.Error("nothing is counted")
		}
		gate.broken = false
		if e := ask(t, c, named("dora")); e != nil {
			t.Errorf("%v", e)
		}
	})
}

// TestOnlyTheAuthServiceHoldsTheFleet: that one sidecar cannot reach it, gets no answer in time, or gets nonsense, does
// not affect the others.
func TestOnlyTheAuthServiceHoldsTheFleet(t *testing.T) {
	for name, m := range map[string]mood{
		"no network": {err: io.ErrUnexpectedEOF}, "hangs": hangs, "nonsense": page, "500": down, "refused": gone, "our secret": wrong, "bare 401": bare,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				gate := &brokenGate{Gate: NewLocalGate()}
				one, other := s.client(func(o *Options) { o.Gate = gate }), s.client(func(o *Options) { o.Gate = gate })
				s.is("", m)
				for i := range 20 {
					ask(t, one, named(fmt.Sprint(i)))
				}
				if gate.holds.Load() != 0 {
					t.Errorf("%d holds", gate.holds.Load())
				}
				s.heals()
				if e := ask(t, other, named("alice")); e != nil {
					t.Error(e)
				}
			})
		})
	}
}

// TestATrialThatFailsOtherwise: it renews the hold, but a cancelled one does not.
func TestATrialThatFailsOtherwise(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		s.is("", mood{status: 429, retryAfter: "10"})
		ask(t, c, named("alice"))
		time.Sleep(10 * time.Second)
		s.is("", down)
		if e := ask(t, c, named("bob")); e == nil || e.Held() {
			t.Errorf("the trial: %v", e)
		}
		if n := s.count(); n != 2 {
			t.Errorf("%d attempts, the trial is one", n)
		}
		s.heals()
		if e := ask(t, c, named("carol")); e == nil || !e.Held() || e.RetryAfter != 10*time.Second {
			t.Errorf("after the trial: %+v", e)
		}
		time.Sleep(10 * time.Second)
		s.is("dora", hangs)
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		_, _ = c.Token(ctx, named("dora"))
		if e := ask(t, c, named("emil")); e != nil {
			t.Errorf("after a cancelled trial: %v", e)
		}
	})
}

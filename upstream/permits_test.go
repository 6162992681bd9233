package upstream

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestManyAtOnce: at most UPSTREAM_MAX_CONCURRENT attempts are in progress, and all callers get their token in turn.
func TestManyAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{latency: 50 * time.Millisecond})
		c := s.client(nil)
		var callers sync.WaitGroup
		began := time.Now()
		for i := range 4096 {
			callers.Go(func() {
				if e := ask(t, c, named(fmt.Sprint(i))); e != nil {
					t.Errorf("%v", e)
				}
			})
		}
		synctest.Wait()
		if n := c.permits.waiting.Load(); n != 4096-64 {
			t.Errorf("%d wait", n)
		}
		callers.Wait()
		if s.most != 64 || s.count() != 4096 || time.Since(began) != 64*50*time.Millisecond {
			t.Errorf("%d at once, %d in all, after %v", s.most, s.count(), time.Since(began))
		}
	})
}

// TestWaitingIsNoVerdict: the caller of a call that could not start in time is told so in time, and the breaker does
// not count it.
func TestWaitingIsNoVerdict(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{latency: 4 * time.Second})
		c := s.client(func(o *Options) { o.MaxConcurrent = 1 })
		var callers sync.WaitGroup
		var mu sync.Mutex
		answered := 0
		for i := range 20 {
			callers.Go(func() {
				began := time.Now()
				e := ask(t, c, named(fmt.Sprint(i)))
				took := time.Since(began)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case e == nil:
					answered++
				case e.Kind != Unavailable || !e.Held() || e.RetryAfter < time.Second || took > 11*time.Second:
					t.Errorf("%+v after %v", e, took)
				}
			})
		}
		callers.Wait()
		if answered != 3 || c.State().Breaker != "closed" || c.State().FailingKeys != 0 {
			t.Errorf("%d were answered, %+v", answered, c.State())
		}
	})
}

// TestCallersComeBeforeRenewals: a renewal that finds no free permit, or waiting callers, is put off at once.
func TestCallersComeBeforeRenewals(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{latency: time.Second})
		c := s.client(func(o *Options) { o.MaxConcurrent = 1 })
		renewal := func(user string) Request {
			r := named(user)
			r.Background = true
			return r
		}
		var callers sync.WaitGroup
		callers.Go(func() {
			if e := ask(t, c, renewal("alone")); e != nil {
				t.Errorf("with room: %v", e)
			}
		})
		synctest.Wait()
		callers.Go(func() {
			if e := ask(t, c, named("caller")); e != nil {
				t.Error(e)
			}
		})
		for range 3 {
			synctest.Wait()
			began := time.Now()
			if e := ask(t, c, renewal("one more")); e == nil || !e.Held() || time.Since(began) > 0 {
				t.Errorf("without room: %v after %v", e, time.Since(began))
			}
			time.Sleep(600 * time.Millisecond)
		}
		callers.Wait()
	})
}

// TestASlowServiceIsNotFlooded: one that takes longer than UPSTREAM_TIMEOUT gets as many attempts as may be in
// progress, and few more.
func TestASlowServiceIsNotFlooded(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{latency: 10 * time.Second})
		c := s.client(nil)
		var callers sync.WaitGroup
		for i := range 300 {
			callers.Go(func() { ask(t, c, named(fmt.Sprint(i))) })
		}
		callers.Wait()
		if n := s.count(); n > 64+300/4 {
			t.Errorf("%d attempts for 300 users", n)
		}
	})
}

// TestTheFleetKeepsToItsRate: in no minute are there more attempts than UPSTREAM_CALLS_PER_MINUTE, including retries.
// Callers wait as long as they can, and have priority over renewals.
func TestTheFleetKeepsToItsRate(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		const perMinute = 60
		gate := NewLocalGate()
		var fleet []*Client
		for range 5 {
			fleet = append(fleet, s.client(func(o *Options) { o.Gate, o.CallsPerMinute = gate, perMinute }))
		}
		s.is("failing", down)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
		defer stop()
		var all sync.WaitGroup
		var mu sync.Mutex
		renewed, waited, refused := 0, 0, 0
		for i := range 300 {
			all.Go(func() {
				for n := 0; sleep(ctx, time.Second+time.Duration(i)*17*time.Millisecond); n++ {
					req := named(fmt.Sprint(i, "-", n))
					if i == 0 {
						req = named("failing")
					}
					req.Background = i >= 200
					began := time.Now()
					e := ask(t, fleet[i%5], req)
					took := time.Since(began)
					mu.Lock()
					switch {
					case e == nil && req.Background:
						renewed++
					case e == nil && took > time.Second:
						waited++
					case e != nil && e.Held():
						refused++
					case e != nil && i != 0:
						t.Errorf("%v", e)
					}
					if took > 16*time.Second || (req.Background && took > 0) {
						t.Errorf("an answer after %v", took)
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		for i, start := range s.starts {
			n := 0
			for _, other := range s.starts[i:] {
				if other.Sub(start) < time.Minute {
					n++
				}
			}
			if n > perMinute {
				t.Fatalf("%d attempts in a minute", n)
			}
		}
		if n := s.count(); n < 5*perMinute*8/10 || waited == 0 || refused == 0 || renewed > 10 {
			t.Errorf("%d attempts, %d waited, %d refused, %d renewals", n, waited, refused, renewed)
		}
		if testutil.ToFloat64(fleet[0].metrics.rateWaits) == 0 {
			t.Error("nothing is counted")
		}
	})
}

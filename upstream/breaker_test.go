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

// openAlone opens the breaker with failures of one key.
func openAlone(t *testing.T, s *service, c *Client, m mood) {
	t.Helper()
	s.is("poisoned", m)
	// Failures before the last success do not count.
	s.is("another", down)
	ask(t, c, named("another"))
	time.Sleep(time.Second)
	s.is("another", mood{})
	if e := ask(t, c, named("another")); e != nil {
		t.Fatal(e)
	}
	for range 5 {
		ask(t, c, named("poisoned"))
		time.Sleep(8 * time.Second) // longer than each backoff so far
	}
	if st := c.State(); st.Breaker != "open" || !st.Paths[0].OneKey || st.Paths[1].Breaker != "closed" {
		t.Fatalf("the breaker is not open because of one key: %+v", st)
	}
}

// openForAll opens the breaker with failures of many keys.
func openForAll(t *testing.T, s *service, c *Client) {
	t.Helper()
	s.is("", down)
	for i := range 5 {
		ask(t, c, named(fmt.Sprint("failing-", i)))
	}
	if st := c.State(); st.Breaker != "open" || st.Paths[0].OneKey {
		t.Fatalf("the breaker is not open for all: %+v", st)
	}
}

// TestOneKeyAloneOpensTheBreaker: this is reported, and does not affect other keys.
func TestOneKeyAloneOpensTheBreaker(t *testing.T) {
	for cause, m := range map[string]mood{
		"500 Internal Server Error": down, "no answer in time": hangs, "answer without a usable token": page,
	} {
		t.Run(cause, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				c := s.client(func(o *Options) { o.Timeout = time.Second })
				openAlone(t, s, c, m)
				if n := testutil.ToFloat64(c.metrics.opened.WithLabelValues(ConnectPath)); n != 1 {
					t.Errorf("%v openings counted", n)
				}
				st := c.State().Paths[0]
				if st.Cause != cause || st.FirstCause != cause || st.Failing.Cause != cause || st.OpenedAt.IsZero() {
					t.Errorf("cause %q is told as %+v", cause, st)
				}
				before := s.count()
				if e := ask(t, c, named("poisoned")); e == nil || !e.Held() || s.count() != before {
					t.Errorf("the key itself: %v", e)
				}
				if e := c.Held(named("poisoned")); e == nil {
					t.Error("Held does not know of the key")
				}
				if err := c.Held(named("alice")); err != nil {
					t.Errorf("Held refuses another: %v", err)
				}
				began := time.Now()
				if e := ask(t, c, named("alice")); e != nil || time.Since(began) > 0 {
					t.Errorf("another key: %v after %v", e, time.Since(began))
				}
				if st := c.State(); st.Breaker != "closed" {
					t.Errorf("the other key's success does not close it: %+v", st)
				}
			})
		})
	}
}

// TestPoisonedUserInAQuietCache: a new user every four seconds, and one whose calls fail and whose app keeps asking.
func TestPoisonedUserInAQuietCache(t *testing.T) {
	for name, m := range map[string]mood{"500": down, "hangs": hangs, "nonsense": page, "bare 401": bare} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				s.is("poisoned", m)
				c := s.client(nil)
				var app sync.WaitGroup
				ctx, stop := context.WithCancel(t.Context())
				app.Go(func() {
					for sleep(ctx, 300*time.Millisecond) {
						_, _ = c.Token(ctx, named("poisoned"))
					}
				})
				for i := range 60 {
					time.Sleep(4 * time.Second)
					began := time.Now()
					if e := ask(t, c, named(fmt.Sprint("user-", i))); e != nil || time.Since(began) > 0 {
						t.Errorf("user-%d: %v after %v", i, e, time.Since(began))
					}
				}
				stop()
				app.Wait()
				if n := s.of("poisoned"); n > 25 {
					t.Errorf("%d attempts for the poisoned user in four minutes", n)
				}
			})
		})
	}
}

// TestTheOtherPathHasItsOwnBreaker: it stays closed.
func TestTheOtherPathHasItsOwnBreaker(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is(AdminPath, down)
		c := s.client(nil)
		for i := range 20 {
			ask(t, c, Request{Path: AdminPath, Type: "access", UserID: hidden(fmt.Sprint(i))})
			if e := ask(t, c, named(fmt.Sprint(i))); e != nil {
				t.Fatal(e)
			}
		}
		if st := c.State(); st.Breaker != "open" || st.Paths[0].Breaker != "closed" || st.Paths[1].Breaker != "open" {
			t.Errorf("%+v", st)
		}
	})
}

// TestSeveralKeysOpenItForAll: until a trial of a single attempt succeeds.
func TestSeveralKeysOpenItForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		openForAll(t, s, c)
		for range 5 {
			before := s.count()
			for i := range 29 {
				if e := ask(t, c, named(fmt.Sprint("user-", i))); e == nil || !e.Held() || e.Kind != Unavailable ||
					e.RetryAfter <= 0 {
					t.Fatalf("%v", e)
				}
				time.Sleep(time.Second)
			}
			if s.count() != before {
				t.Fatal("asked through an open breaker")
			}
			time.Sleep(2 * time.Second)
			c.paths[ConnectPath].retries = newBudget() // so that the budget is not why there is a single attempt
			ask(t, c, named("trial"))
			if n := s.count() - before; n != 1 {
				t.Fatalf("%d attempts of a trial", n)
			}
		}
		s.is("", mood{latency: time.Second})
		time.Sleep(31 * time.Second)
		var callers sync.WaitGroup
		var mu sync.Mutex
		answered := 0
		for i := range 10 {
			callers.Go(func() {
				if e := ask(t, c, named(fmt.Sprint("user-", i))); e == nil {
					mu.Lock()
					defer mu.Unlock()
					answered++
				}
			})
		}
		callers.Wait()
		if answered != 1 || c.State().Breaker != "closed" {
			t.Errorf("%d were answered, %+v", answered, c.State())
		}
	})
}

// TestADetourThatFailsOpensItForAll: because then several keys fail.
func TestADetourThatFailsOpensItForAll(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		openAlone(t, s, c, down)
		s.is("", down)
		if e := ask(t, c, named("alice")); e == nil || e.Held() {
			t.Fatalf("%v", e)
		}
		s.is("", mood{})
		before := s.count()
		if e := ask(t, c, named("bob")); e == nil || !e.Held() || s.count() != before {
			t.Errorf("%v", e)
		}
		time.Sleep(31 * time.Second)
		if e := ask(t, c, named("carol")); e != nil {
			t.Errorf("%v", e)
		}
	})
}

// TestOneDetourAtATime: other calls wait for its outcome, and are not refused. A renewal is.
func TestOneDetourAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		openAlone(t, s, c, down)
		s.is("", mood{latency: time.Second})
		s.most = 0
		var callers sync.WaitGroup
		began := time.Now()
		for i := range 10 {
			callers.Go(func() {
				if e := ask(t, c, named(fmt.Sprint("user-", i))); e != nil {
					t.Errorf("%v", e)
				}
			})
		}
		synctest.Wait()
		if s.most != 1 {
			t.Errorf("%d at once", s.most)
		}
		renewal := named("renewal")
		renewal.Background = true
		if e := ask(t, c, renewal); e == nil || !e.Held() {
			t.Errorf("a renewal: %v", e)
		}
		callers.Wait()
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("all answered after %v", took)
		}
	})
}

// TestACancelledDetourFreesItsPlace: for the next one in line.
func TestACancelledDetourFreesItsPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		openAlone(t, s, c, down)
		s.is("impatient", hangs)
		ctx, leave := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() { _, _ = c.Token(ctx, named("impatient")) })
		synctest.Wait()
		callers.Go(func() {
			if e := ask(t, c, named("alice")); e != nil {
				t.Errorf("%v", e)
			}
		})
		synctest.Wait()
		leave()
		callers.Wait()
	})
}

// TestALateSuccessClosesIt: a success of another key that was called before the breaker opened.
func TestALateSuccessClosesIt(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(func(o *Options) { o.Timeout = time.Minute; o.BreakerFailures = 2 })
		s.is("slow", mood{latency: 10 * time.Second})
		var callers sync.WaitGroup
		callers.Go(func() { ask(t, c, named("slow")) })
		s.is("poisoned", down)
		ask(t, c, named("poisoned"))
		time.Sleep(time.Second)
		ask(t, c, named("poisoned"))
		if c.State().Breaker != "open" {
			t.Fatal("not open")
		}
		callers.Wait()
		if c.State().Breaker != "closed" {
			t.Errorf("%+v", c.State())
		}
	})
}

// TestWhatIsNoFailure: refusals, cancelled calls and those that were held back neither open the breaker nor hide
// failures.
func TestWhatIsNoFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		s.is("gone", gone)
		for range 30 {
			ask(t, c, named("gone"))
		}
		s.is("", hangs)
		for i := range 30 {
			ctx, leave := contextWithTimeout(t, time.Hour)
			time.AfterFunc(time.Second, leave)
			_, _ = c.Token(ctx, named(fmt.Sprint(i)))
		}
		if c.State().Breaker != "closed" {
			t.Errorf("%+v", c.State())
		}
		s.is("", down)
		for i := range 5 {
			ask(t, c, named(fmt.Sprint("failing-", i)))
			ctx, leave := contextWithTimeout(t, time.Hour)
			leave()
			_, _ = c.Token(ctx, named("cancelled"))
		}
		if c.State().Breaker != "open" {
			t.Errorf("%+v", c.State())
		}
	})
}

// TestOurOwnStandstill: time-outs that were noticed late say that this process stood still, and nothing about the auth
// service.
func TestOurOwnStandstill(t *testing.T) {
	for oversleep, blamed := range map[time.Duration]bool{500 * time.Millisecond: true, 7 * time.Second: false} {
		inBubble(t, func(t *testing.T, s *service) {
			c := s.client(nil)
			s.is("", mood{latency: time.Hour, oversleep: oversleep})
			var callers sync.WaitGroup
			for i := range 10 {
				callers.Go(func() {
					if e := ask(t, c, named(fmt.Sprint(i))); e == nil || e.Kind != Timeout {
						t.Errorf("%v", e)
					}
				})
			}
			callers.Wait()
			s.heals()
			if st := c.State(); (st.Breaker == "open") != blamed || st.Paths[0].Failing.Any() != blamed {
				t.Errorf("after time-outs that were noticed %v late: %+v", oversleep, st)
			}
			for _, user := range []string{"0", "another"} {
				if e := ask(t, c, named(user)); (e != nil) != blamed {
					t.Errorf("after time-outs that were noticed %v late, %s: %v", oversleep, user, e)
				}
			}
		})
	}
}

package upstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"
)

// TestRetriesAreAFifth: whatever happens, retries are at most the first three plus a fifth of all attempts.
func TestRetriesAreAFifth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBudget()
		calls, retries := 0, 0
		for _, wantsRetry := range rapid.SliceOf(rapid.Bool()).Draw(t, "retries wanted") {
			calls++
			b.call()
			for range 2 {
				if wantsRetry && b.retry() {
					retries++
				}
			}
			if 5*(retries-freeRetries) > calls+retries {
				t.Fatalf("%d retries of %d calls", retries, calls)
			}
		}
	})
}

// TestRetriesDoNotMultiplyAnOutage: one of ten minutes, with a new user every 100 ms.
func TestRetriesDoNotMultiplyAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", down)
		c := s.client(func(o *Options) { o.BreakerFailures = 1_000_000 })
		calls := 6000
		for i := range calls {
			ask(t, c, named(fmt.Sprint(i)))
			time.Sleep(100 * time.Millisecond)
		}
		if retries := s.count() - calls; retries > freeRetries+calls/4 || retries < calls/4-freeRetries {
			t.Errorf("%d retries of %d calls", retries, calls)
		}
		if testutil.ToFloat64(c.metrics.retriesForgone) == 0 {
			t.Error("nothing is counted")
		}
		// The other path has a budget of its own.
		before := s.count()
		ask(t, c, Request{Path: AdminPath, Type: "client"})
		if n := s.count() - before; n != 3 {
			t.Errorf("%d attempts at the other path", n)
		}
	})
}

// TestAnAttemptHasItsWholeTime: or is not made. If we cut it short, that says nothing about the auth service.
func TestAnAttemptHasItsWholeTime(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{status: 500, latency: 4 * time.Second})
		c := s.client(func(o *Options) { o.MaxAttempts = 10 })
		ctx, cancel := contextWithTimeout(t, 10*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.Token(ctx, named("alice"))
		if took := time.Since(began); err == nil || took > 9*time.Second || s.count() != 2 {
			t.Errorf("%v after %v and %d attempts", err, took, s.count())
		}
	})
}

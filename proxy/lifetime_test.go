package proxy

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"token-sidecar/cache"
	"token-sidecar/upstream/sandbox"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"
)

func TestLifetimeRule(t *testing.T) {
	rule := Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}
	for _, c := range []struct{ life, keepFor, lead time.Duration }{
		{24 * time.Hour, 24*time.Hour - time.Minute, 10 * time.Minute},
		{time.Hour, 59 * time.Minute, 10 * time.Minute},
		{10 * time.Minute, 9 * time.Minute, 2 * time.Minute},
		{20 * time.Second, 18 * time.Second, 4 * time.Second},
		{time.Second, 900 * time.Millisecond, 200 * time.Millisecond},
	} {
		if keepFor, lead := rule.keepFor(c.life), rule.lead(c.life); keepFor != c.keepFor || lead != c.lead {
			t.Errorf("life %v: kept for %v, renewed %v before; want %v, %v", c.life, keepFor, lead, c.keepFor, c.lead)
		}
	}
}

// TestLifetimeOrder: whatever the settings and the life, a token is fresh, then renewable, then unusable, and
// never served to its very end.
func TestLifetimeOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := Lifetimes{
			Margin: time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "margin")),
			Ahead:  time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "ahead")),
		}
		life := time.Duration(rapid.Int64Range(1, int64(240*time.Hour)).Draw(t, "life"))
		e := &cache.Entry{ID: rapid.Uint64().Draw(t, "id"), Life: life, KeepFor: rule.keepFor(life)}
		from := rule.renewFrom(e)
		if e.KeepFor <= 0 || e.KeepFor > life || from < 0 || from > e.KeepFor {
			t.Fatalf("life %v: renewed from %v, kept for %v", life, from, e.KeepFor)
		}
		if earliest := e.KeepFor - rule.lead(life)*11/10; from < earliest-1 {
			t.Fatalf("renewed from %v, earliest %v", from, earliest)
		}
		if hold := rule.hold(e, rapid.IntRange(0, 100).Draw(t, "failures")); hold <= 0 || hold > time.Minute {
			t.Fatalf("backoff of %v", hold)
		}
	})
}

// TestTokensBornTogetherAreRenewedApart guards against a herd.
func TestTokensBornTogetherAreRenewedApart(t *testing.T) {
	rule := Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}
	spread := map[time.Duration]bool{}
	for range 1000 {
		e := &cache.Entry{ID: cache.NewID(), Life: 24 * time.Hour, KeepFor: rule.keepFor(24 * time.Hour)}
		spread[rule.renewFrom(e).Truncate(time.Second)] = true
	}
	if len(spread) < 50 {
		t.Errorf("1000 tokens are renewed at %d different seconds", len(spread))
	}
}

// TestThreeStates follows one token through its life.
func TestThreeStates(t *testing.T) {
	for _, seconds := range []int{86400, 3600, 20, 2} {
		t.Run(fmt.Sprint(seconds), func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				life := time.Duration(seconds) * time.Second
				w.auth.Set(sandbox.Mood{ExpiresIn: seconds, LatencyMS: 1})
				first := w.mustGet("alice").token()
				began := time.Now()
				age := func() time.Duration { return time.Since(began) }
				lead := min(10*time.Minute, life/5)
				margin := min(time.Minute, life/10)

				time.Sleep(life - margin - lead*11/10 - 2*time.Millisecond - age())
				w.mustGet("alice")
				synctest.Wait()
				time.Sleep(2 * time.Millisecond)
				if w.calls() != 1 {
					t.Fatalf("renewed at %v, before its window", age())
				}
				time.Sleep(life - margin - lead + 2*time.Millisecond - age())
				for range 10 {
					got := w.mustGet("alice")
					if got.token() != first || got.took != 0 {
						t.Error("a renewable token is not served at once")
					}
				}
				time.Sleep(2 * time.Millisecond)
				second := w.mustGet("alice").token()
				if second == first || w.calls() != 2 {
					t.Errorf("renewed: %v, calls %d", second != first, w.calls())
				}
			})
		})
	}
}

func TestNeverServedInsideItsMargin(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.mustGet("alice")
		w.auth.Set(sandbox.Mood{Status: 500})
		time.Sleep(24*time.Hour - time.Minute - 10*time.Millisecond)
		w.mustGet("alice")
		time.Sleep(11 * time.Millisecond)
		if got := w.get("alice"); got.status != 503 {
			t.Errorf("%d %s", got.status, got.raw)
		}
	})
}

// TestFailingRenewalBacksOffAndGoesOn until the margin, and stops when nobody asks.
func TestFailingRenewalBacksOffAndGoesOn(t *testing.T) {
	inWorld(t, func(s *settings) { s.upstream.BreakerFailures = 1000 }, func(t *testing.T, w *world) {
		first := w.mustGet("alice").token()
		w.auth.Set(sandbox.Mood{Status: 500})
		time.Sleep(24*time.Hour - 11*time.Minute)
		before := w.calls()
		for range 9 * 60 {
			time.Sleep(time.Second)
			if w.mustGet("alice").token() != first {
				t.Fatal("another token")
			}
		}
		failed := w.calls() - before
		if failed < 10 || failed > 90 { // three attempts each
			t.Errorf("%d calls in nine minutes of failing renewal", failed)
		}
		w.auth.Set(sandbox.Mood{})
		for range 61 {
			time.Sleep(time.Second)
			w.mustGet("alice")
		}
		if w.mustGet("alice").token() == first {
			t.Error("renewal never succeeded")
		}
		idle := w.calls()
		time.Sleep(48 * time.Hour)
		if n := w.calls() - idle; n != 0 {
			t.Errorf("%d calls though nobody asked", n)
		}
	})
}

// TestRenewalOutlivesItsCaller: it does not run under the context of the request that set it off.
func TestRenewalOutlivesItsCaller(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		first := w.mustGet("alice").token()
		w.auth.Set(sandbox.Mood{LatencyMS: 500})
		time.Sleep(24*time.Hour - 5*time.Minute)
		ctx, leave := contextOf(t)
		for range 100 {
			w.do(request("GET", "/token?client_user_id=alice", "").WithContext(ctx))
		}
		leave()
		time.Sleep(time.Second)
		if w.mustGet("alice").token() == first {
			t.Error("the renewal ended with its caller")
		}
		for result, want := range map[string]float64{"ok": 1, "failed": 0} {
			if n := testutil.ToFloat64(w.handler.metrics.renewals.WithLabelValues(result)); n != want {
				t.Errorf("%v renewals %s of a hundred hits, want %v", n, result, want)
			}
		}
	})
}

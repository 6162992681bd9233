package proxy

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/upstream/sandbox"
)

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
		if err := testutil.GatherAndCompare(w.metrics, strings.NewReader(`
# HELP token_sidecar_renewals_total Renewals ahead of expiry by result; left_to_another is done by another sidecar, same_token brought the same token again.
# TYPE token_sidecar_renewals_total counter
token_sidecar_renewals_total{result="failed"} 0
token_sidecar_renewals_total{result="left_to_another"} 0
token_sidecar_renewals_total{result="ok"} 1
token_sidecar_renewals_total{result="same_token"} 0
`), "token_sidecar_renewals_total"); err != nil {
			t.Error(err)
		}
	})
}

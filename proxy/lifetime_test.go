package proxy

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
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

// TestFailingRenewalBacksOffAndGoesOn: until the margin; it stops when nobody asks.
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

// TestRenewalOutlivesItsCaller: it does not run under the context of the request that started it.
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
		w.renewals(map[string]int{"ok": 1})
	})
}

// renewals checks the results of the renewals so far.
func (w *world) renewals(want map[string]int) {
	w.t.Helper()
	metrics, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range metrics {
		if family.GetName() != "token_sidecar_renewals_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			result := m.GetLabel()[0].GetValue()
			if n := int(m.GetCounter().GetValue()); n != want[result] {
				w.t.Errorf("%d renewals ended as %s, want %d", n, result, want[result])
			}
			delete(want, result)
		}
	}
	if len(want) > 0 {
		w.t.Errorf("no metric of %v", want)
	}
}

// busy is an auth service that is asked only for callers.
type busy struct {
	vend.AuthService
	held error
}

func (b *busy) Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	if !req.Background {
		return b.AuthService.Token(ctx, req)
	}
	time.Sleep(time.Second)
	return b.AuthService.Token(ctx, upstream.Request{Path: "/nowhere"}) // fails without being asked
}

func (b *busy) Held(req upstream.Request) error {
	if req.Background {
		return b.held
	}
	return b.AuthService.Held(req)
}

// TestARenewalThatIsPutOffFailsNobody: it does not count as failed, and callers who joined it do not get its error.
func TestARenewalThatIsPutOffFailsNobody(t *testing.T) {
	service := &busy{}
	inWorld(t, func(s *settings) {
		s.wrap = func(a vend.AuthService) vend.AuthService { service.AuthService = a; return service }
	}, func(t *testing.T, w *world) {
		first := w.mustGet("alice").token()
		time.Sleep(24*time.Hour - 10*time.Minute)
		w.mustGet("alice")
		synctest.Wait() // the renewal is in progress
		again := request("GET", "/token?client_user_id=alice", "")
		again.Header.Set("Cache-Control", "no-cache")
		if got := w.do(again); got.status != http.StatusOK || got.token() == first {
			t.Errorf("who joined a renewal got %d %s", got.status, got.raw)
		}
		w.renewals(map[string]int{"put_off": 1})
		if n := w.calls(); n != 2 {
			t.Errorf("%d calls", n)
		}
		// A renewal that is known to be held back does not start.
		service.held = context.DeadlineExceeded
		time.Sleep(24*time.Hour - 10*time.Minute)
		w.mustGet("alice")
		synctest.Wait()
		w.renewals(map[string]int{"put_off": 2})
	})
}

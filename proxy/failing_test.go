package proxy

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/secret"
	"token-sidecar/upstream/sandbox"
)

// TestEveryFaultOfTheAuthService: the documented error, in time, nothing cached, memory bounded, and after the fault
// the next request gets a token.
func TestEveryFaultOfTheAuthService(t *testing.T) {
	const bound = 3*5*time.Second + 2*time.Second
	type want struct {
		status int
		code   string
	}
	bad := want{http.StatusBadGateway, "UPSTREAM_BAD_RESPONSE"}
	down := want{http.StatusServiceUnavailable, "UPSTREAM_UNAVAILABLE"}
	for name, c := range map[string]struct {
		mood sandbox.Mood
		want want
	}{
		"html":           {sandbox.Mood{Fault: "html"}, bad},
		"nothing":        {sandbox.Mood{Fault: "empty"}, bad},
		"half a body":    {sandbox.Mood{Fault: "half"}, bad},
		"64 MiB":         {sandbox.Mood{Fault: "huge"}, bad},
		"no token":       {sandbox.Mood{Fault: "no_token"}, bad},
		"empty token":    {sandbox.Mood{Fault: "empty_token"}, bad},
		"no lifetime":    {sandbox.Mood{Fault: "no_lifetime"}, bad},
		"zero":           {sandbox.Mood{Fault: "zero_lifetime"}, bad},
		"negative":       {sandbox.Mood{Fault: "negative_lifetime"}, bad},
		"redirect":       {sandbox.Mood{Fault: "redirect"}, bad},
		"connection cut": {sandbox.Mood{Fault: "cut"}, down},
		"hanging":        {sandbox.Mood{Fault: "hang"}, want{http.StatusGatewayTimeout, "UPSTREAM_TIMEOUT"}},
		"302":            {sandbox.Mood{Status: 302}, bad},
		"408":            {sandbox.Mood{Status: 408}, down},
		"425":            {sandbox.Mood{Status: 425}, down},
		"500":            {sandbox.Mood{Status: 500}, down},
		"503 for long":   {sandbox.Mood{Status: 503, RetryAfter: "600"}, down},
		"429":            {sandbox.Mood{Status: 429, RetryAfter: "7"}, want{http.StatusTooManyRequests, "UPSTREAM_RATE_LIMITED"}},
		"403 unnamed":    {sandbox.Mood{Status: 403}, want{http.StatusForbidden, "UPSTREAM_REFUSED"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				w.auth.Set(c.mood)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				got := w.get("alice")
				runtime.ReadMemStats(&after)
				if got.status != c.want.status || got.code() != c.want.code || got.text("message") == "" {
					t.Errorf("%d %s, want %v", got.status, got.raw, c.want)
				}
				if got.took > bound {
					t.Errorf("answered after %v", got.took)
				}
				if grown := after.TotalAlloc - before.TotalAlloc; grown > 48<<20 {
					t.Errorf("%d MiB allocated for it", grown>>20)
				}
				retry := got.header.Get("Retry-After")
				if (got.status == 503 || got.status == 429) == (retry == "") {
					t.Errorf("status %d with Retry-After %q", got.status, retry)
				}
				if e := w.tokens.Peek(w.broker.Key(mustParse(t, "alice")), time.Now()); e != nil {
					t.Error("something was kept")
				}
				w.auth.Set(sandbox.Mood{})
				time.Sleep(time.Hour) // whatever was held back
				w.mustGet("alice")
			})
		})
	}
}

func TestNumericStringIsALifetime(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Fault: "string_lifetime"})
		w.get("alice")
		time.Sleep(10 * time.Second)
		if got := w.get("alice"); got.status != 200 || got.fields["expires_in"] != "3590" {
			t.Errorf("%d %s", got.status, got.raw)
		}
	})
}

// TestDocumentedRefusals: they are passed on with their status, fields and request id, and cached for NEGATIVE_TTL.
func TestDocumentedRefusals(t *testing.T) {
	for user, want := range map[string]struct {
		status int
		code   string
	}{
		"unconnected-x": {403, "ACCESS_TOKEN_GENERATION_NOT_ALLOWED"},
		"unknown-x":     {404, "UNKNOWN_CLIENT_USER_ID"},
		"forbidden-x":   {403, "NOT_AUTHORIZED"},
	} {
		t.Run(want.code, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				got := w.get(user)
				if got.status != want.status || got.code() != want.code || got.fields["statusCode"] != float64(want.status) ||
					got.header.Get("X-Humanapi-Request-Id") == "" {
					t.Errorf("%d %v %s", got.status, got.header, got.raw)
				}
				for range 100 {
					if again := w.get(user); again.raw != got.raw || again.status != got.status {
						t.Errorf("remembered as %d %s", again.status, again.raw)
					}
				}
				if w.calls() != 1 {
					t.Errorf("%d calls within NEGATIVE_TTL", w.calls())
				}
				w.get(user, "Cache-Control", "no-cache")
				w.do(request("DELETE", "/token?client_user_id="+user, ""))
				w.get(user)
				if w.calls() != 3 {
					t.Errorf("%d calls: no-cache and DELETE do not skip what is remembered", w.calls())
				}
				time.Sleep(11 * time.Second)
				w.get(user)
				if w.calls() != 4 {
					t.Errorf("%d calls after NEGATIVE_TTL", w.calls())
				}
				w.mustGet("alice")
			})
		})
	}
	t.Run("client tokens", func(t *testing.T) {
		inWorld(t, nil, func(t *testing.T, w *world) {
			w.auth.Set(sandbox.Mood{RefuseClientTokens: true})
			if got := w.do(request("GET", "/token?type=client", "")); got.status != 403 ||
				got.code() != "CLIENT_TOKEN_GENERATION_NOT_ALLOWED" {
				t.Errorf("%d %s", got.status, got.raw)
			}
		})
	})
	t.Run("NEGATIVE_TTL=0", func(t *testing.T) {
		inWorld(t, func(s *settings) { s.broker.NegativeTTL = 0 }, func(t *testing.T, w *world) {
			w.get("unknown-x")
			w.get("unknown-x")
			if w.calls() != 2 {
				t.Errorf("%d calls", w.calls())
			}
		})
	})
}

// TestOurOwnCredentialsRefused: one call finds out; then the auth service is not asked for NEGATIVE_TTL, for any user,
// and cached tokens are still served.
func TestOurOwnCredentialsRefused(t *testing.T) {
	for code, change := range map[string]func(*settings){
		"INVALID_CLIENT_ID":           func(s *settings) { s.upstream.ClientID = "wrong" },
		"INVALID_CLIENT_ID_OR_SECRET": func(s *settings) { s.upstream.Secret = secret.Fixed("wrong") },
	} {
		t.Run(code, func(t *testing.T) {
			inWorld(t, change, func(t *testing.T, w *world) {
				for i := range 100 {
					got := w.get(fmt.Sprintf("user-%d", i))
					if got.status != 401 || got.code() != code {
						t.Fatalf("%d %s", got.status, got.raw)
					}
				}
				if w.calls() != 1 {
					t.Errorf("%d calls", w.calls())
				}
				time.Sleep(11 * time.Second)
				w.get("alice")
				if w.calls() != 2 {
					t.Errorf("%d calls after NEGATIVE_TTL", w.calls())
				}
			})
		})
	}
}

func TestRateLimitHoldsForEverybody(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		cached := w.mustGet("cached").token()
		for name, form := range map[string]func() string{
			"seconds": func() string { return "20" },
			"a date":  func() string { return time.Now().UTC().Add(20 * time.Second).Format(http.TimeFormat) },
		} {
			after := form()
			w.auth.Set(sandbox.Mood{Status: 429, RetryAfter: after})
			before := w.calls()
			w.get("alice")
			w.auth.Set(sandbox.Mood{})
			for i := range 19 {
				time.Sleep(time.Second - time.Millisecond)
				got := w.get(fmt.Sprintf("user-%d", i))
				if got.status != 429 || got.header.Get("Retry-After") == "" {
					t.Fatalf("second %d: %d %s", i, got.status, got.raw)
				}
			}
			if n := w.calls() - before; n != 1 {
				t.Errorf("%d calls within Retry-After", n)
			}
			if w.mustGet("cached").token() != cached {
				t.Error("a cached token is not served")
			}
			time.Sleep(2 * time.Second)
			w.mustGet(name[:1])
		}
	})
}

func TestBreaker(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		cached := w.mustGet("cached").token()
		w.auth.Set(sandbox.Mood{Status: 500})
		for i := range 5 {
			w.get(fmt.Sprint(i))
		}
		before := w.calls()
		for i := range 50 {
			got := w.get(fmt.Sprint("open-", i))
			if got.status != 503 || got.code() != "UPSTREAM_UNAVAILABLE" || got.header.Get("Retry-After") == "" ||
				got.took != 0 {
				t.Fatalf("%d after %v: %s", got.status, got.took, got.raw)
			}
		}
		if n := w.calls() - before; n != 0 {
			t.Errorf("%d calls went out through an open breaker", n)
		}
		if w.mustGet("cached").token() != cached {
			t.Error("a cached token is not served")
		}
		time.Sleep(31 * time.Second)
		w.auth.Set(sandbox.Mood{LatencyMS: 1000})
		var callers sync.WaitGroup
		var got [10]reply
		for i := range got {
			callers.Go(func() { got[i] = w.get(fmt.Sprint("half-open-", i)) })
		}
		callers.Wait()
		answered := 0
		for _, r := range got {
			if r.status == 200 {
				answered++
			}
		}
		if answered != 1 || w.calls()-before != 1 {
			t.Errorf("%d answered, %d trial calls, want 1", answered, w.calls()-before)
		}
		w.mustGet("closed-again")
	})
}

func TestRefusalsDoNotOpenTheBreaker(t *testing.T) {
	inWorld(t, nil, func(_ *testing.T, w *world) {
		for i := range 30 {
			w.get(fmt.Sprint("unknown-", i))
		}
		w.mustGet("alice")
	})
}

// TestACancelledTrialFreesItsPlace: if the trial of a half-open breaker is given up, another one goes out.
func TestACancelledTrialFreesItsPlace(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Status: 500})
		for i := range 5 {
			w.get(fmt.Sprint(i))
		}
		time.Sleep(31 * time.Second)
		w.auth.Set(sandbox.Mood{Fault: "hang"})
		ctx, leave := contextOf(t)
		done := make(chan struct{})
		go func() { // a session call belongs to its caller and ends with it
			defer close(done)
			w.do(request("GET", "/token?client_user_id=a&type=session&client_user_email=b", "").WithContext(ctx))
		}()
		synctest.Wait()
		leave()
		<-done
		w.auth.Set(sandbox.Mood{})
		w.mustGet("alice")
	})
}

func TestRetriesAnswerAFlappingService(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Status: 503, LatencyMS: 10})
		go func() {
			time.Sleep(25 * time.Millisecond)
			w.auth.Set(sandbox.Mood{})
		}()
		w.mustGet("alice")
		if n := w.calls(); n < 2 || n > 3 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestOverload(t *testing.T) {
	inWorld(t, func(s *settings) { s.proxy.MaxConcurrent = 10 }, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 1000})
		var callers sync.WaitGroup
		for i := range 10 {
			callers.Go(func() { w.mustGet(fmt.Sprint(i)) })
		}
		synctest.Wait()
		if got := w.get("one-more"); got.status != 503 || got.code() != "OVERLOADED" || got.header.Get("Retry-After") != "1" {
			t.Errorf("%d %s", got.status, got.raw)
		}
		callers.Wait()
		w.mustGet("one-more")
	})
}

func TestDraining(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 1000})
		var callers sync.WaitGroup
		callers.Go(func() { w.mustGet("alice") })
		synctest.Wait()
		w.handler.Drain()
		if got := w.get("bob"); got.status != 503 || got.code() != "SHUTTING_DOWN" ||
			got.header.Get("Connection") != "close" {
			t.Errorf("%d %v %s", got.status, got.header, got.raw)
		}
		callers.Wait()
	})
}

// TestNoAnswerOutlivesTheBound: even if cache and auth service both hang.
func TestNoAnswerOutlivesTheBound(t *testing.T) {
	inWorld(t, func(s *settings) { s.proxy.Registerer = prometheus.NewRegistry() }, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Fault: "hang"})
		var callers sync.WaitGroup
		for i := range 50 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 500 * time.Millisecond)
				got := w.get("alice")
				if got.took > 17*time.Second || (got.status != 504 && got.status != 503) {
					t.Errorf("%d after %v", got.status, got.took)
				}
			})
		}
		callers.Wait()
	})
}

// TestFailuresAreNotRemembered: only definitive refusals are cached. A key that failed pauses for half a second.
func TestFailuresAreNotRemembered(t *testing.T) {
	for _, mood := range []sandbox.Mood{
		{Status: 500},
		{Status: 408},
		{Fault: "html"},
		{Fault: "cut"},
		{Fault: "hang"},
		{Fault: "negative_lifetime"},
	} {
		inWorld(t, nil, func(t *testing.T, w *world) {
			w.auth.Set(mood)
			if got := w.get("alice"); got.status < 500 {
				t.Errorf("%+v: %d", mood, got.status)
			}
			w.auth.Set(sandbox.Mood{})
			time.Sleep(500 * time.Millisecond)
			w.mustGet("alice")
		})
	}
}

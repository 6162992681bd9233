package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestAFailingKeyIsLeftAlone: its callers get the last failure, without its body and with a Retry-After, the auth
// service is asked once per backoff, and other keys are not affected.
func TestAFailingKeyIsLeftAlone(t *testing.T) {
	for name, m := range map[string]mood{
		"500": down, "hangs": hangs, "nonsense": page, "bare 401": bare,
		"no network": {err: fmt.Errorf("refused")},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				s.is("poisoned", m)
				c := s.client(nil)
				began := time.Now()
				first := ask(t, c, named("poisoned"))
				attempts := []time.Time{}
				for i := 0; time.Since(began) < 5*time.Minute; i++ {
					before := s.of("poisoned")
					e := ask(t, c, named("poisoned"))
					switch n := s.of("poisoned") - before; {
					case e == nil || e.Kind != first.Kind || e.Status != first.Status:
						if e == nil || e.Kind != Unavailable || !e.Held() { // the breaker, opened by this key alone
							t.Fatalf("%v after %v", e, first)
						}
					case n == 0 && (!e.Held() || e.RetryAfter <= 0 || e.RetryAfter > 30*time.Second || len(e.Body.Reveal()) > 0):
						t.Fatalf("held back with %+v", e)
					case n == 1:
						attempts = append(attempts, time.Now())
					case n > 1:
						t.Fatalf("%d attempts at once", n)
					}
					if other := ask(t, c, named(fmt.Sprint("user-", i))); other != nil {
						t.Fatalf("user-%d got %v", i, other)
					}
					time.Sleep(200 * time.Millisecond)
				}
				if len(attempts) < 10 || len(attempts) > 25 {
					t.Errorf("%d attempts in five minutes", len(attempts))
				}
			})
		})
	}
}

// TestBackoffDoubles: from half a second to BREAKER_OPEN_FOR, less up to a quarter.
func TestBackoffDoubles(t *testing.T) {
	b := newBackoffs(30 * time.Second)
	want := firstBackoff
	for n := range 100 {
		for range 50 {
			if d := b.duration(n); d > want || d < want*3/4 {
				t.Errorf("after %d failures %v, want up to %v", n, d, want)
			}
		}
		want = min(2*want, 30*time.Second)
	}
}

func TestSuccessEndsTheBackoff(t *testing.T) {
	for name, healed := range map[string]mood{"a token": {}, "a definitive refusal": gone} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				c := s.client(nil)
				for range 4 {
					s.is("alice", down)
					for range 3 {
						ask(t, c, named("alice"))
						time.Sleep(3 * time.Second)
					}
					s.is("alice", healed)
					ask(t, c, named("alice"))
					s.is("alice", down)
					if e := ask(t, c, named("alice")); e == nil || e.Held() {
						t.Errorf("after a success: %v", e)
					}
					if e := ask(t, c, named("alice")); e == nil || !e.Held() || e.RetryAfter > firstBackoff {
						t.Errorf("the backoff begins at %v", e)
					}
					s.heals()
					time.Sleep(time.Minute)
					ask(t, c, named("alice"))
				}
			})
		})
	}
}

// TestRetryAfterHoldsItsKey: for its whole duration, while all others continue after BREAKER_OPEN_FOR.
func TestRetryAfterHoldsItsKey(t *testing.T) {
	for name, m := range map[string]mood{
		"429": {status: 429, retryAfter: "3600"}, "503": {status: 503, retryAfter: "3600"}, "500": {status: 500, retryAfter: "3600"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *service) {
				s.is("alice", m)
				c := s.client(nil)
				if e := ask(t, c, named("alice")); e == nil || e.RetryAfter != time.Hour {
					t.Fatalf("%v", e)
				}
				if e := ask(t, c, named("bob")); e == nil || !e.Held() || e.RetryAfter != 30*time.Second {
					t.Errorf("bob at once: %+v", e)
				}
				s.heals()
				time.Sleep(30 * time.Second)
				if e := ask(t, c, named("bob")); e != nil {
					t.Errorf("bob after BREAKER_OPEN_FOR: %v", e)
				}
				time.Sleep(time.Hour - 31*time.Second)
				if e := ask(t, c, named("alice")); e == nil || !e.Held() || e.RetryAfter != time.Second {
					t.Errorf("alice a second before: %+v", e)
				}
				time.Sleep(time.Second)
				if e := ask(t, c, named("alice")); e != nil {
					t.Errorf("alice after Retry-After: %v", e)
				}
			})
		})
	}
}

// TestA429IsNoFailureOfItsKey: it does not lengthen the key's backoff.
func TestA429IsNoFailureOfItsKey(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(nil)
		s.is("alice", mood{status: 429})
		for range 5 {
			if e := ask(t, c, named("alice")); e == nil || e.Held() {
				t.Errorf("%v", e)
			}
			time.Sleep(time.Second)
		}
		s.is("alice", down)
		before := s.count()
		ask(t, c, named("alice")) // the trial of the pause
		if e := ask(t, c, named("alice")); e == nil || !e.Held() || e.RetryAfter > firstBackoff || s.count() != before+1 {
			t.Errorf("%+v after %d attempts", e, s.count()-before)
		}
	})
}

func TestFailingKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackoffs(30 * time.Second)
		for i := range 3 * maxFailing {
			b.failed(named(fmt.Sprint(i)).key(), &Error{Kind: Unavailable}, time.Now())
		}
		if n := b.count(time.Now()); n != maxFailing {
			t.Errorf("%d are kept", n)
		}
		if held, again := b.check(named(fmt.Sprint(3*maxFailing-1)).key(), time.Now()); held == nil || !again {
			t.Error("the newest is not kept")
		}
		time.Sleep(2 * time.Minute)
		if n := b.count(time.Now()); n != 0 {
			t.Errorf("%d are held still", n)
		}
		if _, again := b.check(named(fmt.Sprint(3*maxFailing-1)).key(), time.Now()); again {
			t.Error("a failure of two minutes ago still counts")
		}
	})
}

// TestKeys: whatever the answer depends on distinguishes keys, unless a Key is given.
func TestKeys(t *testing.T) {
	all := map[tokenKey]Request{}
	for _, r := range []Request{
		{},
		{Path: "a"},
		{Type: "a"},
		{UserID: hidden("a")},
		{Email: hidden("a")},
		{Scopes: []string{"a"}},
		{Scopes: []string{"a", "b"}},
		{Scopes: []string{"ab"}},
		{Path: "a", Type: "b"},
		{Path: "ab"},
		{UserID: hidden("1:a")},
		{Key: [32]byte{1}},
	} {
		if other, ok := all[r.key()]; ok {
			t.Errorf("%+v and %+v have one key", r, other)
		}
		all[r.key()] = r
	}
	if (Request{Key: [32]byte{1}, Path: "a"}).key() != ([32]byte{1}) {
		t.Error("a given key is not used")
	}
}

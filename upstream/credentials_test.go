package upstream

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/secret"
)

// TestBare401: for one or two keys it is a failure of those keys. For a third key, without a success in between, it
// means that our credentials are refused.
func TestBare401(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		for _, poisoned := range []string{"a", "b", "c", "d"} {
			s.is(poisoned, bare)
		}
		c := s.client(nil)
		for range 20 {
			ask(t, c, named("a"))
			ask(t, c, named("b"))
			time.Sleep(time.Minute)
		}
		if e := ask(t, c, named("good")); e != nil {
			t.Fatalf("two keys' 401 refused another: %v", e)
		}
		if e := ask(t, c, named("d")); e == nil || e.Kind != Unauthorized {
			t.Errorf("the third key, after a success, is told %v", e)
		}
		if e := ask(t, c, named("good too")); e != nil {
			t.Fatal(e)
		}
		time.Sleep(time.Minute)
		ask(t, c, named("a"))
		ask(t, c, named("b"))
		if e := ask(t, c, named("b")); e == nil || e.Kind != Unauthorized || !e.Held() {
			t.Errorf("b is told %v", e)
		}
		if e := ask(t, c, named("c")); e == nil || e.Kind != ClientRefused {
			t.Errorf("the third key is told %v", e)
		}
		before := s.count()
		for i := range 50 {
			if e := ask(t, c, named(fmt.Sprint("user-", i))); e == nil || e.Kind != ClientRefused || e.Status != 401 ||
				!e.Held() {
				t.Errorf("others are told %v", e)
			}
		}
		if s.count() != before {
			t.Error("the auth service was asked")
		}
		if st := c.State(); st.Paused != "client_refused" {
			t.Errorf("%+v", st)
		}
		time.Sleep(10 * time.Second)
		if e := ask(t, c, named("d")); e == nil || e.Kind != ClientRefused {
			t.Errorf("the trial is told %v", e)
		}
		if e := ask(t, c, named("good")); e == nil || !e.Held() {
			t.Errorf("a failed trial does not renew: %v", e)
		}
		time.Sleep(10 * time.Second)
		if e := ask(t, c, named("good")); e != nil {
			t.Errorf("the trial's success does not end it: %v", e)
		}
		if e := ask(t, c, named("good too")); e != nil {
			t.Error(e)
		}
	})
}

// TestNamedRefusalsHoldEverybody: at both paths, and one trial goes out every NEGATIVE_TTL.
func TestNamedRefusalsHoldEverybody(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{status: 401, body: wrong.body, latency: 50 * time.Millisecond})
		c := s.client(nil)
		ask(t, c, named("alice"))
		for range 100 {
			var callers sync.WaitGroup
			for i := range 20 {
				callers.Go(func() {
					path := []string{ConnectPath, AdminPath}[i%2]
					e := ask(t, c, Request{Path: path, Type: "access", UserID: hidden(fmt.Sprint(i))})
					if e == nil || e.Kind != ClientRefused || e.Code != "INVALID_CLIENT_ID_OR_SECRET" {
						t.Errorf("%v", e)
					}
				})
			}
			callers.Wait()
			time.Sleep(time.Second)
		}
		if n := s.count(); n < 9 || n > 11 || s.most != 1 {
			t.Errorf("%d attempts in 100 s, %d at once", n, s.most)
		}
		if st := c.State(); st.Breaker != "closed" {
			t.Errorf("refusals opened the breaker: %+v", st)
		}
	})
}

// TestAnInconclusiveTrialIsGivenBack: a trial that was cancelled, or failed in another way, says nothing about the
// secret.
func TestAnInconclusiveTrialIsGivenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", wrong)
		c := s.client(nil)
		ask(t, c, named("alice"))
		time.Sleep(10 * time.Second)
		s.is("", hangs)
		ctx, cancel := contextWithTimeout(t, time.Hour)
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		if _, err := c.Token(ctx, named("bob")); err == nil {
			t.Error("no error")
		}
		s.is("", down)
		if e := ask(t, c, named("carol")); e == nil || e.Kind != Unavailable || e.Held() {
			t.Errorf("the next trial: %v", e)
		}
		s.heals()
		if e := ask(t, c, named("dora")); e != nil {
			t.Errorf("the one after it: %v", e)
		}
	})
}

// TestThoseWhoWaitAreToldToo: with a wrong secret, thousands of uncached users cost only the attempts in progress.
func TestThoseWhoWaitAreToldToo(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", mood{status: 401, body: wrong.body, latency: 50 * time.Millisecond})
		c := s.client(nil)
		var callers sync.WaitGroup
		for i := range 4096 {
			callers.Go(func() {
				if e := ask(t, c, named(fmt.Sprint(i))); e == nil || e.Kind != ClientRefused {
					t.Errorf("%v", e)
				}
			})
		}
		callers.Wait()
		if n := s.count(); n != 64 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestASecretThatChangesWhileItIsRefused: it holds no calls back.
func TestASecretThatChangesWhileItIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("first")
	file, err := secret.Open("HUMANAPI_CLIENT_SECRET_FILE", path, nil, discard())
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, func(t *testing.T, s *service) {
		c := s.client(func(o *Options) { o.Secret = file })
		s.is("", mood{status: 401, body: wrong.body, latency: time.Second})
		go func() {
			time.Sleep(500 * time.Millisecond)
			write("second") // noticed when the first attempt is refused
			time.Sleep(time.Second)
			write("third")
			file.Reload()
			file.Reload()
		}()
		if e := ask(t, c, named("alice")); e == nil || e.Kind != ClientRefused || s.count() != 2 {
			t.Errorf("%v after %d attempts", e, s.count())
		}
		s.heals()
		if e := ask(t, c, named("alice")); e != nil {
			t.Errorf("with the third secret: %v", e)
		}
	})
}

func TestNoHoldWithoutNegativeTTL(t *testing.T) {
	inBubble(t, func(t *testing.T, s *service) {
		s.is("", wrong)
		c := s.client(func(o *Options) { o.RefusalPause = 0 })
		for i := range 5 {
			if e := ask(t, c, named(fmt.Sprint(i))); e == nil || e.Held() {
				t.Errorf("%v", e)
			}
		}
	})
}

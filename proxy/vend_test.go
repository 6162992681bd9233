package proxy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

func TestFirstMissThenHit(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		first := w.mustGet("alice")
		if s := first.cacheStatus(); s != "token-sidecar; fwd=miss" {
			t.Errorf("Cache-Status %q", s)
		}
		time.Sleep(90 * time.Second)
		second := w.mustGet("alice")
		if second.token() != first.token() || w.calls() != 1 {
			t.Errorf("another token after %d calls", w.calls())
		}
		if left := second.fields["expires_in"]; left != float64(86400-90) {
			t.Errorf("expires_in %v", left)
		}
		if s := second.cacheStatus(); s != "token-sidecar; hit; ttl=86310; detail=memory" {
			t.Errorf("Cache-Status %q", s)
		}
		for _, field := range []string{"access_token", "refresh_token", "token_type"} {
			if second.fields[field] != first.fields[field] {
				t.Errorf("%s: %v became %v", field, first.fields[field], second.fields[field])
			}
		}
		if second.header.Get("Cache-Control") != "no-store" {
			t.Error("an answer may be stored")
		}
	})
}

// TestCallersOfAColdKeyShareOneCall: none waits longer than that call, even if the first caller leaves.
func TestCallersOfAColdKeyShareOneCall(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 200})
		first, leave := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() {
			if got := w.do(request(http.MethodGet, "/token?client_user_id=alice",
				"").WithContext(first)); got.status != http.StatusGatewayTimeout {
				t.Errorf("a caller that left was answered %d %s", got.status, got.raw)
			}
		})
		synctest.Wait()
		began := time.Now()
		for range 1000 {
			callers.Go(func() {
				got := w.mustGet("alice")
				if got.cacheStatus() != "token-sidecar; fwd=miss; collapsed" {
					t.Errorf("Cache-Status %q", got.cacheStatus())
				}
				if time.Since(began) > 201*time.Millisecond {
					t.Errorf("answered after %v of virtual time", time.Since(began))
				}
			})
		}
		synctest.Wait()
		leave()
		callers.Wait()
		if n := w.calls(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// panicky is an auth service whose client has a bug.
type panicky struct {
	vend.AuthService
	defect bool
}

func (p *panicky) Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	if p.defect {
		panic("defect")
	}
	return p.AuthService.Token(ctx, req)
}

func TestAPanicFailsItsCallersOnly(t *testing.T) {
	p := &panicky{defect: true}
	inWorld(t, func(s *settings) {
		s.wrap = func(a vend.AuthService) vend.AuthService { p.AuthService = a; return p }
	}, func(t *testing.T, w *world) {
		for range 2 {
			if got := w.get("alice"); got.status != http.StatusInternalServerError || got.code() != "INTERNAL_ERROR" {
				t.Errorf("%d %s", got.status, got.raw)
			}
		}
		p.defect = false
		w.mustGet("alice")
	})
}

func TestEveryTypeIsKeptApart(t *testing.T) {
	for _, c := range []struct{ kind, field, life, path string }{
		{"access", "access_token", "expires_in", "connect"},
		{"id", "id_token", "id_token_expires_in", "connect"},
		{"id_token", "id_token", "id_token_expires_in", "connect"},
		{"client", "client_token", "expires_in", "admin"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				other := w.mustGet("alice").token()
				ask := func() reply { return w.do(request("GET", "/token?client_user_id=alice&type="+c.kind, "")) }
				first := ask()
				time.Sleep(100 * time.Second)
				second := ask()
				if first.status != 200 || first.text(c.field) == "" || first.text(c.field) != second.text(c.field) {
					t.Fatalf("%s then %s", first.raw, second.raw)
				}
				if c.kind != "access" && first.text(c.field) == other {
					t.Error("the same token for two types")
				}
				if left := second.fields[c.life]; left != float64(86300) {
					t.Errorf("%s = %v", c.life, left)
				}
			})
		})
	}
}

func TestSessionsAreNeverSharedOrKept(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 100})
		seen := map[string]bool{}
		var mu sync.Mutex
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() {
				got := w.do(request("GET", "/token?client_user_id=alice&type=session&client_user_email=a@b.c", ""))
				mu.Lock()
				defer mu.Unlock()
				if got.status != 200 || seen[got.text("session_token")] {
					t.Errorf("%d, or shared: %s", got.status, got.raw)
				}
				seen[got.text("session_token")] = true
			})
		}
		callers.Wait()
		if w.calls() != 5 {
			t.Errorf("%d calls", w.calls())
		}
	})
}

func TestProductsAndDropInPathsAreKeptApart(t *testing.T) {
	inWorld(t, func(s *settings) { s.proxy.Path = upstream.AdminPath }, func(t *testing.T, w *world) {
		hip := w.mustGet("alice").token()
		admin := w.do(request("POST", "/v1/admin/token",
			`{"client_user_id":"alice","type":"access","client_id":"sandbox-client","client_secret":"whatever"}`, "Content-Type",
			"application/json"))
		connect := w.do(request("POST", "/v1/connect/token", "client_user_id=alice&type=access", "Content-Type",
			"application/x-www-form-urlencoded"))
		if admin.token() != hip {
			t.Errorf("the drop-in call got another token than /token: %s", admin.raw)
		}
		if connect.token() == hip || connect.token() == "" {
			t.Errorf("connect: %s", connect.raw)
		}
		if w.calls() != 2 {
			t.Errorf("%d calls", w.calls())
		}
	})
}

func TestScopesArePartOfTheKeyInAnyOrder(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		plain := w.mustGet("alice").token()
		ask := func(query string) string {
			t.Helper()
			got := w.do(request("GET", "/token?client_user_id=alice"+query, ""))
			if got.token() == "" {
				t.Fatal(got.raw)
			}
			return got.token()
		}
		ab := ask("&extra_scopes=a&extra_scopes=b")
		if ask("&extra_scopes=b&extra_scopes=a&extra_scopes=a") != ab {
			t.Error("the order of scopes matters")
		}
		posted := w.do(request("POST", "/token", `{"client_user_id":"alice","extra_scopes":["b","a"]}`, "Content-Type",
			"application/json"))
		if posted.token() != ab {
			t.Error("scopes in JSON are not those of a query")
		}
		if a := ask("&extra_scopes=a"); a == ab || a == plain || ab == plain || ask("&extra_scopes=ab") == ab {
			t.Error("different scopes share a token")
		}
	})
}

func TestNoCacheSharesOneFetchAndLosesNothing(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		first := w.mustGet("alice").token()
		w.auth.Set(sandbox.Mood{Status: 500})
		if got := w.get("alice", "Cache-Control", "no-cache"); got.status != http.StatusServiceUnavailable {
			t.Errorf("status %d", got.status)
		}
		if w.mustGet("alice").token() != first {
			t.Fatal("a failed no-cache lost a good token")
		}
		w.auth.Set(sandbox.Mood{LatencyMS: 300})
		time.Sleep(500 * time.Millisecond) // the pause of a key that failed
		before := w.calls()
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				if got := w.mustGet("alice", "Cache-Control", "max-age=0, No-Cache"); got.token() == first {
					t.Error("no-cache got the cached token")
				}
			})
		}
		synctest.Wait()
		if w.mustGet("alice").token() != first {
			t.Error("the cached token is gone before the new one is there")
		}
		callers.Wait()
		if n := w.calls() - before; n != 1 {
			t.Errorf("%d calls", n)
		}
		if w.mustGet("alice").token() == first {
			t.Error("the new token was not kept")
		}
	})
}

func TestForget(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		first := w.mustGet("alice").token()
		del := func(headers ...string) {
			t.Helper()
			if got := w.do(request("DELETE", "/token?client_user_id=alice", "", headers...)); got.status != 204 ||
				got.raw != "" {
				t.Fatalf("%d %s", got.status, got.raw)
			}
		}
		del()
		second := w.mustGet("alice").token()
		if second == first {
			t.Fatal("a forgotten token is served")
		}
		// A hundred callers saw the same 401.
		for range 100 {
			del("X-Rejected-Token-Hash", fmt.Sprintf("%x", hashOf(second)))
			if w.mustGet("alice").token() == second {
				t.Fatal("a rejected token is served")
			}
		}
		if n := w.calls(); n != 3 {
			t.Errorf("%d calls, want 3", n)
		}
	})
}

func TestForgottenWhileFetched(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 1000})
		stale := make(chan string)
		go func() { stale <- w.mustGet("alice").token() }()
		synctest.Wait()
		w.do(request("DELETE", "/token?client_user_id=alice", ""))
		fresh := w.mustGet("alice").token()
		if <-stale == fresh {
			t.Error("what was asked for before the DELETE is served after it")
		}
		if w.mustGet("alice").token() != fresh {
			t.Error("the newer token was replaced by the older")
		}
	})
}

// TestForgottenElsewhereWhileFetched: what is under way when another sidecar forgets everything is for those who asked
// before.
func TestForgottenElsewhereWhileFetched(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{LatencyMS: 1000})
		stale := make(chan string)
		go func() { stale <- w.mustGet("alice").token() }()
		synctest.Wait()
		w.tokens.Forget(t.Context(), w.broker.Key(mustParse(t, "alice")), nil) // as the news of it do
		fresh := w.mustGet("alice").token()
		if <-stale == fresh {
			t.Error("what was asked for before the DELETE is served after it")
		}
	})
}

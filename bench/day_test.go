package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"token-sidecar/cache"
	"token-sidecar/proxy"
	"token-sidecar/secret"
	"token-sidecar/upstream"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const life = 24 * time.Hour

// counting is an auth service that counts.
type counting struct {
	mu       sync.Mutex
	calls    int
	running  map[string]bool
	overlaps int
}

func (c *counting) Limit() time.Duration { return 16 * time.Second }

func (c *counting) Token(_ context.Context, req upstream.Request) (*upstream.Answer, error) {
	user := req.UserID.Reveal()
	c.mu.Lock()
	c.calls++
	if c.running[user] {
		c.overlaps++
	}
	c.running[user] = true
	c.mu.Unlock()
	sent := time.Now()
	time.Sleep(authTakes)
	c.mu.Lock()
	delete(c.running, user)
	c.mu.Unlock()
	body := fmt.Sprintf(`{"access_token":"of %s","expires_in":%d}`, user, int(life.Seconds()))
	end := len(body) - 1
	return &upstream.Answer{
		Body: secret.Hide([]byte(body)), Tokens: []secret.Text{secret.Hide("of " + user)}, Sent: sent,
		Lifetimes: []upstream.Lifetime{{Start: end - 5, End: end, Life: life}},
	}, nil
}

// TestDay lets two days pass on virtual time in a fleet that shares a Redis, in which most users come every few hours
// and some all the time, each time to two pods at once. It compares the calls to the auth service with those of one
// cache for all, which would use each token to its last second.
func TestDay(t *testing.T) {
	pods, users := scaled(1_000), scaled(100_000)
	day := &goal{name: "day", what: fmt.Sprintf("calls to the auth service, two days of %d pods and %d users", pods, users), against: "one for each user and life", limit: 1.02, atMost: true}
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		auth := &counting{running: map[string]bool{}}
		fleet := make([]*proxy.Handler, pods)
		for i := range fleet {
			fleet[i] = startPod(t, server, auth)
		}
		began := time.Now()
		passing := time.NewTicker(5 * time.Minute)
		go func() { // time for Redis: it looks at all its keys each time, so not more often
			for range passing.C {
				if time.Since(began) > 2*life {
					return
				}
				server.FastForward(5 * time.Minute)
			}
		}()
		ideal := make([]int, users)
		var coming sync.WaitGroup
		for u := range users {
			coming.Go(func() { ideal[u] = visit(t, fleet, fmt.Sprint("user-", u), began, u%200 == 0) })
		}
		coming.Wait()
		passing.Stop()
		time.Sleep(6 * time.Minute)
		needed := 0
		for _, n := range ideal {
			needed += n
		}
		t.Logf("%d calls, %d needed, %d at once with another of the same user", auth.calls, needed, auth.overlaps)
		if auth.overlaps != 0 {
			t.Errorf("%d calls while another one of the same user was under way", auth.overlaps)
		}
		day.add(float64(auth.calls) / float64(needed))
	})
	day.record(t)
	if *rounds == 1 && day.seen[0] > 1.02 {
		t.Errorf("%v calls for each that is needed", day.seen[0])
	}
}

// startPod starts the sidecar of one pod.
func startPod(t *testing.T, server *miniredis.Miniredis, auth proxy.AuthService) *proxy.Handler {
	t.Helper()
	client := redis.NewClient(&redis.Options{
		Dialer:   func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		PoolSize: 4, DisableIdentity: true, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	keys := &cache.Keyring{}
	if err := keys.UseSecrets(secret.Hide("secret")); err != nil {
		t.Fatal(err)
	}
	tokens := cache.New(cache.Options{Entries: 2_000, Trust: 30 * time.Minute, StepLimit: 10 * time.Second, LockLife: 5 * time.Second, Client: client, Keys: keys})
	handler := proxy.New(proxy.Options{
		Tokens: tokens, Source: auth, AuthURL: "https://auth.test", ClientID: "client", Path: upstream.ConnectPath,
		Lifetimes: proxy.Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}, NegativeTTL: 10 * time.Second, NegativeEntries: 10, MaxConcurrent: 1000,
	})
	t.Cleanup(func() {
		handler.Close()
		tokens.Close()
	})
	return handler
}

// visit has a user ask two pods at once, again and again, and returns how many tokens that needs.
func visit(t *testing.T, fleet []*proxy.Handler, user string, began time.Time, busy bool) (needed int) {
	pause := 6 * time.Hour
	if busy {
		pause = 5 * time.Minute
	}
	time.Sleep(time.Duration(rand.Int64N(int64(life))))
	var until time.Time
	for ; time.Since(began) < 2*life; time.Sleep(time.Duration(rand.ExpFloat64() * float64(pause))) {
		if !time.Now().Before(until) {
			needed++
			until = time.Now().Add(life)
		}
		var callers sync.WaitGroup
		for range 2 {
			callers.Go(func() {
				r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/token?client_user_id="+user, nil)
				r.Host = "localhost"
				w := httptest.NewRecorder()
				fleet[rand.IntN(len(fleet))].ServeHTTP(w, r)
				if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"of `+user+`"`) {
					t.Errorf("%s got %d: %s", user, w.Code, w.Body)
				}
			})
		}
		callers.Wait()
	}
	return needed
}

package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/proxy"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

const life = 24 * time.Hour

// counting is an auth service that counts its calls.
type counting struct {
	mu       sync.Mutex
	calls    int
	running  map[string]bool
	overlaps int
}

func (c *counting) Limit() time.Duration { return 16 * time.Second }

func (c *counting) Held(upstream.Request) error { return nil }

func (c *counting) Token(_ context.Context, req upstream.Request) (*upstream.Answer, error) {
	user := req.UserID.Reveal()
	c.mu.Lock()
	c.calls++
	token := fmt.Sprintf("of %s no %d", user, c.calls) // a new one each time
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
	body := fmt.Sprintf(`{"access_token":%q,"expires_in":%d}`, token, int(life.Seconds()))
	end := len(body) - 1
	return &upstream.Answer{
		Body: secret.Hide([]byte(body)), Tokens: []secret.Text{secret.Hide(token)}, Sent: sent,
		Lifetimes: []upstream.Lifetime{{Start: end - 5, End: end, Life: life}},
	}, nil
}

// TestDay simulates two days, on virtual time, in a fleet that shares a Redis. Most users come every few hours and some
// all the time, each time to two pods at once. It compares the calls to the auth service with those of a single cache
// that uses each token to its last second.
func TestDay(t *testing.T) {
	pods, users := scaled(1_000), scaled(100_000)
	day := &goal{name: "day", what: fmt.Sprintf("two simulated days, %d pods, %d users: calls to the auth service",
		pods, users), against: "one cache that uses each token to the end", limit: 1.02, atMost: true}
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		t.Cleanup(server.Close)
		auth := &counting{running: map[string]bool{}}
		fleet := make([]*proxy.Handler, pods)
		for i := range fleet {
			fleet[i] = startPod(t, server, auth)
		}
		began := time.Now()
		needed := 0
		until := make([]time.Time, users) // when a user's token expires in the single cache
		var told time.Duration            // how much of the elapsed time Redis knows
		var coming sync.WaitGroup
		for _, v := range visits(users) {
			time.Sleep(time.Until(began.Add(v.at)))
			if passed := v.at - told; passed >= 5*time.Minute { // each time it checks all its keys
				server.FastForward(passed)
				told = v.at
			}
			if !time.Now().Before(until[v.user]) {
				needed++
				until[v.user] = time.Now().Add(life)
			}
			for range 2 {
				coming.Go(func() { ask(t, fleet[rand.IntN(len(fleet))], fmt.Sprint("user-", v.user)) })
			}
		}
		coming.Wait()
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
func startPod(t *testing.T, server *miniredis.Miniredis, auth vend.AuthService) *proxy.Handler {
	t.Helper()
	client := redis.NewClient(&redis.Options{
		Dialer:   func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		PoolSize: 4, DisableIdentity: true, ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	keys := &cache.Keyring{}
	if err := keys.UseSecret(secret.Hide("secret")); err != nil {
		t.Fatal(err)
	}
	tokens := cache.New(cache.Options{
		MemorySize: 2 << 20, Trust: 30 * time.Minute, StepLimit: 10 * time.Second,
		LockLife: 5 * time.Second, FetchLimit: 20 * time.Second, ProbeEvery: 48 * time.Hour, Client: client, Keys: keys,
	})
	broker := vend.NewBroker(vend.Options{
		Cache: tokens, AuthService: auth, AuthURL: "https://auth.test", ClientID: "client",
		Lifetimes: vend.Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}, NegativeTTL: 10 * time.Second,
	})
	handler := proxy.New(proxy.Options{
		Broker: broker, ClientID: "client", Path: upstream.ConnectPath,
		MaxConcurrent: 1000,
	})
	t.Cleanup(func() {
		handler.Close()
		tokens.Close()
	})
	return handler
}

// A visit is a user's, at that time after the start.
type visit struct {
	at   time.Duration
	user int
}

// visits returns those of two days, in order: most users come every six hours, one in two hundred every five minutes.
func visits(users int) (all []visit) {
	for user := range users {
		pause := 6 * time.Hour
		if user%200 == 0 {
			pause = 5 * time.Minute
		}
		for at := time.Duration(rand.Int64N(int64(life))); at < 2*life; {
			all = append(all, visit{at, user})
			at += time.Duration(rand.ExpFloat64() * float64(pause))
		}
	}
	slices.SortFunc(all, func(a, b visit) int { return cmp.Compare(a.at, b.at) })
	return all
}

func ask(t *testing.T, pod *proxy.Handler, user string) {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/token?client_user_id="+user, nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	pod.ServeHTTP(w, r)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"of `+user+` no `) {
		t.Errorf("%s got %d: %s", user, w.Code, w.Body)
	}
}

package bench

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

// sink is a ResponseWriter without costs.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

// local is a sidecar in this process, without a network.
type local struct {
	handler *proxy.Handler
	tokens  *cache.Cache
}

func connect(t testing.TB, url string) redis.UniversalClient {
	t.Helper()
	client, err := cache.Connect(cache.Server{URL: secret.Hide(url), Mode: "single", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// newLocal returns a sidecar that trusts its memory for that long; an empty URL means no Redis.
func newLocal(
	t testing.TB, auth *testbed.Auth, redisURL string, trust time.Duration, change ...func(*proxy.Options),
) *local {
	t.Helper()
	clientSecret := secret.Fixed(sandbox.DefaultClientSecret)
	opts := cache.Options{
		MemorySize: 32 << 20, Trust: trust, StepLimit: 5 * time.Second, LockLife: 5 * time.Second,
		FetchLimit: 20 * time.Second,
		Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	}
	if redisURL != "" {
		opts.Client, opts.Keys = connect(t, redisURL), &cache.Keyring{}
		if err := opts.Keys.UseSecret(clientSecret.Text()); err != nil {
			t.Fatal(err)
		}
	}
	source := upstream.New(upstream.Options{
		URL: auth.URL, ClientID: sandbox.DefaultClientID, Secret: clientSecret,
		Registerer: prometheus.NewRegistry(),
	})
	l := &local{tokens: cache.New(opts)}
	handled := proxy.Options{
		Broker: vend.NewBroker(vend.Options{
			Cache: l.tokens, AuthService: source, AuthURL: auth.URL, ClientID: sandbox.DefaultClientID,
			Lifetimes: vend.Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}, NegativeTTL: 10 * time.Second,
			Registerer: prometheus.NewRegistry(),
		}),
		ClientID: sandbox.DefaultClientID, Path: upstream.ConnectPath,
		CallerToken: secret.Fixed(callerToken), MaxConcurrent: 100_000, Registerer: prometheus.NewRegistry(),
	}
	for _, change := range change {
		change(&handled)
	}
	l.handler = proxy.New(handled)
	t.Cleanup(func() {
		l.handler.Close()
		l.tokens.Close()
		source.Close()
	})
	return l
}

// ask returns a function that repeatedly asks for the token of one user.
func (l *local) ask(t testing.TB, user string) func() {
	t.Helper()
	return l.serve(t, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/token?client_user_id="+user, nil))
}

func (l *local) serve(t testing.TB, r *http.Request) func() {
	t.Helper()
	r.Host = "localhost:8080"
	r.Header.Set("Authorization", "Bearer "+callerToken)
	w := &sink{header: http.Header{}}
	return func() {
		clear(w.header)
		w.status = http.StatusOK
		l.handler.ServeHTTP(w, r)
		if w.status != http.StatusOK && w.status != http.StatusNoContent {
			t.Errorf("status %d", w.status)
		}
	}
}

// together repeats each of the functions, all concurrently, and returns the rate and the median time of one call.
func together(each []func(), d time.Duration) (perSecond float64, median time.Duration) {
	var group sync.WaitGroup
	took := make([][]time.Duration, len(each))
	began := time.Now()
	for i, do := range each {
		group.Go(func() {
			for last := time.Now(); last.Sub(began) < d; {
				do()
				now := time.Now()
				took[i] = append(took[i], now.Sub(last))
				last = now
			}
		})
	}
	group.Wait()
	elapsed := time.Since(began)
	all := slices.Concat(took...)
	slices.Sort(all)
	return float64(len(all)) / elapsed.Seconds(), all[len(all)/2]
}

// TestRedisHits: tokens in Redis, compared with a bare GET of the same value by the same library in the same process.
func TestRedisHits(t *testing.T) {
	auth, server := testbed.StartAuth(t), testbed.StartRedis(t)
	l, client := newLocal(t, auth, server.URL(), 0), connect(t, server.URL())
	var ours, bare []func()
	for _, user := range names(64) {
		ask := l.ask(t, user)
		ask()
		ours = append(ours, ask)
	}
	for _, name := range client.Keys(t.Context(), "token-sidecar:v2:*").Val() {
		if strings.HasSuffix(name, "}") && len(bare) < len(ours) {
			bare = append(bare, func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if err := client.Get(ctx, name).Err(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if len(bare) != len(ours) {
		t.Fatalf("%d of %d tokens are in Redis", len(bare), len(ours))
	}
	throughput := &goal{
		name: "redis", what: "Redis hit, requests per second, 64 callers", against: "bare go-redis GET",
		limit: 1.2,
	}
	latency := &goal{
		name: "redis-median", what: "Redis hit, speed of the median, 64 callers",
		against: "bare go-redis GET", limit: 0.85,
	}
	peer := &goal{
		name: "redis-oauth2-proxy", what: throughput.what, against: "oauth2-proxy's sessions in Redis, sealed", limit: 1,
	}
	theirSessions := oauth2ProxySessions(t, server.URL(), len(ours))
	for range *rounds {
		theirs, theirMedian := together(bare, *length)
		mine, median := together(ours, *length)
		sessions, _ := together(theirSessions, *length)
		throughput.add(mine / theirs)
		latency.add(theirMedian.Seconds() / median.Seconds())
		peer.add(mine / sessions)
	}
	for _, g := range []*goal{throughput, latency, peer} {
		g.record(t)
	}
}

// TestUsers: the cost of a Redis hit does not depend on the number of users. Each number of users has its own database
// and sidecar, whose memory holds 10,000 tokens and is not trusted, so that Redis is asked for all.
func TestUsers(t *testing.T) {
	auth, server := testbed.StartAuth(t), testbed.StartRedis(t)
	numbers := []int{1_000, 10_000, 100_000, 1_000_000}
	path := program(t)
	sidecars, asked := make([]*contestant, len(numbers)), make([][][]byte, len(numbers))
	for i, n := range numbers {
		_, g := startSidecar(t, []string{path}, auth, "REDIS_URL="+server.URL()+"/"+strconv.Itoa(i), "MEMORY_CACHE_TTL=1ms")
		sidecars[i] = &contestant{name: "users", target: g, ask: get}
		users := names(scaled(n))
		warm(t, g, get, users)
		asked[i] = requests(get, users)
	}
	stored := 0
	for _, n := range numbers {
		stored += scaled(n)
	}
	memory := &goal{
		name: "users-memory", what: "memory of Redis per token", limit: 1024, atMost: true,
		unit: " B",
	}
	memory.add(infoNumber(t, server.Client(), "memory", "used_memory") / float64(stored))
	memory.record(t)
	growth := &goal{
		name: "users", what: "median of a Redis hit, 1,000,000 users", against: "1,000 users", limit: 1.15,
		atMost: true,
	}
	medians := make([][]float64, len(numbers))
	for range *rounds {
		for _, i := range rand.Perm(len(sidecars)) {
			c := sidecars[i]
			load := Load{Conns: 16, Requests: asked[i], For: *length}
			medians[i] = append(medians[i], c.run(t, load).Quantile(.5).Seconds())
		}
		last := len(medians[0]) - 1
		growth.add(medians[len(numbers)-1][last] / medians[0][last])
	}
	growth.record(t)
	cost := Line{Name: "median of a Redis hit"}
	for i, n := range numbers {
		cost.Points = append(cost.Points, Point{float64(n), median(medians[i]) / median(medians[0])})
	}
	draw(t, "performance-users.svg", Plot{
		Title: "Cost of a Redis hit over the number of users", X: "users",
		Y: "median, in medians at 1,000 users", LogX: true, Lines: []Line{cost},
	})
}

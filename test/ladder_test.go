package test

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/app"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy"
	"token-sidecar/upstream/sandbox"
)

// A stage is a fleet of three sidecars under traffic, with TCP proxies in front of Redis and the auth service.
type stage struct {
	t           testing.TB
	auth        *testbed.Auth
	authProxy   *testbed.Proxy
	redis       *testbed.Redis
	redisProxy  *testbed.Proxy
	fleet       []string       // their URLs
	wall        []atomic.Int64 // the offset of each one's wall clock
	client      *http.Client
	bound       time.Duration
	warm        int // users whose token every sidecar has been asked for before
	stop        chan struct{}
	traffic     sync.WaitGroup
	cold        atomic.Int64
	counts      counts
	callsBefore int
}

// counts are the results of one rung.
type counts struct {
	requests, warmFailures, coldFailures, wrongUser, insideMargin atomic.Int64
	slowest                                                       atomic.Int64
}

const (
	fleetSize  = 3
	callersPer = 3
)

// transports are the protocols to the auth service.
var transports = []struct {
	name, proto string
	start       func(testing.TB) *testbed.Auth
}{
	{"HTTP/1.1", "HTTP/1.1", testbed.StartAuth},
	{"HTTP/2 with TLS", "HTTP/2.0", testbed.StartAuthTLS},
}

// newStage starts a fleet with short time limits, so that all of them occur.
func newStage(t *testing.T, auth *testbed.Auth, url func(*stage) string, more ...string) *stage {
	s := &stage{t: t, auth: auth, warm: 100, stop: make(chan struct{}), wall: make([]atomic.Int64, fleetSize)}
	scheme, addr, _ := strings.Cut(auth.URL, "://")
	s.authProxy = testbed.StartProxy(t, addr)
	environ := s.auth.Environ(append([]string{
		"HUMANAPI_AUTH_URL=" + scheme + "://" + s.authProxy.Addr, "REDIS_URL=" + url(s), "UPSTREAM_TIMEOUT=600ms",
		"UPSTREAM_MAX_ATTEMPTS=2", "BREAKER_OPEN_FOR=500ms",
	}, more...)...)
	conf, err := settings.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	s.bound = conf.UpstreamTimeout*time.Duration(conf.UpstreamMaxAttempts) + 2*time.Second
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	s.client = &http.Client{Transport: transport, Timeout: time.Minute}
	t.Cleanup(transport.CloseIdleConnections)
	for i := range fleetSize {
		s.fleet = append(s.fleet, s.startOne(conf, i))
	}
	return s
}

func redisByProxy(s *stage) string {
	s.redis = testbed.StartRedis(s.t)
	s.redisProxy = testbed.StartProxy(s.t, s.redis.Addr)
	return "redis://" + s.redisProxy.Addr
}

// startOne builds a sidecar as serve does, in this process, so that its wall clock can be moved.
func (s *stage) startOne(conf settings.Settings, i int) (url string) {
	parts, err := app.NewParts(conf, app.Options{Registerer: prometheus.NewRegistry(), Wall: func() time.Time {
		return time.Now().Add(time.Duration(s.wall[i].Load()))
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := proxy.Listen(s.t.Context(), "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := proxy.NewServer(proxy.ServerOptions{Handler: parts.Handler})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	s.t.Cleanup(func() {
		_ = server.Shutdown(s.t.Context()) // which has ended, so it does not wait
		serving.Wait()
		parts.Close()
	})
	return "http://" + listener.Addr().String()
}

// ask asks one sidecar for a token and checks the answer.
func (s *stage) ask(sidecar int, user string) bool {
	began := time.Now()
	res, err := s.client.Get(s.fleet[sidecar] + "/token?client_user_id=" + user)
	ok := err == nil
	if ok {
		body, readErr := io.ReadAll(res.Body)
		_ = res.Body.Close()
		ok = readErr == nil && res.StatusCode == http.StatusOK
		if ok {
			_, rest, _ := strings.Cut(string(body), `"access_token":"`)
			token, _, _ := strings.Cut(rest, `"`)
			mine, left := sandbox.Inspect(token, user, began)
			if !mine {
				s.counts.wrongUser.Add(1)
			}
			if left < time.Minute {
				s.counts.insideMargin.Add(1)
			}
		}
	}
	took := time.Since(began)
	for {
		slowest := s.counts.slowest.Load()
		if int64(took) <= slowest || s.counts.slowest.CompareAndSwap(slowest, int64(took)) {
			break
		}
	}
	s.counts.requests.Add(1)
	return ok
}

// run warms the fleet up and starts the traffic: nine of ten requests are for users whose token is known, the rest for
// new ones.
func (s *stage) run() {
	s.t.Helper()
	var warming sync.WaitGroup
	for i := range fleetSize {
		warming.Go(func() {
			for u := range s.warm {
				if !s.ask(i, fmt.Sprint("warm-", u)) {
					s.t.Error("cannot warm up")
				}
			}
		})
	}
	warming.Wait()
	s.counts.slowest.Store(0)
	s.counts.requests.Store(0)
	s.callsBefore = s.auth.Counts().Calls
	for i := range fleetSize {
		for range callersPer {
			s.traffic.Go(func() {
				for {
					select {
					case <-s.stop:
						return
					default:
					}
					if rand.N(10) > 0 {
						if !s.ask(i, fmt.Sprint("warm-", rand.N(s.warm))) {
							s.counts.warmFailures.Add(1)
						}
					} else if !s.ask(i, fmt.Sprint("cold-", s.cold.Add(1))) {
						s.counts.coldFailures.Add(1)
					}
				}
			})
		}
	}
}

// during lets traffic pass until that many more requests were answered.
func (s *stage) during(requests int64) {
	s.t.Helper()
	from := s.counts.requests.Load()
	testbed.Until(s.t, "traffic flows", func() bool { return s.counts.requests.Load() >= from+requests })
}

func (s *stage) end() {
	close(s.stop)
	s.traffic.Wait()
}

// recordTo is the document that takes the counts seen; empty: none.
var recordTo = flag.String("record", "", "document whose tables take the counts seen")

// TestOutageLadder: whatever fails, no caller gets another user's token or one inside its margin, an existing token is
// served, and every answer arrives in time. Each rung is tested once with each transport.
func TestOutageLadder(t *testing.T) {
	const some = 300
	rows := make(chan row, 100)
	defer func() {
		close(rows)
		for r := range rows {
			testbed.Record(t, *recordTo, r.name, r.text)
		}
	}()
	t.Run("rungs", func(t *testing.T) { climbAll(t, some, rows) })
}

// A row is a rung in the documentation.
type row struct{ name, text string }

func climbAll(t *testing.T, some int64, rows chan<- row) {
	t.Helper()
	for _, rung := range []struct {
		name string
		// coldMayFail is set if new tokens may be unavailable meanwhile.
		coldMayFail bool
		url         func(*stage) string
		disturb     func(*stage)
	}{
		{"auth service down", true, redisByProxy, func(s *stage) { s.authProxy.Down(); s.during(some); s.authProxy.Up() }},
		{
			"auth service slow", false, redisByProxy,
			func(s *stage) { s.authProxy.Slow(250); s.during(some); s.authProxy.Heal() },
		},
		{
			"auth service slower than UPSTREAM_TIMEOUT", true, redisByProxy,
			func(s *stage) { s.authProxy.Slow(5000); s.during(some); s.authProxy.Heal() },
		},
		{
			"auth service black-holed", true, redisByProxy,
			func(s *stage) { s.authProxy.BlackHole(); s.during(some); s.authProxy.Heal() },
		},
		{"auth service flapping", true, redisByProxy, func(s *stage) {
			for range 5 {
				s.authProxy.Down()
				s.during(some / 10)
				s.authProxy.Up()
				s.during(some / 10)
			}
		}},
		{
			"auth service resets", true, redisByProxy,
			func(s *stage) { s.authProxy.Reset(); s.during(some); s.authProxy.Heal() },
		},
		{
			"auth service stops mid-body", true, redisByProxy,
			func(s *stage) { s.authProxy.CutAfter(250); s.during(some); s.authProxy.Heal() },
		},
		{"Redis down", false, redisByProxy, func(s *stage) { s.redisProxy.Down(); s.during(some); s.redisProxy.Up() }},
		{"Redis slow", false, redisByProxy, func(s *stage) { s.redisProxy.Slow(50); s.during(some); s.redisProxy.Heal() }},
		{
			"Redis slower than REDIS_TIMEOUT", false, redisByProxy,
			func(s *stage) { s.redisProxy.Slow(1000); s.during(some); s.redisProxy.Heal() },
		},
		{
			"Redis black-holed", false, redisByProxy,
			func(s *stage) { s.redisProxy.BlackHole(); s.during(some); s.redisProxy.Heal() },
		},
		{"Redis flapping", false, redisByProxy, func(s *stage) {
			for range 5 {
				s.redisProxy.Down()
				s.during(some / 10)
				s.redisProxy.Up()
				s.during(some / 10)
			}
		}},
		{"Redis resets", false, redisByProxy, func(s *stage) { s.redisProxy.Reset(); s.during(some); s.redisProxy.Heal() }},
		{
			"Redis stops mid-answer", false, redisByProxy,
			func(s *stage) { s.redisProxy.CutAfter(100); s.during(some); s.redisProxy.Heal() },
		},
		{
			"Redis killed and empty again", false, redisByProxy,
			func(s *stage) { s.redis.Kill(); s.during(some); s.redis.Start() },
		},
		{"both down", true, redisByProxy, func(s *stage) {
			s.redisProxy.Down()
			s.authProxy.Down()
			s.during(some)
			s.redisProxy.Up()
			s.authProxy.Up()
		}},
		{
			"one wall clock an hour ahead", false, redisByProxy,
			func(s *stage) { s.wall[0].Store(int64(time.Hour)); s.during(some) },
		},
		{
			"one wall clock an hour behind", false, redisByProxy,
			func(s *stage) { s.wall[0].Store(-int64(time.Hour)); s.during(some) },
		},
	} {
		for _, transport := range transports {
			name := rung.name
			if transport.proto != "HTTP/1.1" {
				name += ", " + transport.name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel() // a rung mostly waits for limits to pass
				s := newStage(t, transport.start(t), rung.url, "MEMORY_CACHE_TTL=50ms")
				rows <- climb(t, s, name, rung.coldMayFail, rung.disturb)
				if spoken := s.auth.Protocols(); len(spoken) != 1 || spoken[0] != transport.proto {
					t.Errorf("the auth service was spoken to by %q", spoken)
				}
			})
		}
	}
}

// TestFailover kills the master of a sentinel trio under the same traffic.
func TestFailover(t *testing.T) {
	sentinel := testbed.StartSentinel(t)
	s := newStage(t, testbed.StartAuth(t), func(*stage) string { return sentinel.URL }, "REDIS_MODE=sentinel",
		"MEMORY_CACHE_TTL=50ms")
	r := climb(t, s, "Redis failing over", false, func(s *stage) {
		sentinel.Master.Kill()
		replica := sentinel.Replica.Client()
		testbed.Until(t, "the replica took over", func() bool {
			return strings.Contains(replica.Info(t.Context(), "replication").Val(), "role:master")
		})
		s.during(300)
	})
	testbed.Record(t, *recordTo, r.name, r.text)
}

func climb(t *testing.T, s *stage, name string, coldMayFail bool, disturb func(*stage)) row {
	t.Helper()
	s.run()
	s.during(100)
	disturb(s)
	s.during(100)
	s.end()
	c := &s.counts
	if c.wrongUser.Load() != 0 || c.insideMargin.Load() != 0 {
		t.Errorf("%d tokens of another user, %d inside their margin", c.wrongUser.Load(), c.insideMargin.Load())
	}
	if n := c.warmFailures.Load(); n != 0 {
		t.Errorf("%d failures though a valid token existed", n)
	}
	if n := c.coldFailures.Load(); n != 0 && !coldMayFail {
		t.Errorf("%d failures though the auth service answered", n)
	}
	if slowest := time.Duration(c.slowest.Load()); slowest > s.bound {
		t.Errorf("the slowest answer took %v, the bound is %v", slowest, s.bound)
	}
	calls := s.auth.Counts().Calls - s.callsBefore
	t.Logf("%s: %d requests, %d + %d failures, %d calls for %d new users, slowest %v", name, c.requests.Load(),
		c.warmFailures.Load(),
		c.coldFailures.Load(), calls, s.cold.Load(), time.Duration(c.slowest.Load()))
	return row{name, fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %d / %d |", name, c.requests.Load(),
		c.warmFailures.Load(), c.coldFailures.Load(), c.wrongUser.Load(), c.insideMargin.Load(), calls, s.cold.Load())}
}

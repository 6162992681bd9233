package test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// soakFor is how long the soak goes on; make soak takes ten minutes.
var soakFor = flag.Duration("soak", 5*time.Second, "how long TestSoak goes on")

// footprint is what must not grow.
type footprint struct{ memory, goroutines, files float64 }

func footprintOf(t *testing.T, s *testbed.Sidecar) (f footprint) {
	t.Helper()
	metrics := s.Metrics()
	value := func(name string) float64 {
		m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metrics)
		if m == nil {
			t.Fatalf("no metric %s", name)
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return footprint{
		memory: value("process_resident_memory_bytes"), goroutines: value("go_goroutines"),
		files: value("process_open_fds"),
	}
}

// TestSoak breaks things at random for a long time; afterwards memory, goroutines and file descriptors have not grown.
func TestSoak(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	authProxy, redisProxy := testbed.StartProxy(t, strings.TrimPrefix(auth.URL, "http://")),
		testbed.StartProxy(t, redis.Addr)
	auth.Set(sandbox.Mood{ExpiresIn: 20})
	fleet := startFleet(t, 3, auth.Environ("HUMANAPI_AUTH_URL=http://"+authProxy.Addr,
		"REDIS_URL=redis://"+redisProxy.Addr, "LOG_LEVEL=warn",
		"MEMORY_CACHE_SIZE=1MiB", "MEMORY_CACHE_TTL=1s", "UPSTREAM_TIMEOUT=500ms", "BREAKER_OPEN_FOR=1s", "NEGATIVE_TTL=1s"))
	var requests, wrong atomic.Int64
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for i := range 3 * len(fleet) {
		traffic.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				user := fmt.Sprint("user-", rand.N(1000)) // nine of ten
				if rand.N(10) == 0 {
					user = fmt.Sprint("once-", rand.Uint64()) // anything left of them would accumulate
				}
				began := time.Now()
				switch rand.N(20) {
				case 0:
					fleet[i%len(fleet)].Do("DELETE", "client_user_id="+user)
				case 1:
					fleet[i%len(fleet)].Get(user, "Cache-Control", "no-cache")
				default:
					if r := fleet[i%len(fleet)].Get(user); r.Status == 200 {
						if mine, left := sandbox.Inspect(r.Token, user, began); !mine || left < 2*time.Second {
							wrong.Add(1)
						}
					}
				}
				requests.Add(1)
			}
		})
	}
	flow := func(n int64) {
		from := requests.Load()
		testbed.Until(t, "traffic flows", func() bool { return requests.Load() > from+n })
	}
	faults := []func(){
		func() { redisProxy.Down(); flow(300); redisProxy.Up() },
		func() { redisProxy.BlackHole(); flow(300); redisProxy.Heal() },
		func() { redisProxy.Reset(); flow(300); redisProxy.Heal() },
		func() { redisProxy.Slow(100); flow(100); redisProxy.Heal() },
		func() { redis.Kill(); flow(300); redis.Start() },
		func() { authProxy.Down(); flow(100); authProxy.Up() },
		func() { authProxy.Slow(300); flow(100); authProxy.Heal() },
		func() { authProxy.BlackHole(); flow(50); authProxy.Heal() },
		func() { authProxy.CutAfter(200); flow(100); authProxy.Heal() },
		func() {
			auth.Set(sandbox.Mood{Status: 429, RetryAfter: "1"})
			flow(100)
			auth.Set(sandbox.Mood{ExpiresIn: 20})
		},
		func() { auth.Set(sandbox.Mood{Fault: "huge"}); flow(20); auth.Set(sandbox.Mood{ExpiresIn: 20}) },
	}
	for _, fault := range faults { // each once before the first measurement
		fault()
		flow(300)
	}
	before := make([]footprint, len(fleet))
	for i, s := range fleet {
		before[i] = footprintOf(t, s)
	}
	for began := time.Now(); time.Since(began) < *soakFor; {
		faults[rand.N(len(faults))]()
		flow(300)
	}
	close(stop)
	traffic.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d tokens of another user or inside their margin", n)
	}
	for i, s := range fleet {
		after := footprintOf(t, s)
		t.Logf("sidecar %d after %d requests: %+v, before %+v", i, requests.Load(), after, before[i])
		if after.memory > 1.5*before[i].memory+32<<20 || after.goroutines > before[i].goroutines+50 ||
			after.files > before[i].files+50 {
			t.Errorf("sidecar %d grew: %+v, before %+v", i, after, before[i])
		}
	}
}

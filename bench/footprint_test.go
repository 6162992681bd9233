package bench

import (
	"os"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// TestMemory: how much of the machine's memory the sidecar uses.
func TestMemory(t *testing.T) {
	const mebi = 1 << 20
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	path := program(t)
	idle := &goal{name: "memory-idle", what: "resident memory, idle", limit: 20, atMost: true, unit: " MiB"}
	tokens := &goal{
		name: "memory-tokens", what: "resident memory, 10,000 tokens, at rest", limit: 36, atMost: true,
		unit: " MiB",
	}
	loaded := &goal{
		name: "memory-loaded", what: "resident memory, 10,000 tokens, under full load", limit: 48,
		atMost: true, unit: " MiB",
	}
	nginxTokens := &goal{name: "memory-nginx", what: "nginx, 10,000 tokens in files, under full load", unit: " MiB"}
	for range min(*rounds, 5) { // each takes long, and they differ little
		redis.Client().FlushAll(t.Context())
		s, g := startSidecar(t, []string{path}, auth, "REDIS_URL="+redis.URL())
		users := names(scaled(10_000))
		idle.add(float64(g.memory(t)) / mebi)
		warm(t, g, get, users)
		tokens.add(float64(g.atRest(t)) / mebi)
		c := &contestant{name: "token-sidecar", target: g}
		c.run(t, Load{Conns: 64, Requests: requests(get, users), For: 8 * *length})
		loaded.add(float64(g.memory(t)) / mebi)
		s.Kill()
		n := &contestant{name: "nginx", target: startNginx(t, auth, "")}
		warm(t, n.target, get, users)
		n.run(t, Load{Conns: 64, Requests: requests(get, users), For: 8 * *length})
		nginxTokens.add(float64(n.memory(t)) / mebi)
	}
	for _, g := range []*goal{idle, tokens, loaded, nginxTokens} {
		g.record(t)
	}
}

// atRest is the memory of g once it has stayed constant for some seconds.
func (g target) atRest(t testing.TB) int64 {
	t.Helper()
	const jitter = 64 << 10
	var last int64
	var since time.Time
	testbed.Until(t, "its memory stays the same", func() bool {
		if now := g.memory(t); now > last+jitter || now < last-jitter {
			last, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
	return last
}

// TestStart: from the start of the process to a token from Redis.
func TestStart(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	path := program(t)
	shared := []string{"REDIS_URL=" + redis.URL(), "REDIS_TIMEOUT=2s"}
	first, _ := startSidecar(t, []string{path}, auth, shared...)
	header := []string{"Authorization", "Bearer " + callerToken}
	if r := first.Get("user", header...); r.Status != 200 {
		t.Fatalf("%d, %v", r.Status, r.Err)
	}
	token := testbed.WriteFile(t, "caller", callerToken)
	start := &goal{name: "start", what: "start to the first token from Redis", limit: 50, atMost: true, unit: " ms"}
	size := &goal{
		name: "size", what: "the program, without the certificates of the image", limit: 20, atMost: true,
		unit: " MB",
	}
	environ := auth.Environ(append(shared, "CALLER_TOKEN_FILE="+token)...)
	for range 2 * *rounds {
		began := time.Now()
		s := testbed.LaunchBuilt(t, []string{path}, environ...)
		testbed.Until(t, "it answers", func() bool { return s.Get("user", header...).CacheStatus != "" })
		start.add(float64(time.Since(began).Microseconds()) / 1000)
		s.Kill()
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	size.add(float64(info.Size()) / 1e6)
	start.record(t)
	size.record(t)
	if calls := auth.CallsOf("user"); calls != 1 {
		t.Errorf("%d calls: the token did not come from Redis", calls)
	}
}

package bench

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// authTakes is how long the auth service takes for a token here.
const authTakes = 200 * time.Millisecond

// TestCold: many simultaneous callers of a user whose token is not cached. Server and load share the machine.
func TestCold(t *testing.T) {
	auth := testbed.StartAuth(t)
	_, sidecar := startSidecar(t, []string{program(t)}, auth, "MAX_CONCURRENT_REQUESTS=20000")
	ours := &contestant{name: "token-sidecar", target: sidecar}
	theirs := &contestant{name: "nginx", target: startNginx(t, auth, "")}
	bare := &contestant{name: "bare", target: startBare(t)}
	own := &contestant{name: "oauth2", target: startServer(t, "oauth2", auth.URL)}
	haproxy := &contestant{name: "haproxy", target: startHAProxy(t, auth)}
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	callers := scaled(10_000)
	slowest := &goal{
		name: "cold", what: "10,000 callers of one user: the longest wait",
		against: "the auth service's answer", limit: 1.25, atMost: true,
	}
	slowestBare := &goal{
		name: "cold-slowest-bare", what: "the same",
		against: "bare net/http that answers them together", limit: 1.25, atMost: true,
	}
	last := &goal{
		name: "cold-last", what: "10,000 callers of one user: all answered",
		against: "the auth service's answer", limit: 1.25, atMost: true,
	}
	limit := &goal{
		name: "cold-bare", what: "the same", against: "bare net/http that answers them together",
		limit: 1.25, atMost: true,
	}
	ahead := &goal{name: "cold-nginx", what: "the same", against: "nginx, proxy_cache_lock", limit: 1, atMost: true}
	calls := &goal{name: "cold-calls", what: "calls to the auth service", limit: 1, atMost: true}
	theirCalls := &goal{name: "cold-nginx-calls", what: "nginx's calls"}
	aheadOwn := &goal{name: "cold-oauth2", what: "the same", against: "x/oauth2 in a handler", limit: 1, atMost: true}
	ownCalls := &goal{name: "cold-oauth2-calls", what: "x/oauth2's calls"}
	haproxyCalls := &goal{name: "cold-haproxy-calls", what: "HAProxy's calls, 1,000 callers"}
	all := []*contestant{bare, theirs, own, ours}
	for round := range *rounds {
		shuffle(all)
		for _, c := range all {
			calm(t, all)
			request := get(fmt.Sprint(c.name, "-", round))
			if c == bare {
				request = fmt.Appendf(nil, "GET /cold/%d HTTP/1.1\r\nHost: localhost\r\n\r\n", round)
			}
			res := c.run(t, Load{Conns: callers, Requests: [][]byte{request}})
			if len(res.Latencies) != callers {
				t.Fatalf("%s: %d answers for %d callers", c.name, len(res.Latencies), callers)
			}
		}
		slowest.add(ours.last.res.Quantile(1).Seconds() / authTakes.Seconds())
		slowestBare.add(ours.last.res.Quantile(1).Seconds() / bare.last.res.Quantile(1).Seconds())
		last.add(ours.last.res.Elapsed.Seconds() / authTakes.Seconds())
		limit.add(ours.last.res.Elapsed.Seconds() / bare.last.res.Elapsed.Seconds())
		ahead.add(ours.last.res.Elapsed.Seconds() / theirs.last.res.Elapsed.Seconds())
		calls.add(float64(auth.CallsOf(fmt.Sprint(ours.name, "-", round))))
		theirCalls.add(float64(auth.CallsOf(fmt.Sprint(theirs.name, "-", round))))
		aheadOwn.add(ours.last.res.Elapsed.Seconds() / own.last.res.Elapsed.Seconds())
		ownCalls.add(float64(auth.CallsOf(fmt.Sprint(own.name, "-", round))))
		if round < 5 { // a call for each caller
			user := fmt.Sprint(haproxy.name, "-", round)
			haproxy.run(t, Load{Conns: scaled(1_000), Requests: [][]byte{get(user)}})
			haproxyCalls.add(float64(auth.CallsOf(user)))
		}
	}
	for _, g := range []*goal{
		slowest, slowestBare, last, limit, ahead, aheadOwn, calls, theirCalls, ownCalls, haproxyCalls,
	} {
		g.record(t)
	}
	if n := calls.seen[len(calls.seen)-1]; n != 1 {
		t.Errorf("%v calls for one user", n)
	}
}

// calm waits until all parties have finished with the previous round: closing 10,000 connections takes a while.
func calm(t *testing.T, all []*contestant) {
	t.Helper()
	var before time.Duration
	quiet := 0
	testbed.Until(t, "the servers are at rest", func() bool {
		var used time.Duration
		for _, c := range all {
			used += c.cpu(t)
		}
		if quiet++; used-before > 500*time.Microsecond {
			quiet = 0
		}
		before = used
		return quiet >= 10
	})
}

// TestColdFleet: the same user is asked of each sidecar of a fleet at once.
func TestColdFleet(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	path := program(t)
	fleet := make([]*testbed.Sidecar, 20)
	for i := range fleet {
		fleet[i], _ = startSidecar(t, []string{path}, auth, "REDIS_URL="+redis.URL(), "REDIS_TIMEOUT=2s")
		fleet[i].Get("warm-up", "Authorization", "Bearer "+callerToken)
	}
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	last := &goal{
		name: "fleet", what: "20 sidecars, one user: all answered",
		against: "the auth service's answer", limit: 1.25, atMost: true,
	}
	calls := &goal{name: "fleet-calls", what: "calls to the auth service", limit: 1, atMost: true}
	for round := range *rounds {
		user := fmt.Sprint("user-", round)
		var callers sync.WaitGroup
		began := time.Now()
		for _, s := range fleet {
			callers.Go(func() {
				if r := s.Get(user, "Authorization", "Bearer "+callerToken); r.Status != 200 {
					t.Errorf("status %d, %v", r.Status, r.Err)
				}
			})
		}
		callers.Wait()
		last.add(time.Since(began).Seconds() / authTakes.Seconds())
		calls.add(float64(auth.CallsOf(user)))
	}
	last.record(t)
	calls.record(t)
	if n := calls.seen[len(calls.seen)-1]; n != 1 {
		t.Errorf("%v calls for one user", n)
	}
}

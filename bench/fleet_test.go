package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// TestColdStart: a fleet starts cold, with a nearby and with a distant Redis. Callers ask for random users, all at
// once. Each user should cost one call to the auth service, and Redis should never be taken to be down.
func TestColdStart(t *testing.T) {
	const sidecars, users, callers = 12, 150, 600
	path := program(t)
	for _, away := range []time.Duration{
		0, 2 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond,
	} {
		ms := away.Milliseconds()
		calls, lost, p99 := &goal{limit: 1, atMost: true}, &goal{limit: 0.001, atMost: true}, &goal{}
		for range min(*rounds, 9) { // each takes long
			seen := coldStart(t, path, away, sidecars, users, callers)
			calls.add(float64(seen.calls) / users)
			lost.add(float64(seen.lost))
			p99.add(seen.p99.Seconds() / authTakes.Seconds())
		}
		row := fmt.Sprintf("| %d ms | %s | %s | %s |", ms, calls.cell(), lost.cell(), p99.cell())
		t.Log(row)
		testbed.Record(t, *recordTo, fmt.Sprint("cold-start-", ms), row)
		if worst := slices.Max(calls.seen); worst > 1 {
			t.Errorf("Redis %v away: %v calls for a user", away, worst)
		}
		if worst := slices.Max(lost.seen); worst > 0 {
			t.Errorf("Redis %v away: it was lost %v times", away, worst)
		}
	}
}

type coldStarted struct {
	calls, lost int
	p99         time.Duration
}

func coldStart(t *testing.T, path string, away time.Duration, sidecars, users, callers int) (seen coldStarted) {
	t.Helper()
	auth := testbed.StartAuth(t)
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	redis := testbed.StartProxy(t, testbed.StartRedis(t).Addr)
	redis.Slow(int(away.Milliseconds()))
	fleet := make([]*testbed.Sidecar, sidecars)
	for i := range fleet {
		fleet[i], _ = startSidecar(t, []string{path}, auth, "REDIS_URL=redis://"+redis.Addr,
			"REDIS_TIMEOUT="+redisTimeout)
	}
	took := make([]time.Duration, callers)
	var asking sync.WaitGroup
	for i := range callers {
		at := fleet[rand.IntN(sidecars)]
		asking.Go(func() {
			began := time.Now()
			got := at.Get(fmt.Sprint("user-", i%users), "Authorization", "Bearer "+callerToken)
			if took[i] = time.Since(began); got.Status != 200 {
				t.Errorf("status %d, %v", got.Status, got.Err)
			}
		})
	}
	asking.Wait()
	slices.Sort(took)
	seen.p99 = took[callers*99/100]
	for user := range users {
		seen.calls += auth.CallsOf(fmt.Sprint("user-", user))
	}
	for _, s := range fleet {
		seen.lost += strings.Count(s.Log(), "Redis lost") + strings.Count(s.Log(), "Redis cannot be")
		s.Kill()
	}
	return seen
}

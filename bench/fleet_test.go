package bench

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// TestColdStart: a fleet starts cold, with a nearby and with a distant Redis, and with processors that others keep busy.
// Callers ask for random users, all at once. Each user should cost one call to the auth service, and Redis should never
// be taken to be down.
func TestColdStart(t *testing.T) {
	path := program(t)
	for _, c := range []struct {
		row, name string
		away      time.Duration
		others    int
	}{
		{"0", "0 ms", 0, 0},
		{"2", "2 ms", 2 * time.Millisecond, 0},
		{"10", "10 ms", 10 * time.Millisecond, 0},
		{"30", "30 ms", 30 * time.Millisecond, 0},
		{"60", "60 ms", 60 * time.Millisecond, 0},
		{"busy", "0 ms, and twice as many other busy processes as processors", 0, 2 * runtime.NumCPU()},
	} {
		t.Run(c.name, func(t *testing.T) {
			keepBusy(t, c.others)
			calls, lost, p99 := &goal{limit: 1, atMost: true}, &goal{limit: 0.001, atMost: true}, &goal{}
			for range min(*rounds, 9) { // each takes long
				seen := coldStart(t, path, c.away)
				calls.add(float64(seen.calls) / coldUsers)
				lost.add(float64(seen.lost))
				p99.add(seen.p99.Seconds() / authTakes.Seconds())
			}
			row := fmt.Sprintf("| %s | %s | %s | %s |", c.name, calls.cell(), lost.cell(), p99.cell())
			t.Log(row)
			testbed.Record(t, *recordTo, "cold-start-"+c.row, row)
			if worst := slices.Max(calls.seen); worst > 1 {
				t.Errorf("%v calls for a user", worst)
			}
			if worst := slices.Max(lost.seen); worst > 0 {
				t.Errorf("Redis was lost %v times", worst)
			}
		})
	}
}

// keepBusy runs n processes that do nothing but take processor time, until the test ends.
func keepBusy(t *testing.T, n int) {
	t.Helper()
	for range n {
		busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = busy.Wait() })
	}
}

const coldUsers = 150

type coldStarted struct {
	calls, lost int
	p99         time.Duration
}

func coldStart(t *testing.T, path string, away time.Duration) (seen coldStarted) {
	t.Helper()
	const sidecars, callers = 12, 600
	auth := testbed.StartAuth(t)
	auth.Set(sandbox.Mood{LatencyMS: int(authTakes.Milliseconds())})
	redis := testbed.StartRedis(t).Addr
	if away > 0 { // a proxy would be slow itself while others keep the processors busy
		proxy := testbed.StartProxy(t, redis)
		proxy.Slow(int(away.Milliseconds()))
		redis = proxy.Addr
	}
	fleet := make([]*testbed.Sidecar, sidecars)
	for i := range fleet {
		fleet[i], _ = startSidecar(t, []string{path}, auth, "REDIS_URL=redis://"+redis,
			"REDIS_TIMEOUT="+redisTimeout)
	}
	took := make([]time.Duration, callers)
	var asking sync.WaitGroup
	for i := range callers {
		at := fleet[rand.IntN(sidecars)]
		asking.Go(func() {
			began := time.Now()
			got := at.Get(fmt.Sprint("user-", i%coldUsers), "Authorization", "Bearer "+callerToken)
			if took[i] = time.Since(began); got.Status != 200 {
				t.Errorf("status %d, %v", got.Status, got.Err)
			}
		})
	}
	asking.Wait()
	slices.Sort(took)
	seen.p99 = took[callers*99/100]
	for user := range coldUsers {
		seen.calls += auth.CallsOf(fmt.Sprint("user-", user))
	}
	for _, s := range fleet {
		seen.lost += strings.Count(s.Log(), `"msg":"Redis: `)
		s.Kill()
	}
	return seen
}

package test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// patient are settings for a machine that runs a whole fleet on two cores: nothing may fail for lack of processor time.
var patient = []string{"REDIS_TIMEOUT=2s", "UPSTREAM_TIMEOUT=20s", "UPSTREAM_MAX_ATTEMPTS=2"}

func startFleet(t *testing.T, n int, environ []string) []*testbed.Sidecar {
	t.Helper()
	fleet := make([]*testbed.Sidecar, n)
	for i := range fleet {
		fleet[i] = testbed.LaunchSidecar(t, environ...)
	}
	for _, s := range fleet {
		s.AwaitReady()
	}
	return fleet
}

// TestFleet: 20 sidecars, 200 cold users, 20 callers of each at once; the auth service is asked 200 times.
func TestFleet(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	fleet := startFleet(t, 20, auth.Environ(append(patient, "REDIS_URL="+redis.URL())...))
	auth.Set(sandbox.Mood{LatencyMS: 100})
	const users, callersEach = 200, 20
	var callers sync.WaitGroup
	var tokens [users]sync.Map
	start := make(chan struct{})
	for u := range users {
		user := fmt.Sprint("user-", u)
		for c := range callersEach {
			callers.Go(func() {
				<-start
				r := fleet[c].Get(user)
				if r.Status == 0 { // 4000 new connections at once on two cores: retry, as clients do
					r = fleet[c].Get(user)
				}
				mine, left := sandbox.Inspect(r.Token, user, time.Now())
				if r.Status != 200 || !mine || left <= 0 {
					t.Errorf("status %d, %v: %s", r.Status, r.Err, r.Body)
				}
				tokens[u].Store(r.Token, true)
			})
		}
	}
	close(start)
	callers.Wait()
	counts := auth.Counts()
	if counts.Calls != users || counts.Overlaps != 0 {
		t.Errorf("%d calls for %d users, %d at once with another of the same user", counts.Calls, users, counts.Overlaps)
		for _, s := range fleet {
			t.Log(grep(s.Metrics(), "redis_step_duration_seconds_count"))
		}
	}
	for u := range tokens {
		kinds := 0
		tokens[u].Range(func(any, any) bool { kinds++; return true })
		if kinds != 1 {
			t.Errorf("user %d has %d tokens", u, kinds)
		}
	}
	testbed.Record(t, *recordTo, "fleet",
		fmt.Sprintf("| 20 sidecars, 200 cold users, 20 callers of each at once | %d | 0 | %d |", users*callersEach,
			counts.Calls))
}

// TestFleetLosesAHolder: killing the sidecar that fetches costs one more call for each key it held, and no caller of
// another sidecar an error.
func TestFleetLosesAHolder(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	fleet := startFleet(t, 20, auth.Environ(append(patient, "REDIS_URL="+redis.URL())...))
	auth.Set(sandbox.Mood{LatencyMS: 2000})
	const users = 10
	holder, others := fleet[0], fleet[1:]
	for u := range users {
		go holder.Get(fmt.Sprint("user-", u))
	}
	testbed.Until(t, "the holder fetches", func() bool { return auth.Counts().Calls == users })
	var callers sync.WaitGroup
	var asked atomic.Int32
	for u := range users {
		user := fmt.Sprint("user-", u)
		for _, s := range others {
			callers.Go(func() {
				asked.Add(1)
				mustGetSoon(t, s, user)
			})
		}
	}
	testbed.Until(t, "the others wait", func() bool { return int(asked.Load()) == users*len(others) })
	holder.Signal(syscall.SIGKILL)
	callers.Wait()
	if n := auth.Counts().Calls; n > 2*users {
		t.Errorf("%d calls for %d users, one of which may be lost each", n, users)
	}
	testbed.Record(t, *recordTo, "holder",
		fmt.Sprintf("| the same, 10 users, the lock holder killed with SIGKILL while it fetches | %d | 0 | %d |",
			users*len(others), auth.Counts().Calls))
}

// mustGetSoon is mustGet for goroutines.
func mustGetSoon(t *testing.T, s *testbed.Sidecar, user string) {
	t.Helper()
	r := s.Get(user)
	if mine, left := sandbox.Inspect(r.Token, user, time.Now()); r.Status != 200 || !mine || left <= 0 {
		t.Errorf("status %d, %v: %s", r.Status, r.Err, r.Body)
	}
}

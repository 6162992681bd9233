package test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// A crisis is what two processes do to the token of one user while something happens to the first of them, the victim.
// What the survivor is asked for meanwhile takes until the victim's lock has ended, if it held one. The crisis lets the
// victim go on and returns the tokens that nobody may serve any more.
type crisis func(v *victim) (forgotten []string)

var crises = map[string]crisis{
	"a cold token": func(v *victim) []string {
		v.asked()
		v.met()
		v.ask(v.survivor)
		v.goOn()
		return nil
	},
	"everything is forgotten and fetched anew meanwhile": func(v *victim) []string {
		v.asked()
		v.met()
		first := v.ask(v.survivor)
		v.forget(v.survivor)
		newest := v.ask(v.survivor)
		if late := v.goOn(); late != newest {
			return []string{first, late}
		}
		return []string{first}
	},
	"a rejected token": func(v *victim) []string {
		first := v.ask(v.survivor)
		v.does(func() string {
			v.forget(v.sidecar, "X-Rejected-Token-Hash", hashOf(first))
			return ""
		})
		v.met()
		v.ask(v.survivor)
		v.goOn()
		if v.killed() {
			return nil // it may have told nobody
		}
		return []string{first}
	},
	"a newer token comes meanwhile": func(v *victim) []string {
		first := v.ask(v.survivor)
		v.does(func() string { return v.ask(v.sidecar, "Cache-Control", "no-cache") })
		v.met()
		newest := v.ask(v.survivor, "Cache-Control", "no-cache")
		if late := v.goOn(); v.step == fetching && late != newest { // it was asked for before
			return []string{first, late}
		}
		return []string{first}
	},
}

// What happens to a victim at no step in Redis.
const (
	nothing  = -1
	fetching = -2 // it happens while the auth service is asked
)

// A victim is a process to which something happens at one of its steps in Redis.
type victim struct {
	t        *testing.T
	sidecar  *testbed.Sidecar
	survivor *testbed.Sidecar
	witness  *testbed.Sidecar // has nothing in memory
	proxy    *testbed.Proxy
	auth     *testbed.Auth
	user     string
	signal   syscall.Signal
	step     int
	hit      chan struct{}
	watching sync.WaitGroup // for the moment of the signal
	done     chan string    // what came of what it was asked
}

// asked asks the victim for a token.
func (v *victim) asked() { v.does(func() string { return v.ask(v.sidecar) }) }

// does has the victim do something, which nobody waits for.
func (v *victim) does(what func() string) {
	v.proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if s.N == v.step {
			v.sidecar.Signal(v.signal)
			close(v.hit)
		}
		return testbed.None
	})
	finished := make(chan struct{})
	if v.step == fetching {
		before := v.auth.CallsOf(v.user)
		v.watching.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for v.auth.CallsOf(v.user) == before {
				select {
				case <-tick.C:
				case <-finished: // it had no need to
					return
				}
			}
			v.sidecar.Signal(v.signal)
			close(v.hit)
		})
	}
	go func() {
		defer close(finished)
		v.done <- what()
	}()
}

// met waits until it has happened, or the victim has done all that it does.
func (v *victim) met() {
	select {
	case <-v.hit:
	case token := <-v.done:
		v.done <- token
	}
}

// goOn wakes the victim and returns what came of what it was asked.
func (v *victim) goOn() string {
	v.proxy.OnStep(nil)
	v.watching.Wait() // it must not be stopped after it was woken
	v.sidecar.Signal(syscall.SIGCONT)
	return <-v.done
}

func (v *victim) killed() bool { return v.signal == syscall.SIGKILL }

// ask returns the token that a process vends. Only the victim may fail to answer, once it was killed.
func (v *victim) ask(s *testbed.Sidecar, header ...string) string {
	r := s.Get(v.user, header...)
	if mine, left := sandbox.Inspect(r.Token, v.user, time.Now()); (r.Status != http.StatusOK || !mine || left <= 0) &&
		(s != v.sidecar || !v.killed()) {
		v.t.Errorf("answered %d, %v: %s", r.Status, r.Err, r.Body)
	}
	return r.Token
}

func (v *victim) forget(s *testbed.Sidecar, header ...string) {
	if r := s.Do(http.MethodDelete, "client_user_id="+v.user, header...); r.Status/100 != 2 &&
		(s != v.sidecar || !v.killed()) {
		v.t.Errorf("DELETE answered %d, %v", r.Status, r.Err)
	}
}

// agree checks that in the end all living processes serve the same token, that it was not forgotten, and that they still
// fetch new ones. It returns how many calls all of it took beside the last.
func (v *victim) agree(forgotten []string) (calls int) {
	if slices.Contains(forgotten, v.ask(v.witness)) {
		v.t.Error("Redis holds a token that nobody may serve any more")
	}
	living := []*testbed.Sidecar{v.sidecar, v.survivor}
	if v.killed() {
		living = living[1:]
	}
	// News of a forget are on their way, and memory is trusted for a moment.
	testbed.Until(v.t, "all serve one token, and none that was forgotten", func() bool {
		tokens := map[string]bool{}
		for _, s := range living {
			tokens[v.ask(s)] = true
		}
		return len(tokens) == 1 && !slices.ContainsFunc(forgotten, func(token string) bool { return tokens[token] })
	})
	calls = v.auth.CallsOf(v.user)
	last := v.ask(v.survivor)
	for _, s := range living {
		next := v.ask(s, "Cache-Control", "no-cache")
		if next == last || slices.Contains(forgotten, next) {
			v.t.Error("no-cache got an old token")
		}
		last = next
	}
	return calls
}

// TestAProcessStopsAtEveryStep: a real process is stopped by SIGSTOP at each step in Redis of what it does, or while it
// asks the auth service, and woken when the others have gone on; or it is killed there.
func TestAProcessStopsAtEveryStep(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	auth.Set(sandbox.Mood{LatencyMS: 100})
	environ := auth.Environ("REDIS_TIMEOUT=2s", "MEMORY_CACHE_TTL="+memoryTTL.String(), "UPSTREAM_TIMEOUT=4s",
		"UPSTREAM_MAX_ATTEMPTS=3")
	direct := append(environ, "REDIS_URL="+redis.URL())
	survivor, witness := testbed.StartSidecar(t, direct...), testbed.StartSidecar(t, direct...)
	var users atomic.Int32
	through := func(t *testing.T, happens crisis, signal syscall.Signal, step int) (steps, calls int) {
		t.Helper()
		v := &victim{
			t: t, survivor: survivor, witness: witness, auth: auth, signal: signal, step: step,
			user: fmt.Sprint("user-", users.Add(1)),
			hit:  make(chan struct{}), done: make(chan string, 1),
			proxy: testbed.StartRESPProxy(t, redis.Addr, withoutProbes),
		}
		v.sidecar = testbed.StartSidecar(t, append(environ, "REDIS_URL=redis://"+v.proxy.Addr)...)
		forgotten := happens(v)
		return len(v.proxy.Steps()), v.agree(forgotten)
	}
	var running errgroup.Group
	running.SetLimit(8)
	var waiting sync.WaitGroup
	for name, happens := range crises {
		waiting.Go(func() {
			t.Run(name, func(t *testing.T) {
				steps, needed := through(t, happens, 0, nothing)
				var runs sync.WaitGroup
				for step := fetching; step < steps; step++ {
					if step == nothing {
						continue
					}
					for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
						runs.Add(1)
						running.Go(func() error {
							defer runs.Done()
							t.Run(fmt.Sprint(signal, "/", step), func(t *testing.T) {
								if _, calls := through(t, happens, signal, step); calls > needed+1 {
									t.Errorf("%d calls, unbroken %d", calls, needed)
								}
							})
							return nil
						})
					}
				}
				runs.Wait()
			})
		})
	}
	waiting.Wait()
	testbed.Record(t, *recordTo, "processes",
		fmt.Sprintf("| a real process, stopped at each step (SIGSTOP) and woken after the others have gone on, or killed | %d |",
			users.Load()))
}

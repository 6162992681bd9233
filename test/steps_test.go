package test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream/sandbox"
)

// stepLimit is REDIS_TIMEOUT, lockLife the life of a lock with this UPSTREAM_TIMEOUT, memoryTTL MEMORY_CACHE_TTL.
const (
	stepLimit = 500 * time.Millisecond
	lockLife  = time.Second
	memoryTTL = 100 * time.Millisecond
)

// A scenario is one thing that a fleet does. Its steps in Redis are those of the first sidecar.
type scenario struct {
	environ func(t *testing.T) func(i int) []string
	run     func(p *pair)
}

var scenarios = map[string]scenario{
	"cold ask by two sidecars": {plain, func(p *pair) {
		p.both("u")
		p.calls("u", 1)
	}},
	"renewal": {plain, func(p *pair) {
		p.auth.Set(sandbox.Mood{LatencyMS: 30, ExpiresIn: 5})
		first := p.both("u")[1]
		time.Sleep(3600 * time.Millisecond) // it is due
		p.both("u")
		testbed.Until(p.t, "it is renewed", func() bool { return p.ask(1, "u").token != first })
		if n := p.auth.CallsOf("u"); n > 4 {
			p.t.Errorf("%d calls for one renewal", n)
		}
	}},
	"forget by hash": {plain, func(p *pair) {
		token := p.both("u")[1]
		p.forget("u", "X-Rejected-Token-Hash", hashOf(token))
		p.neverAgain("u", token)
	}},
	"forget all while another sidecar fetches": {plain, func(p *pair) {
		first := p.mustAsk(1, "u")
		var fetching sync.WaitGroup
		p.auth.Set(sandbox.Mood{LatencyMS: 150})
		var second string
		calls := p.auth.CallsOf("u")
		fetching.Go(func() { second = p.mustAsk(1, "u", "Cache-Control", "no-cache") })
		testbed.Until(p.t, "it fetches", func() bool { return p.auth.CallsOf("u") > calls })
		p.forget("u")
		fetching.Wait()
		p.neverAgain("u", first)
		if !p.lost.Load() && p.mustAsk(0, "u") == second {
			p.t.Error("what was asked for before the forget is kept after it")
		}
	}},
	"no-cache": {plain, func(p *pair) {
		first := p.both("u")[1]
		if p.mustAsk(0, "u", "Cache-Control", "no-cache") == first {
			p.t.Error("no-cache got the token that was there")
		}
		if p.lost.Load() {
			return
		}
		testbed.Until(p.t, "the new token is everywhere",
			func() bool { return p.mustAsk(0, "u") != first && p.mustAsk(1, "u") != first })
		p.neverAgain("u", first)
	}},
	"refusal": {plain, func(p *pair) {
		var asking sync.WaitGroup
		for i := range p.parts {
			asking.Go(func() {
				if a := p.ask(i, "unknown-u"); a.status != http.StatusNotFound && (!p.lost.Load() || i != 0) {
					p.t.Errorf("sidecar %d answered %d", i, a.status)
				}
			})
		}
		asking.Wait()
		p.calls("unknown-u", 1)
		// A refusal does not hide a good token.
		p.both("u")
		p.auth.Set(sandbox.Mood{Status: http.StatusForbidden})
		p.ask(0, "u", "Cache-Control", "no-cache")
		p.both("u")
	}},
	"a pause is everybody's": {plain, func(p *pair) {
		p.auth.Set(sandbox.Mood{Status: http.StatusTooManyRequests, RetryAfter: "1"})
		for i, user := range []string{"u", "v"} {
			if a := p.ask(i, user); a.status != http.StatusTooManyRequests && (!p.lost.Load() || i != 0) {
				p.t.Errorf("sidecar %d answered %d", i, a.status)
			}
		}
		p.calls("u", 1)
		p.calls("v", 0)
		p.auth.Set(sandbox.Mood{})
		time.Sleep(1100 * time.Millisecond) // it is over
		for i := range p.parts {
			testbed.Until(p.t, "a trial has ended the pause", func() bool {
				return i == 0 && p.lost.Load() || p.ask(i, fmt.Sprint("w", i)).status == http.StatusOK
			})
		}
	}},
	"keys roll out, and a refresh token is kept": {rollingOut, func(p *pair) {
		p.both("u")
		p.calls("u", 1)
		if p.lost.Load() {
			return
		}
		p.mustAsk(0, "u", "Cache-Control", "no-cache")
		newest := p.call(1, http.MethodGet, "client_user_id=u", "Cache-Control", "no-cache")
		if newest.status != http.StatusOK || newest.refreshToken == "" {
			p.t.Errorf("answered %d", newest.status)
		}
		key := vend.RefreshTokenKey(p.auth.URL, sandbox.DefaultClientID, secret.Hide("u"))
		for i, parts := range p.parts {
			testbed.Until(p.t, "the newest refresh token is kept", func() bool {
				kept, ok, err := parts.Tokens.RefreshToken(p.t.Context(), key)
				return i == 0 && p.lost.Load() || ok && err == nil && kept.Reveal() == newest.refreshToken
			})
		}
	}},
}

// settled checks that afterwards two sidecars share tokens as if nothing had happened.
func (p *pair) settled() {
	p.t.Helper()
	p.proxy.OnStep(nil)
	p.proxy.AfterStep(nil)
	p.frozen.Lock()   // once it is thawed
	p.frozen.Unlock() //nolint:staticcheck // what happens later is not waited for
	p.auth.Set(sandbox.Mood{})
	for i, parts := range p.parts {
		if i == 0 && p.lost.Load() {
			continue
		}
		testbed.Until(p.t, "Redis is in use and nothing waits", func() bool {
			return parts.Tokens.Redis().State == cache.RedisUp && parts.Tokens.PendingForgets() == 0
		})
	}
	token := p.mustAsk(0, "afterwards")
	if other := p.mustAsk(1, "afterwards"); other != token && !p.lost.Load() {
		p.t.Error("afterwards tokens are not shared")
	}
	if n := p.auth.CallsOf("afterwards"); n != 1 {
		p.t.Errorf("afterwards a token costs %d calls", n)
	}
}

// A breakage is what happens at one step: a fault of the exchange, or of the whole process.
type breakage struct {
	name string
	// before is called before Redis receives the step, after once it has executed it; either may be nil.
	before func(*pair) testbed.Fault
	after  func(*pair)
}

func breakages() (all []breakage) {
	for fault := testbed.ReplyLost; fault < testbed.ErrWRONGPASS; fault++ {
		all = append(all, breakage{name: fault.String(), before: func(*pair) testbed.Fault { return fault }})
	}
	freeze := func(p *pair) {
		p.frozen.Lock()
		p.proxy.Freeze()
		time.AfterFunc(5*lockLife/2, func() { // the lock has expired and others went on
			p.proxy.Thaw()
			p.frozen.Unlock()
		})
	}
	kill := func(p *pair) {
		p.lost.Store(true)
		p.proxy.Down()
	}
	return append(all,
		breakage{name: "frozen before", before: func(p *pair) testbed.Fault { freeze(p); return testbed.None }},
		breakage{name: "frozen after", after: freeze},
		breakage{name: "killed before", before: func(p *pair) testbed.Fault { kill(p); return testbed.ResetBefore }},
		breakage{name: "killed after", after: kill},
	)
}

// at makes b happen at one step of the first sidecar.
func (b breakage) at(p *pair, step int) {
	p.proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if s.N != step {
			return testbed.None
		}
		close(p.broken)
		if b.before == nil {
			return testbed.None
		}
		return b.before(p)
	})
	p.proxy.AfterStep(func(s testbed.Step) {
		if s.N == step && b.after != nil {
			b.after(p)
		}
	})
}

// TestEveryStepFailsOnce runs each scenario once for each of its steps and each breakage of one.
func TestEveryStepFailsOnce(t *testing.T) {
	const atOnce = 24
	servers := make(chan *testbed.Redis, atOnce)
	for range atOnce {
		servers <- testbed.StartRedis(t)
	}
	var scenarioRuns errgroup.Group
	var runs atomic.Int32
	for name := range scenarios {
		scenarioRuns.Go(func() error {
			t.Run(name, func(t *testing.T) {
				var running errgroup.Group
				running.SetLimit(atOnce)
				for step := range countSteps(t, servers, name) {
					for _, b := range breakages() {
						running.Go(func() error {
							runs.Add(1)
							t.Run(fmt.Sprint(b.name, "/", step), func(t *testing.T) {
								on(t, servers, name, func(p *pair) { b.at(p, step) })
							})
							return nil
						})
					}
				}
				_ = running.Wait() // the runs report to t
			})
			return nil
		})
	}
	_ = scenarioRuns.Wait()
	testbed.Record(t, *recordTo, "steps",
		fmt.Sprintf("| %d scenarios, each of their steps, %d things that go wrong with it | %d |",
			len(scenarios), len(breakages()), runs.Load()))
}

// countSteps runs a scenario without a fault.
func countSteps(t *testing.T, servers chan *testbed.Redis, name string) (steps int) {
	t.Helper()
	t.Run("unbroken", func(t *testing.T) {
		on(t, servers, name, func(p *pair) { p.count = &steps })
	})
	if steps == 0 {
		t.Fatal("there is no step to break")
	}
	return steps
}

// on runs a scenario on one of the servers, and leaves that empty.
func on(t *testing.T, servers chan *testbed.Redis, name string, prepare func(*pair)) {
	t.Helper()
	redis := <-servers
	defer func() { servers <- redis }()
	defer redis.Flush()
	p := newPair(t, redis, scenarios[name].environ(t))
	prepare(p)
	scenarios[name].run(p)
	if p.count != nil {
		*p.count = len(p.proxy.Steps())
	}
	p.settled()
}

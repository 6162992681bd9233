package test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"token-sidecar/internal/testbed"
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
	"cold ask by one, then by the other": {plain, func(p *pair) {
		p.mustAsk(0, "u")
		if n := p.waits(0); n > 0 && p.breaks.exchange {
			p.t.Errorf("it waited %v times, though nobody else fetches", n)
		}
		p.mustAsk(1, "u")
		p.calls("u", 1)
		if n := p.auth.CallsOf("u"); n > 1 && p.breaks.brief {
			p.t.Errorf("%d calls, though Redis could be reached when the first token came", n)
		}
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
	"forget by hash, twice": {plain, func(p *pair) { // both may wait for Redis at the same time
		first := p.both("u")[1]
		p.forget("u", first, "X-Rejected-Token-Hash", hashOf(first))
		second := p.mustAsk(0, "u")
		p.forget("u", second, "X-Rejected-Token-Hash", hashOf(second))
		p.told()
		p.neverAgain("u", first, second)
	}},
	"forget all while another sidecar fetches": {plain, func(p *pair) {
		first := p.mustAsk(1, "u")
		var fetching sync.WaitGroup
		p.auth.Set(sandbox.Mood{LatencyMS: 150})
		var second string
		calls := p.auth.CallsOf("u")
		fetching.Go(func() { second = p.mustAsk(1, "u", "Cache-Control", "no-cache") })
		testbed.Until(p.t, "it fetches", func() bool { return p.auth.CallsOf("u") > calls })
		p.forget("u", first)
		fetching.Wait()
		p.told()
		p.neverAgain("u", first)
		if !p.lost.Load() && p.mustAsk(0, "u") == second {
			p.t.Error("what was asked for before the forget is kept after it")
		}
	}},
	"another sidecar forgets all while this one fetches": {plain, func(p *pair) {
		p.auth.Set(sandbox.Mood{LatencyMS: 150})
		var fetching sync.WaitGroup
		var first string
		fetching.Go(func() { first = p.mustAsk(0, "u") })
		testbed.Until(p.t, "it fetches", func() bool { return p.auth.CallsOf("u") > 0 || p.lost.Load() })
		if a := p.call(1, http.MethodDelete, "client_user_id=u"); a.status != http.StatusNoContent {
			p.t.Errorf("DELETE answered %d", a.status)
		}
		time.Sleep(30 * time.Millisecond) // the first sidecar hears of it, unless it cannot
		heard := !p.isBroken()
		fetching.Wait()
		if heard && p.mustAsk(0, "u") == first {
			p.t.Error("it has heard of the forget, and serves what it asked for before")
		}
		p.passed()
		p.neverAgain("u", first)
	}},
	"no-cache, and refresh tokens are kept": {keepingRefreshTokens, func(p *pair) {
		first := p.mustAsk(1, "u") // the one that asks for a new token has not seen it
		if p.mustAsk(0, "u", "Cache-Control", "no-cache") == first {
			p.t.Error("no-cache got the token that was there")
		}
		if p.lost.Load() {
			return
		}
		testbed.Until(p.t, "the new token is everywhere",
			func() bool { return p.mustAsk(0, "u") != first && p.mustAsk(1, "u") != first })
		p.neverAgain("u", first)
		p.keepsNewestRefreshToken("u")
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
		p.keepsNewestRefreshToken("u")
	}},
}

// settled checks that afterwards two sidecars share tokens as if nothing had happened.
func (p *pair) settled() {
	p.t.Helper()
	p.proxy.OnStep(nil)
	p.proxy.AfterStep(nil)
	p.passed()
	p.auth.Set(sandbox.Mood{})
	for i, parts := range p.parts {
		if !parts.Tokens.Redis().Since.IsZero() && (i == 1 || p.breaks.exchange || !p.isBroken()) {
			p.t.Errorf("sidecar %d took Redis for lost", i)
		}
	}
	token := p.mustAsk(0, "afterwards")
	if other := p.mustAsk(1, "afterwards"); other != token && !p.lost.Load() {
		p.t.Error("afterwards tokens are not shared")
	}
	if n := p.auth.CallsOf("afterwards"); n != 1 {
		p.t.Errorf("afterwards a token costs %d calls", n)
	}
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

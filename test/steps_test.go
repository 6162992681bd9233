package test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"token-sidecar/cache"
	"token-sidecar/internal/app"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream/sandbox"

	"golang.org/x/sync/errgroup"
)

// A pair is two sidecars that share a Redis, of which the first sees it through a proxy that breaks single steps, with an
// auth service of their own.
type pair struct {
	t      *testing.T
	auth   *testbed.Auth
	proxy  *testbed.Proxy
	parts  [2]*app.Parts
	lost   atomic.Bool    // the first one was killed
	frozen sync.WaitGroup // while the first one is
	count  *int           // when not nil, of the steps of the scenario
	// broken is closed when the step that is to fail is there.
	broken chan struct{}
}

// stepLimit is REDIS_TIMEOUT, lockLife what UPSTREAM_TIMEOUT makes of the lock's life, memoryTTL MEMORY_CACHE_TTL.
const (
	stepLimit = 500 * time.Millisecond
	lockLife  = time.Second
	memoryTTL = 100 * time.Millisecond
)

func newPair(t *testing.T, redis *testbed.Redis, environ func(i int) []string) *pair {
	p := &pair{t: t, auth: testbed.StartAuth(t), broken: make(chan struct{})}
	p.auth.Set(sandbox.Mood{LatencyMS: 30})
	p.proxy = testbed.StartRESPProxy(t, redis.Addr, func(proxy *testbed.Proxy) {
		proxy.Late = stepLimit * 3 / 2
		counts := proxy.Counts
		proxy.Counts = func(args []string) bool {
			return counts(args) && !slices.ContainsFunc(args, func(arg string) bool { return strings.HasSuffix(arg, "{probe}") })
		}
	})
	for i, addr := range []string{p.proxy.Addr, redis.Addr} {
		conf, err := settings.Load(p.auth.Environ(append([]string{
			"REDIS_URL=redis://" + addr, "REDIS_TIMEOUT=" + stepLimit.String(), "MEMORY_CACHE_TTL=" + memoryTTL.String(),
			"UPSTREAM_TIMEOUT=2s", "UPSTREAM_MAX_ATTEMPTS=3",
		}, environ(i)...)...))
		if err != nil {
			t.Fatal(err)
		}
		if p.parts[i], err = app.NewParts(conf, app.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		p.proxy.OnStep(nil)
		p.proxy.AfterStep(nil)
		p.proxy.Thaw()
		for _, parts := range p.parts {
			parts.Close()
		}
	})
	return p
}

// An answer is what a caller of a pair got.
type answer struct {
	status              int
	token, refreshToken string
}

func (p *pair) call(sidecar int, method, query string, header ...string) answer {
	r := httptest.NewRequestWithContext(p.t.Context(), method, "/token?"+query, nil)
	r.Host = "localhost"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	p.parts[sidecar].Handler.ServeHTTP(w, r)
	field := func(name string) string {
		_, value, _ := strings.Cut(w.Body.String(), `"`+name+`":"`)
		value, _, _ = strings.Cut(value, `"`)
		return value
	}
	return answer{w.Code, field("access_token"), field("refresh_token")}
}

func (p *pair) ask(sidecar int, user string, header ...string) answer {
	return p.call(sidecar, http.MethodGet, "client_user_id="+user, header...)
}

// mustAsk fails the test unless the sidecar vends a good token; of one that was killed it asks nothing.
func (p *pair) mustAsk(sidecar int, user string, header ...string) string {
	p.t.Helper()
	if p.lost.Load() && sidecar == 0 {
		return ""
	}
	a := p.ask(sidecar, user, header...)
	if mine, left := sandbox.Inspect(a.token, user, time.Now()); a.status != http.StatusOK || !mine || left <= 0 {
		p.t.Errorf("sidecar %d answered %d", sidecar, a.status)
	}
	return a.token
}

// both asks both sidecars at the same time.
func (p *pair) both(user string) (tokens [2]string) {
	var asking sync.WaitGroup
	for i := range p.parts {
		asking.Go(func() { tokens[i] = p.mustAsk(i, user) })
	}
	asking.Wait()
	return tokens
}

// forget calls DELETE at the first sidecar and waits until the fleet has been told; the one that was killed tells nobody.
func (p *pair) forget(user string, header ...string) {
	p.t.Helper()
	if a := p.call(0, http.MethodDelete, "client_user_id="+user, header...); a.status != http.StatusNoContent && a.status != http.StatusAccepted {
		p.t.Errorf("DELETE answered %d", a.status)
	}
	if p.lost.Load() {
		return
	}
	testbed.Until(p.t, "the fleet is told of the forget", func() bool { return p.parts[0].Tokens.State().PendingForgets == 0 })
}

// neverAgain checks that nobody serves token any more: at once here, elsewhere when the news have come, and then for good.
func (p *pair) neverAgain(user, token string) {
	p.t.Helper()
	if p.lost.Load() {
		return
	}
	testbed.Until(p.t, "the other sidecar has heard", func() bool { return p.ask(1, user).token != token })
	for range 3 {
		time.Sleep(memoryTTL * 3 / 2) // what memory holds is looked up anew
		for i := range p.parts {
			if p.mustAsk(i, user) == token {
				p.t.Errorf("sidecar %d serves a token that the fleet was told to forget", i)
			}
		}
	}
}

// calls checks how often the auth service was asked for user: as often as needed, or once more when a step was broken.
func (p *pair) calls(user string, needed int) {
	p.t.Helper()
	most := needed
	select {
	case <-p.broken:
		most++
	default:
	}
	if n := p.auth.CallsOf(user); n < needed || n > most {
		p.t.Errorf("%d calls for %s, %d needed", n, user, needed)
	}
}

// A scenario is one thing that a fleet does. Its steps in Redis are those of the first sidecar.
type scenario struct {
	environ func(t *testing.T) func(i int) []string
	run     func(p *pair)
}

func plain(*testing.T) func(int) []string { return func(int) []string { return nil } }

// rollingOut gives the sidecars two keys in the order of a roll-out: the second has them in the other order.
func rollingOut(t *testing.T) func(int) []string {
	former, next := base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString([]byte(strings.Repeat("n", 32)))
	files := []string{testbed.WriteFile(t, "keys", former+"\n"+next), testbed.WriteFile(t, "keys", next+"\n"+former)}
	return func(i int) []string { return []string{"ENCRYPTION_KEYS_FILE=" + files[i], "KEEP_REFRESH_TOKENS=true"} }
}

func hashOf(token string) string { return fmt.Sprintf("%x", cache.HashOf(secret.Hide(token))) }

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
		testbed.Until(p.t, "the new token is everywhere", func() bool { return p.mustAsk(0, "u") != first && p.mustAsk(1, "u") != first })
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
		// A refusal hides no token that is good.
		p.both("u")
		p.auth.Set(sandbox.Mood{Status: http.StatusForbidden})
		p.ask(0, "u", "Cache-Control", "no-cache")
		p.both("u")
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

// settled checks that after all that, two sidecars share tokens as if nothing had been.
func (p *pair) settled() {
	p.t.Helper()
	p.proxy.OnStep(nil)
	p.proxy.AfterStep(nil)
	p.frozen.Wait()
	p.auth.Set(sandbox.Mood{})
	for i, parts := range p.parts {
		if i == 0 && p.lost.Load() {
			continue
		}
		testbed.Until(p.t, "Redis is in use and nothing waits", func() bool {
			state := parts.Tokens.State()
			return state.Redis == "up" && state.PendingForgets == 0
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
	// before is called before Redis gets the step, after when it has carried it out; either may be nil.
	before func(*pair) testbed.Fault
	after  func(*pair)
}

func breakages() (all []breakage) {
	for fault := testbed.ReplyLost; fault < testbed.ErrWRONGPASS; fault++ {
		all = append(all, breakage{name: fault.String(), before: func(*pair) testbed.Fault { return fault }})
	}
	freeze := func(p *pair) {
		p.proxy.Freeze()
		p.frozen.Go(func() {
			<-time.After(5 * lockLife / 2) // the lock has ended and others went on
			p.proxy.Thaw()
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
	testbed.Record(t, *recordTo, "steps", fmt.Sprintf("| %d scenarios, each of their steps, %d things that go wrong with it | %d |",
		len(scenarios), len(breakages()), runs.Load()))
}

// countSteps runs a scenario unbroken.
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

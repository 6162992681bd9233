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

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/cache"
	"token-sidecar/internal/app"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream/sandbox"
)

// A pair is two sidecars that share a Redis and an auth service. The first one reaches Redis through a proxy that
// breaks single steps.
type pair struct {
	t       *testing.T
	auth    *testbed.Auth
	redis   *testbed.Redis
	proxy   *testbed.Proxy
	metrics [2]*prometheus.Registry
	parts   [2]*app.Parts
	breaks  breakage                 // the zero breakage breaks nothing
	lost    atomic.Bool              // the first sidecar was killed
	frozen  sync.Mutex               // locked while the first sidecar is frozen, or cannot use Redis
	replica map[string]testbed.Value // what Redis held before the step
	count   *int                     // if not nil, counts the steps of the scenario
	// broken is closed when the step that should fail arrives.
	broken     chan struct{}
	brokenAt   time.Time
	calledThen int // how often the auth service had been asked at that time
}

func newPair(t *testing.T, redis *testbed.Redis, environ func(i int) []string) *pair {
	p := &pair{t: t, auth: testbed.StartAuth(t), redis: redis, broken: make(chan struct{})}
	p.auth.Set(sandbox.Mood{LatencyMS: 30})
	p.proxy = testbed.StartRESPProxy(t, redis.Addr, func(proxy *testbed.Proxy) {
		proxy.Late = stepLimit * 3 / 2
		withoutProbes(proxy)
	})
	for i, addr := range []string{p.proxy.Addr, redis.Addr} {
		conf, err := settings.Load(p.auth.Environ(append([]string{
			"REDIS_URL=redis://" + addr, "REDIS_TIMEOUT=" + stepLimit.String(), "MEMORY_CACHE_TTL=" + memoryTTL.String(),
			"UPSTREAM_TIMEOUT=2s", "UPSTREAM_MAX_ATTEMPTS=3",
		}, environ(i)...)...))
		if err != nil {
			t.Fatal(err)
		}
		p.metrics[i] = prometheus.NewRegistry()
		if p.parts[i], err = app.NewParts(conf, app.Options{Registerer: p.metrics[i]}); err != nil {
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

// withoutProbes makes probes be no steps: they come whenever they like.
func withoutProbes(proxy *testbed.Proxy) {
	counts := proxy.Counts
	proxy.Counts = func(args []string) bool {
		return counts(args) && !slices.ContainsFunc(args, func(arg string) bool { return strings.HasSuffix(arg, "{probe}") })
	}
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

// mustAsk fails the test unless the sidecar vends a good token; it does not ask a sidecar that was killed.
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

// forget calls DELETE at the first sidecar, which has then forgotten token, whether or not it could tell the fleet.
func (p *pair) forget(user, token string, header ...string) {
	p.t.Helper()
	a := p.call(0, http.MethodDelete, "client_user_id="+user, header...)
	if a.status != http.StatusNoContent && a.status != http.StatusAccepted {
		p.t.Errorf("DELETE answered %d", a.status)
	}
	if a.status == http.StatusAccepted && !p.lost.Load() && p.mustAsk(0, user) == token {
		p.t.Error("it serves the token that it has to tell others to forget")
	}
}

// told waits until the fleet has been told of all forgets, unless the sidecar that has to tell was killed.
func (p *pair) told() {
	p.t.Helper()
	testbed.Until(p.t, "the fleet is told of the forget",
		func() bool { return p.lost.Load() || p.parts[0].Tokens.PendingForgets() == 0 })
}

// neverAgain checks that tokens are not served again: here from now on, elsewhere from the arrival of the message. A
// Redis that has lost the forget must first be told again.
func (p *pair) neverAgain(user string, tokens ...string) {
	p.t.Helper()
	if p.lost.Load() {
		return
	}
	forgotten := func(sidecar int) bool { return slices.Contains(tokens, p.ask(sidecar, user).token) }
	testbed.Until(p.t, "all have heard", func() bool { return !forgotten(1) && (!p.breaks.undoes || !forgotten(0)) })
	for range 3 {
		time.Sleep(memoryTTL * 3 / 2) // memory is no longer trusted
		for i := range p.parts {
			if slices.Contains(tokens, p.mustAsk(i, user)) {
				p.t.Errorf("sidecar %d serves a token that the fleet was told to forget", i)
			}
		}
	}
}

// isBroken reports whether the step that should fail has arrived.
func (p *pair) isBroken() bool {
	select {
	case <-p.broken:
		return true
	default:
		return false
	}
}

// calls checks how often the auth service was asked for user: as often as needed, or once more after a fault
// that is more than one failed exchange.
func (p *pair) calls(user string, needed int) {
	p.t.Helper()
	most := needed
	if p.isBroken() && !p.breaks.exchange {
		most++
	}
	if n := p.auth.CallsOf(user); n < needed || n > most {
		p.t.Errorf("%d calls for %s, %d needed", n, user, needed)
	}
}

// waits is how often a sidecar waited for the other one's fetch.
func (p *pair) waits(sidecar int) (n float64) {
	families, err := p.metrics[sidecar].Gather()
	if err != nil {
		p.t.Error(err)
	}
	for _, family := range families {
		if family.GetName() == "token_sidecar_fleet_waits_total" {
			n += family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return n
}

// passed waits until the first sidecar is neither frozen nor without Redis, and everybody uses Redis again.
func (p *pair) passed() {
	p.t.Helper()
	p.frozen.Lock()
	p.frozen.Unlock() //nolint:staticcheck // what happens later is not waited for
	for i, parts := range p.parts {
		if i == 0 && p.lost.Load() {
			continue
		}
		testbed.Until(p.t, "Redis is in use and nothing waits", func() bool {
			return parts.Tokens.Redis().State == cache.RedisUp && parts.Tokens.PendingForgets() == 0
		})
	}
}

// keepsNewestRefreshToken checks that of two refresh tokens the newer one is kept, also if the older one comes late.
func (p *pair) keepsNewestRefreshToken(user string) {
	p.t.Helper()
	p.mustAsk(0, user, "Cache-Control", "no-cache")
	newest := p.ask(1, user, "Cache-Control", "no-cache")
	if newest.status != http.StatusOK || newest.refreshToken == "" {
		p.t.Errorf("answered %d", newest.status)
	}
	key := vend.RefreshTokenKey(p.auth.URL, sandbox.DefaultClientID, secret.Hide(user))
	keeps := func(i int) bool {
		token, ok, err := p.parts[i].Tokens.RefreshToken(p.t.Context(), key)
		return i == 0 && p.lost.Load() || ok && err == nil && token.Reveal() == newest.refreshToken
	}
	p.passed()
	testbed.Until(p.t, "the newest refresh token is kept", func() bool { return keeps(0) && keeps(1) })
	time.Sleep(memoryTTL) // what was held up has arrived
	testbed.Until(p.t, "the newest refresh token is still kept", func() bool { return keeps(1) })
}

func plain(*testing.T) func(int) []string { return func(int) []string { return nil } }

// keepingRefreshTokens gives both sidecars the same key, rollingOut two keys as during a roll-out: in opposite orders.
func keepingRefreshTokens(t *testing.T) func(int) []string { return withKeys(t, "f", "f") }
func rollingOut(t *testing.T) func(int) []string           { return withKeys(t, "fn", "nf") }

// withKeys gives each sidecar its keys, one a letter.
func withKeys(t *testing.T, keys ...string) func(int) []string {
	var environ [][]string
	for _, of := range keys {
		var lines []string
		for key := range strings.SplitSeq(of, "") {
			lines = append(lines, base64.StdEncoding.EncodeToString([]byte(strings.Repeat(key, 32))))
		}
		file := testbed.WriteFile(t, "keys", strings.Join(lines, "\n"))
		environ = append(environ, []string{"ENCRYPTION_KEYS_FILE=" + file, "KEEP_REFRESH_TOKENS=true"})
	}
	return func(i int) []string { return environ[i] }
}

func hashOf(token string) string { return fmt.Sprintf("%x", cache.HashOf(secret.Hide(token))) }

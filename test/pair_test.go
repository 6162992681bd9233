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
	"token-sidecar/upstream/sandbox"
)

// A pair is two sidecars that share a Redis and an auth service. The first one reaches Redis through a proxy that
// breaks single steps.
type pair struct {
	t      *testing.T
	auth   *testbed.Auth
	proxy  *testbed.Proxy
	parts  [2]*app.Parts
	lost   atomic.Bool // the first sidecar was killed
	frozen sync.Mutex  // locked while the first sidecar is frozen
	count  *int        // if not nil, counts the steps of the scenario
	// broken is closed when the step that should fail arrives.
	broken chan struct{}
}

func newPair(t *testing.T, redis *testbed.Redis, environ func(i int) []string) *pair {
	p := &pair{t: t, auth: testbed.StartAuth(t), broken: make(chan struct{})}
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

// forget calls DELETE at the first sidecar and waits until the fleet has been told, unless that sidecar was killed.
func (p *pair) forget(user string, header ...string) {
	p.t.Helper()
	if a := p.call(0, http.MethodDelete, "client_user_id="+user, header...); a.status != http.StatusNoContent &&
		a.status != http.StatusAccepted {
		p.t.Errorf("DELETE answered %d", a.status)
	}
	if p.lost.Load() {
		return
	}
	testbed.Until(p.t, "the fleet is told of the forget",
		func() bool { return p.parts[0].Tokens.State().PendingForgets == 0 })
}

// neverAgain checks that token is not served again: here from now on, elsewhere from the arrival of the message.
func (p *pair) neverAgain(user, token string) {
	p.t.Helper()
	if p.lost.Load() {
		return
	}
	testbed.Until(p.t, "the other sidecar has heard", func() bool { return p.ask(1, user).token != token })
	for range 3 {
		time.Sleep(memoryTTL * 3 / 2) // memory is no longer trusted
		for i := range p.parts {
			if p.mustAsk(i, user) == token {
				p.t.Errorf("sidecar %d serves a token that the fleet was told to forget", i)
			}
		}
	}
}

// calls checks how often the auth service was asked for user: as often as needed, or once more if a step failed.
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

func plain(*testing.T) func(int) []string { return func(int) []string { return nil } }

// rollingOut gives the sidecars two keys as during a roll-out: in opposite orders.
func rollingOut(t *testing.T) func(int) []string {
	former, next := base64.StdEncoding.EncodeToString(make([]byte, 32)),
		base64.StdEncoding.EncodeToString([]byte(strings.Repeat("n", 32)))
	files := []string{testbed.WriteFile(t, "keys", former+"\n"+next), testbed.WriteFile(t, "keys", next+"\n"+former)}
	return func(i int) []string { return []string{"ENCRYPTION_KEYS_FILE=" + files[i], "KEEP_REFRESH_TOKENS=true"} }
}

func hashOf(token string) string { return fmt.Sprintf("%x", cache.HashOf(secret.Hide(token))) }

package proxy

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a sidecar without Redis, with an emulated auth service, on virtual time.
type world struct {
	t       testing.TB
	auth    *sandbox.Sandbox
	source  *upstream.Client
	tokens  *cache.Cache
	broker  *vend.Broker
	handler *Handler
	metrics *prometheus.Registry
	secret  *secret.File
}

type settings struct {
	upstream upstream.Options
	broker   vend.Options
	proxy    Options
	metrics  *prometheus.Registry
	wrap     func(vend.AuthService) vend.AuthService
	caches   func(*cache.Cache) vend.Cache
}

// inWorld runs test in a bubble of virtual time.
func inWorld(t *testing.T, change func(*settings), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t, change)) })
}

func newWorld(t testing.TB, change func(*settings)) *world {
	w := &world{t: t, auth: sandbox.New(sandbox.Options{}), secret: secret.Fixed(sandbox.DefaultClientSecret)}
	s := settings{
		upstream: upstream.Options{
			URL: "http://auth.test", ClientID: sandbox.DefaultClientID, Secret: w.secret, RefusalPause: 10 * time.Second,
			Transport: testbed.Serve(t, w.auth),
		},
		broker: vend.Options{
			AuthURL: "http://auth.test", ClientID: sandbox.DefaultClientID,
			Lifetimes:   vend.Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute},
			NegativeTTL: 10 * time.Second,
		},
		proxy:   Options{ClientID: sandbox.DefaultClientID, Path: upstream.ConnectPath, MaxConcurrent: 5000},
		metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&s)
	}
	w.source = upstream.New(s.upstream)
	w.tokens = cache.New(cache.Options{MemorySize: 32 << 20, Trust: time.Minute})
	s.broker.Cache, s.broker.AuthService = vend.Cache(w.tokens), vend.AuthService(w.source)
	if s.caches != nil {
		s.broker.Cache = s.caches(w.tokens)
	}
	if s.wrap != nil {
		s.broker.AuthService = s.wrap(w.source)
	}
	s.broker.Registerer, s.proxy.Registerer, w.metrics = s.metrics, s.metrics, s.metrics
	w.broker = vend.NewBroker(s.broker)
	s.proxy.Broker = w.broker
	w.handler = New(s.proxy)
	t.Cleanup(func() {
		w.handler.Close()
		w.tokens.Close()
	})
	return w
}

// A reply is what a caller received.
type reply struct {
	status int
	header http.Header
	fields map[string]any
	raw    string
	took   time.Duration
}

func (r reply) text(field string) string { s, _ := r.fields[field].(string); return s }
func (r reply) code() string             { return r.text("errorCode") }
func (r reply) token() string            { return r.text("access_token") }
func (r reply) cacheStatus() string      { return r.header.Get("Cache-Status") }

func (w *world) do(r *http.Request) reply {
	w.t.Helper()
	rec := httptest.NewRecorder()
	began := time.Now()
	w.handler.ServeHTTP(rec, r)
	got := reply{status: rec.Code, header: rec.Header(), raw: rec.Body.String(), took: time.Since(began)}
	if got.raw != "" {
		if err := json.Unmarshal([]byte(got.raw), &got.fields); err != nil {
			w.t.Errorf("the answer is not JSON: %q", got.raw)
		}
	}
	return got
}

// request builds a request; headers are pairs.
func request(method, target, body string, headers ...string) *http.Request {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(context.Background(), method, target, reader)
	r.Host = "localhost:8080"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func (w *world) get(user string, headers ...string) reply {
	w.t.Helper()
	return w.do(request(http.MethodGet, "/token?client_user_id="+user, "", headers...))
}

// mustGet returns the reply of a successful call.
func (w *world) mustGet(user string, headers ...string) reply {
	w.t.Helper()
	got := w.get(user, headers...)
	if got.status != http.StatusOK {
		w.t.Fatalf("status %d: %s", got.status, got.raw)
	}
	if mine, left := sandbox.Inspect(got.token(), user, time.Now()); !mine || left < 0 {
		w.t.Fatalf("a token of somebody else, or dead: %v, %v", mine, left)
	}
	return got
}

func (w *world) calls() int { return w.auth.Counts().Calls }

func hashOf(token string) cache.Hash { return cache.HashOf(secret.Hide(token)) }

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

func mustParse(t testing.TB, user string) upstream.Request {
	t.Helper()
	f := fields{userID: user}
	req, err := f.token(upstream.ConnectPath)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func fixed(content string) *secret.File { return secret.Fixed(content) }

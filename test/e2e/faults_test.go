package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"token-sidecar/internal/admin"
	"token-sidecar/internal/health"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// A fault is caused on purpose, to check that everything that reports it names the same cause.
type fault struct {
	name    string
	environ []string
	inject  func(*scene)
	tls     bool // the auth service uses TLS, with an untrusted certificate
	part    string
	state   string
	cause   string
	alert   string
}

// faults are those pictured in docs/runbook.md.
func faults() []fault {
	const breaker, unwritable = "TokenSidecarBreakerOpen", "TokenSidecarRedisReadOnly"
	mood := func(m sandbox.Mood) func(*scene) { return func(s *scene) { s.auth.Set(m) } }
	redis := func(commands ...string) func(*scene) {
		return func(s *scene) {
			conn := s.redis.Client().Conn()
			defer conn.Close()
			if s.password != "" {
				conn.Do(s.t.Context(), "AUTH", s.password)
			}
			for _, command := range commands {
				var args []any
				for word := range strings.FieldsSeq(command) {
					args = append(args, word)
				}
				if err := conn.Do(s.t.Context(), args...).Err(); err != nil {
					s.t.Error(command, err)
				}
			}
		}
	}
	return []fault{
		{
			name: "auth-refused", inject: func(s *scene) { s.proxy.Down() },
			part: "auth", state: "breaker open", cause: "connection refused", alert: breaker,
		},
		{
			name: "auth-tls", tls: true,
			part: "auth", state: "breaker open", cause: "TLS: unknown authority", alert: breaker,
		},
		{
			name: "auth-client-id", environ: []string{"HUMANAPI_CLIENT_ID=another"},
			part: "auth", state: "secret refused", cause: "401 INVALID_CLIENT_ID", alert: "TokenSidecarSecretRefused",
		},
		{
			name: "auth-secret", inject: mood(sandbox.Mood{ClientSecret: "rotated"}),
			part: "auth", state: "secret refused", cause: "401 INVALID_CLIENT_ID_OR_SECRET", alert: "TokenSidecarSecretRefused",
		},
		{
			name: "auth-500", inject: mood(sandbox.Mood{Status: 500}),
			part: "auth", state: "breaker open", cause: "500 Internal Server Error", alert: breaker,
		},
		{
			name: "auth-hangs", inject: mood(sandbox.Mood{Fault: "hang"}),
			environ: []string{"UPSTREAM_TIMEOUT=300ms", "UPSTREAM_MAX_ATTEMPTS=1"},
			part:    "auth", state: "breaker open", cause: "no answer in time", alert: breaker,
		},
		{
			name: "auth-sign-in-page", inject: mood(sandbox.Mood{Fault: "html"}),
			part: "auth", state: "breaker open", cause: "answer without a usable token", alert: breaker,
		},
		{
			name: "auth-429", inject: mood(sandbox.Mood{Status: 429, RetryAfter: "20"}),
			part: "auth", state: "asks for a pause", cause: "429 Too Many Requests", alert: "TokenSidecarPaused",
		},
		{
			name: "redis-down", inject: func(s *scene) { s.redisProxy.Down() },
			part: "redis", state: "down", cause: "connection refused", alert: "TokenSidecarRedisLost",
		},
		{
			name: "redis-password", inject: redis("CONFIG SET requirepass another", "CLIENT KILL TYPE normal SKIPME yes"),
			environ: []string{"REDIS_PASSWORD_FILE=" + passwordFile},
			part:    "redis", state: "down", cause: "WRONGPASS", alert: "TokenSidecarRedisLost",
		},
		{
			name: "redis-readonly", inject: redis("REPLICAOF 127.0.0.1 1"),
			part: "redis", state: "read-only", cause: "READONLY", alert: unwritable,
		},
		{
			name: "redis-full", inject: redis("CONFIG SET maxmemory 1"),
			part: "redis", state: "read-only", cause: "OOM", alert: unwritable,
		},
		{
			name: "redis-acl-write", inject: redis("ACL SETUSER default -eval -evalsha"),
			part: "redis", state: "read-only", cause: "NOPERM", alert: unwritable,
		},
		{
			name: "redis-acl-read", inject: redis("ACL SETUSER default -get"),
			part: "redis", state: "down", cause: "NOPERM", alert: "TokenSidecarRedisLost",
		},
		{
			name: "redis-looks-fail", inject: func(s *scene) {
				s.redisProxy.OnStep(func(step testbed.Step) testbed.Fault {
					if step.Args[0] == "GET" {
						return testbed.ErrNOPERM
					}
					return testbed.None
				})
			},
			part: "redis", state: "write-only", cause: "NOPERM", alert: "TokenSidecarRedisWriteOnly",
		},
		{
			name: "audit-full", environ: []string{"AUDIT_LOG=/dev/full", "AUDIT_KEY_FILE=" + keyFile},
			part: "audit", state: "not written", cause: "no space left on device", alert: "TokenSidecarAuditUnavailable",
		},
	}
}

// A scene is a sidecar with one fault, and its own auth service and Redis.
type scene struct {
	*testbed.Sidecar
	fault fault
	t     testing.TB
	auth  *testbed.Auth
	proxy *testbed.Proxy
	redis *testbed.Redis
	// redisProxy is between the sidecar and redis.
	redisProxy *testbed.Proxy
	// password is that of Redis, if it has one.
	password string
	asked    int
}

// What stands for a file of the scene: with the password of its Redis, with the key of its audit log.
const passwordFile, keyFile = "PASSWORD-FILE", "KEY-FILE"

func newScene(t testing.TB, f fault) *scene {
	t.Helper()
	s := &scene{fault: f, t: t, auth: testbed.StartAuth(t)}
	s.proxy = testbed.StartProxy(t, strings.TrimPrefix(s.auth.URL, "http://"))
	url := "http://" + s.proxy.Addr
	if f.tls {
		server := httptest.NewTLSServer(s.auth.Sandbox)
		t.Cleanup(server.Close)
		url = server.URL
	}
	// A time-out of a busy machine would be told in place of the fault's cause.
	environ := s.auth.Environ("HUMANAPI_AUTH_URL="+url, "POD_NAME="+f.name, "REDIS_TIMEOUT=1s")
	var redisArgs []string
	for _, pair := range f.environ {
		if strings.HasSuffix(pair, passwordFile) {
			s.password = "right"
			redisArgs = []string{"--requirepass", s.password}
			pair = strings.ReplaceAll(pair, passwordFile, testbed.WriteFile(t, "password", s.password))
		}
		if strings.HasSuffix(pair, keyFile) {
			pair = strings.ReplaceAll(pair, keyFile, testbed.WriteFile(t, "key", strings.Repeat("A", 43)+"="))
		}
		environ = append(environ, pair)
	}
	s.redis = testbed.StartRedis(t, append(redisArgs, "--maxmemory-policy", "noeviction")...)
	s.redisProxy = testbed.StartRESPProxy(t, s.redis.Addr)
	s.Sidecar = testbed.LaunchSidecar(t, append(environ, "REDIS_URL=redis://"+s.redisProxy.Addr)...)
	return s
}

// drive makes five new users ask for their tokens, and then one whose token is cached.
func (s *scene) drive() {
	var callers sync.WaitGroup
	for range 5 {
		s.asked++
		user := fmt.Sprint("policy-4711-", s.asked)
		callers.Go(func() { s.Get(user) })
	}
	callers.Wait()
	s.Get("policy-4711-1")
}

// status returns what the status command prints, and its JSON.
func (s *scene) status() (printed string, status admin.Status, err error) {
	environ := []string{"ADMIN_ADDR=" + s.Admin}
	out, err := testbed.Command(context.Background(), environ, "status").Output()
	if err != nil {
		return "", status, err
	}
	raw, err := testbed.Command(context.Background(), environ, "status", "--json").Output()
	return string(out), status, errors.Join(err, json.Unmarshal(raw, &status))
}

// says checks that the log, the metric and both forms of the command name the fault and its cause.
func (s *scene) says(c health.Condition, printed string) error {
	f := s.fault
	metric := fmt.Sprintf(`token_sidecar_degraded{cause=%q,part=%q,path=%q,state=%q} 1`, f.cause, f.part, c.Path, f.state)
	var logged bool
	for line := range strings.Lines(s.Log()) {
		var entry struct{ Part, State, Cause, Remedy, Means, Runbook string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Part == f.part && entry.State == f.state {
			logged = logged || entry.Cause == f.cause && entry.Remedy == c.Remedy && entry.Means == c.Effect &&
				entry.Runbook == f.alert
		}
	}
	switch {
	case !c.Level.Degraded() || c.State != f.state || c.Cause != f.cause || c.Alert != f.alert:
		return fmt.Errorf("status --json tells %+v", c)
	case !strings.Contains(printed, strings.ToUpper(f.state)+": "+f.cause+" (") || !strings.Contains(printed, c.Remedy):
		return fmt.Errorf("status prints %s", printed)
	case !strings.Contains(s.Metrics(), metric):
		return fmt.Errorf("no metric %s", metric)
	case !logged:
		return errors.New("the log does not tell it")
	}
	return nil
}

// condition returns that of the part with the fault, and what the status command prints.
func (s *scene) condition() (c health.Condition, printed string, err error) {
	printed, status, err := s.status()
	if err != nil {
		return c, printed, err
	}
	for _, c := range status.Conditions {
		if c.Part == s.fault.part && c.Shown() {
			return c, printed, nil
		}
	}
	return c, printed, errors.New("the part is not told of")
}

// TestFaults: for each fault the page, the command, the log, the metric and the alert name the same cause.
func TestFaults(t *testing.T) {
	testbed.Needs(t, "chromium", "prometheus", "redis-server")
	var scenes []*scene
	targets := map[string]string{}
	for _, f := range faults() {
		s := newScene(t, f)
		scenes = append(scenes, s)
		targets[f.name] = s.Admin
	}
	for _, s := range scenes {
		s.AwaitReady()
	}
	prometheus := startPrometheus(t, targets, time.Second)
	b := newBrowser(t)
	for _, s := range scenes {
		t.Run(s.fault.name, func(t *testing.T) {
			f := s.fault
			b.open(t, s.Admin)
			if !f.tls && f.environ == nil {
				s.drive() // so that there is a token, and the auth service is known to work
			}
			if f.inject != nil {
				f.inject(s)
			}
			began := time.Now()
			testbed.Eventually(t, "everything names the cause", func() error {
				s.drive()
				c, printed, err := s.condition()
				if err != nil {
					return err
				}
				return errors.Join(s.says(c, printed), b.says(t, f, c), prometheus.says(f))
			})
			t.Logf("everything names the cause after %v", time.Since(began).Round(time.Second/10))
			if *record == "pictures" {
				b.picture(t, "docs/images/"+f.name+".png")
			}
			if s := b.source(t) + s.Log(); strings.Contains(s, "policy-4711") {
				t.Error("a user id is told")
			}
		})
	}
	b.isSilent(t)
}

// says checks that the page's card and its list of changes name the fault and its cause.
func (b *browser) says(t *testing.T, f fault, c health.Condition) error {
	id := f.part + strings.ReplaceAll(c.Path, "/", "-")
	card := ask[string](t, b.tab, `document.getElementById("`+id+`")?.innerText || ""`)
	for _, want := range []string{f.state, f.cause, c.Remedy, c.Effect, f.alert, "since"} {
		if !strings.Contains(card, want) {
			return fmt.Errorf("the card does not say %q: %q", want, card)
		}
	}
	events := b.text(t, "events")
	if !strings.Contains(events, f.state) || !strings.Contains(events, f.cause) {
		return fmt.Errorf("the changes are %q", events)
	}
	if title := ask[string](t, b.tab, "document.title"); !strings.Contains(title, f.name) {
		return fmt.Errorf("the title is %q", title)
	}
	return nil
}

// picture writes a screenshot to path.
func (b *browser) picture(t *testing.T, path string) {
	t.Helper()
	png, err := chromedp.Run(b.tab, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if len(png) < 10_000 {
		t.Errorf("%s: a picture of %d bytes", path, len(png))
	}
	if err := os.WriteFile(path, png, 0o600); err != nil {
		t.Fatal(err)
	}
}

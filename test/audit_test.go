package test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// auditKey is the content of AUDIT_KEY_FILE in tests.
var auditKey = base64.StdEncoding.EncodeToString([]byte("0123456789-an-audit-key-01234567"))

// An auditLine is a line of an audit log.
type auditLine struct {
	Format    int    `json:"audit"`
	Time      string `json:"time"`
	Path      string `json:"path"`
	Type      string `json:"type"`
	Outcome   string `json:"outcome"`
	Status    int    `json:"status"`
	ErrorCode string `json:"errorCode"`
	RequestID string `json:"requestId"`
	Key       string `json:"key"`
	User      string `json:"user"`
	Token     string `json:"token"`
}

// readAudit returns the lines of an audit log.
func readAudit(t *testing.T, path string) (lines []auditLine) {
	t.Helper()
	for text := range strings.Lines(testbed.ReadFile(t, path)) {
		var l auditLine
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&l); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// An audited is a sidecar with an audit log, and what was asked of it.
type audited struct {
	*testbed.Sidecar
	t      *testing.T
	path   string // of its log
	read   int    // how many lines were checked
	hidden map[string]string
}

func startAudited(t *testing.T, environ ...string) *audited {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	s := testbed.StartSidecar(t, append([]string{
		"AUDIT_LOG=" + path, "AUDIT_KEY_FILE=" + testbed.WriteFile(t, "audit-key", auditKey),
	}, environ...)...)
	return &audited{Sidecar: s, t: t, path: path, hidden: map[string]string{}}
}

// A way is one of the calls with which to ask for a token.
type way struct {
	name         string
	method, path string
	contentType  string // of a POST
	upstream     string // the auth service's path, for a user's token
}

func ways() []way {
	const asJSON, asForm = "application/json", "application/x-www-form-urlencoded"
	return []way{
		{"GET", http.MethodGet, "/token", "", "/v1/connect/token"},
		{"POST of JSON", http.MethodPost, "/token", asJSON, "/v1/connect/token"},
		{"POST of a form", http.MethodPost, "/token", asForm, "/v1/connect/token"},
		{"connect", http.MethodPost, "/v1/connect/token", asJSON, "/v1/connect/token"},
		{"admin", http.MethodPost, "/v1/admin/token", asJSON, "/v1/admin/token"},
	}
}

// ask uses w to ask for the fields, which are pairs, with headers, which are pairs too, and returns the status.
func (a *audited) ask(ctx context.Context, w way, fields []string, more ...string) int {
	a.t.Helper()
	form, object := url.Values{}, map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
		object[fields[i]] = fields[i+1]
		if strings.HasPrefix(fields[i], "client_user_") {
			a.hidden[fields[i]+" "+fields[i+1]] = fields[i+1]
		}
	}
	target, body := "http://"+a.Addr+w.path, ""
	switch {
	case w.method != http.MethodPost:
		target += "?" + form.Encode()
	case w.contentType == "application/json":
		text, _ := json.Marshal(object)
		body = string(text)
	default:
		body = form.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, w.method, target, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	if w.contentType != "" {
		req.Header.Set("Content-Type", w.contentType)
	}
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	res, err := a.Client().Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Error(err)
	}
	var all map[string]any
	if json.Unmarshal(answer, &all) == nil {
		for name, value := range all {
			if text, ok := value.(string); ok && strings.HasSuffix(name, "token") {
				a.hidden[fmt.Sprint(name, " ", len(a.hidden))] = text
			}
		}
	}
	return res.StatusCode
}

// lines returns the new lines since the last call.
func (a *audited) lines() []auditLine {
	a.t.Helper()
	all := readAudit(a.t, a.path)
	fresh := all[a.read:]
	a.read = len(all)
	return fresh
}

// expect fails the test unless the only new line since the last call is like want.
func (a *audited) expect(what string, want auditLine, user string) auditLine {
	a.t.Helper()
	return a.expectEach(what, user, want)[0]
}

// expectEach is expect for several lines, in any order.
func (a *audited) expectEach(what, user string, want ...auditLine) []auditLine {
	a.t.Helper()
	keys, err := audit.ParseKeys(secret.Hide(auditKey))
	if err != nil {
		a.t.Fatal(err)
	}
	got := a.lines()
	var seen, wanted []string
	for i, l := range got {
		if l.Format != 1 || l.Key != keys[0].ID || (l.Token != "") != (l.Status == http.StatusOK) ||
			user != "" && l.User != keys[0].User(secret.Hide(user)) || user == "" && l.User != "" {
			a.t.Errorf("%s, line %d: %+v", what, i, l)
		}
		seen = append(seen, fmt.Sprint(l.Path, l.Type, l.Outcome, l.Status, l.ErrorCode))
	}
	for _, l := range want {
		wanted = append(wanted, fmt.Sprint(l.Path, l.Type, l.Outcome, l.Status, l.ErrorCode))
	}
	if !sameTexts(seen, wanted) {
		a.t.Fatalf("%s: lines %q in place of %q", what, seen, wanted)
	}
	return got
}

func sameTexts(a, b []string) bool {
	left := map[string]int{}
	for _, text := range a {
		left[text]++
	}
	for _, text := range b {
		left[text]--
	}
	for _, n := range left {
		if n != 0 {
			return false
		}
	}
	return len(a) == len(b)
}

// TestAuditLog makes each outcome of a request happen by each call, with and without the fast path. Each leaves one
// line, invalid requests leave none, and no line contains a user id or a token.
func TestAuditLog(t *testing.T) {
	for _, fastPath := range []string{"true", "false"} {
		for _, w := range ways() {
			t.Run(fmt.Sprint(w.name, ", FAST_PATH=", fastPath), func(t *testing.T) {
				auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
				environ := auth.Environ("REDIS_URL="+redis.URL(), "FAST_PATH="+fastPath, "UPSTREAM_TIMEOUT=1s", "REDIS_TIMEOUT=2s",
					"UPSTREAM_MAX_ATTEMPTS=1", "BREAKER_FAILURES=1000", "BREAKER_OPEN_FOR=50ms", "NEGATIVE_TTL=50ms",
					"ALLOWED_TYPES=access,client,session,id_token")
				a, b := startAudited(t, environ...), startAudited(t, environ...)
				auditVended(t, w, auth, a, b)
				auditFailures(t, w, auth, a)
				auditRest(t, w, redis, a)
				for _, s := range []*audited{a, b} {
					nothingIn(t, "audit log", testbed.ReadFile(t, s.path), s.hidden)
				}
				if len(a.hidden) < 15 {
					t.Errorf("only %d things to look for", len(a.hidden))
				}
			})
		}
	}
}

// auditVended asks for tokens that are vended.
func auditVended(t *testing.T, w way, auth *testbed.Auth, a, b *audited) {
	const user = "policy-4711-alice"
	ctx, asked := t.Context(), []string{"client_user_id", user}
	want := auditLine{Path: w.upstream, Type: "access", Status: http.StatusOK}
	a.ask(ctx, w, asked)
	want.Outcome = "fetched"
	first := a.expect("fetched", want, user)
	want.Outcome = "memory"
	for range 3 {
		a.ask(ctx, w, asked)
		if l := a.expect("memory", want, user); l.Token != first.Token {
			t.Errorf("another token: %+v, %+v", first, l)
		}
	}
	b.ask(ctx, w, asked)
	want.Outcome = "redis"
	if l := b.expect("redis", want, user); l.Token != first.Token || l.User != first.User {
		t.Errorf("another token or user: %+v, %+v", first, l)
	}
	want.Outcome, want.Type = "fetched", "session"
	for range 2 {
		if w.path == "/v1/admin/token" {
			break // the auth service has none there
		}
		a.ask(ctx, w, append(asked, "type", "session", "client_user_email", "alice@health.example"))
		a.expect("session", want, user)
	}
	a.ask(ctx, w, []string{"type", "client"})
	a.expect("client", auditLine{Path: "/v1/admin/token", Type: "client", Status: 200, Outcome: "fetched"}, "")

	const together = "policy-4711-bob"
	auth.Set(sandbox.Mood{LatencyMS: 300})
	var both sync.WaitGroup
	clone := *a // the request is recorded twice
	clone.hidden = map[string]string{}
	both.Go(func() { clone.ask(ctx, w, []string{"client_user_id", together}) })
	a.ask(ctx, w, []string{"client_user_id", together})
	both.Wait()
	auth.Set(sandbox.Mood{})
	want.Type = "access"
	alone, shared := want, want
	shared.Outcome = "collapsed"
	a.expectEach("together", together, alone, shared)
}

// auditFailures asks for tokens that the auth service does not give.
func auditFailures(t *testing.T, w way, auth *testbed.Auth, a *audited) {
	for _, c := range []struct {
		user, code, outcome string
		status              int
		mood                sandbox.Mood
	}{
		{"unknown-4711", "UNKNOWN_CLIENT_USER_ID", "refused", 404, sandbox.Mood{}},
		{"unconnected-4711", "ACCESS_TOKEN_GENERATION_NOT_ALLOWED", "refused", 403, sandbox.Mood{}},
		{"forbidden-4711", "NOT_AUTHORIZED", "refused", 403, sandbox.Mood{}},
		{"policy-4711-500", "UPSTREAM_UNAVAILABLE", "failed", 503, sandbox.Mood{Status: 500}},
		{"policy-4711-502", "UPSTREAM_BAD_RESPONSE", "failed", 502, sandbox.Mood{Fault: "html"}},
		{"policy-4711-504", "UPSTREAM_TIMEOUT", "failed", 504, sandbox.Mood{Fault: "hang"}},
		{"policy-4711-429", "UPSTREAM_RATE_LIMITED", "failed", 429, sandbox.Mood{Status: 429, RetryAfter: "1"}},
		{"policy-4711-401", "INVALID_CLIENT_ID_OR_SECRET", "refused", 401, sandbox.Mood{ClientSecret: "another"}},
	} {
		auth.Set(c.mood)
		want := auditLine{Path: w.upstream, Type: "access", Outcome: c.outcome, Status: c.status, ErrorCode: c.code}
		status := 0
		testbed.Until(t, "the pause of the one before is over", func() bool {
			status = a.ask(t.Context(), w, []string{"client_user_id", c.user})
			if status != c.status {
				a.lines()
			}
			return status == c.status
		})
		if l := a.expect(c.user, want, c.user); c.outcome == "refused" && l.RequestID == "" {
			t.Errorf("%s: no request id: %+v", c.user, l)
		}
	}
	auth.Set(sandbox.Mood{ClientSecret: sandbox.DefaultClientSecret})
	testbed.Until(t, "tokens are vended again", func() bool {
		return a.ask(t.Context(), w, []string{"client_user_id", "policy-4711-again"}) == http.StatusOK
	})
	// A caller who leaves.
	auth.Set(sandbox.Mood{Fault: "hang"})
	ctx, leave := context.WithCancel(t.Context())
	calls := auth.Counts().Calls
	var asking sync.WaitGroup
	asking.Go(func() {
		testbed.Until(t, "the auth service is asked", func() bool { return auth.Counts().Calls > calls })
		leave()
	})
	a.lines()
	a.ask(ctx, w, []string{"client_user_id", "policy-4711-leaves"})
	asking.Wait()
	testbed.Until(t, "it is noticed", func() bool { return len(readAudit(t, a.path)) > a.read })
	a.expect("abandoned", auditLine{Path: w.upstream, Type: "access", Outcome: "abandoned"}, "policy-4711-leaves")
	auth.Set(sandbox.Mood{})
}

// auditRest asks for what the sidecar decides by itself.
func auditRest(t *testing.T, w way, redis *testbed.Redis, a *audited) {
	const user = "policy-4711-alice"
	ctx, asked := t.Context(), []string{"client_user_id", user}
	refused := auditLine{Path: w.upstream, Type: "id", Outcome: "refused", Status: 403, ErrorCode: "TYPE_NOT_ALLOWED"}
	a.ask(ctx, w, append(asked, "type", "id"))
	a.expect("type not allowed", refused, user)
	if w.path != "/token" {
		refused.Type, refused.Status, refused.ErrorCode = "access", 401, "INVALID_CLIENT_ID"
		a.ask(ctx, w, append(asked, "client_id", "another"))
		a.expect("foreign client_id", refused, user)
	}
	for name, c := range map[string]struct {
		fields, header []string
		status         int
	}{
		"other host":      {asked, []string{"Host", "evil.example"}, 421},
		"forwarded":       {asked, []string{"X-Forwarded-For", "1.1.1.1"}, 403},
		"web page":        {asked, []string{"Origin", "https://evil.example"}, 403},
		"unknown field":   {append(asked, "policy-0815", "x"), nil, 400},
		"no user":         {[]string{"type", "access"}, nil, 400},
		"no such type":    {append(asked, "type", "policy-0815"), nil, 400},
		"over-long field": {[]string{"client_user_id", strings.Repeat("policy-0815", 30)}, nil, 400},
	} {
		if status := a.ask(ctx, w, c.fields, c.header...); status != c.status {
			t.Errorf("%s: status %d", name, status)
		}
		a.expectEach(name, "")
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		a.ask(ctx, way{method: method, path: w.path + "/none"}, asked)
		a.expectEach("no such call", "")
	}
	if w.path != "/token" {
		return
	}
	forget := way{method: http.MethodDelete, path: "/token"}
	want := auditLine{Path: w.upstream, Type: "access", Outcome: "forgotten", Status: 204}
	a.ask(ctx, forget, asked)
	a.expect("forgotten", want, user)
	want.Type = "session"
	a.ask(ctx, forget, append(asked, "type", "session"))
	a.expect("forgotten, a session", want, user)
	want.Type, want.Outcome, want.Status, want.ErrorCode = "access", "refused", 400, "INVALID_REQUEST"
	a.ask(ctx, forget, asked, "X-Rejected-Token-Hash", "none")
	a.expect("no hash", want, user)
	redis.Kill()
	want.Outcome, want.Status, want.ErrorCode = "forgotten", 202, ""
	a.ask(ctx, forget, asked)
	a.expect("forgotten here", want, user)
}

// nothingIn fails the test if text contains any of hidden, in any encoding.
func nothingIn(t *testing.T, place, text string, hidden map[string]string) {
	t.Helper()
	if text == "" {
		t.Errorf("%s: nothing to search", place)
	}
	for what, secret := range hidden {
		for form, encoded := range encodings(secret) {
			if strings.Contains(text, encoded) {
				t.Errorf("%s: %s, as %s", place, what, form)
			}
		}
	}
}

package clients

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

// A surface is one sidecar, all of whose answers are compared with the description.
type surface struct {
	*testbed.Sidecar
	*description
	t      *testing.T
	client *http.Client
}

func (d *description) sidecar(t *testing.T, environ ...string) *surface {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &surface{testbed.StartSidecar(t, environ...), d, t, &http.Client{Transport: transport}}
}

// An op is an operation on LISTEN_ADDR, with a body of that type; empty: with a query.
type op struct{ method, path, contentType string }

const asForm = "application/x-www-form-urlencoded"

// vending are the operations that vend tokens.
func vending() []op {
	return []op{
		{"GET", "/token", ""},
		{"POST", "/token", asJSON},
		{"POST", "/v1/connect/token", asJSON},
		{"POST", "/v1/admin/token", asJSON},
	}
}

func (o op) dropIn() bool { return strings.HasPrefix(o.path, "/v1/") }

// fields are those of a request.
type fields map[string]any

// ask calls o, and expects that status and errorCode.
func (s *surface) ask(o op, f fields, status int, code string, header ...string) {
	s.t.Helper()
	target, body := "http://"+s.Addr+o.path, ""
	form := url.Values{}
	for name, value := range f {
		for text := range strings.FieldsSeq(strings.Trim(fmt.Sprint(value), "[]")) {
			form.Add(name, text)
		}
	}
	switch o.contentType {
	case "":
		target += "?" + form.Encode()
	case asForm:
		body = form.Encode()
	default:
		raw, _ := json.Marshal(f)
		body = string(raw)
		header = append([]string{"Content-Type", o.contentType}, header...)
	}
	if o.contentType == asForm {
		header = append([]string{"Content-Type", asForm}, header...)
	}
	s.send(o.method, target, body, status, code, header...)
}

func (s *surface) send(method, target, body string, status int, code string, header ...string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	req.Host = req.Header.Get("Host")
	res, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	said, err := io.ReadAll(res.Body)
	if _ = res.Body.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.check(s.t.Context(), exchange{req, body, res, said}); err != nil {
		s.t.Errorf("%v\n%.300s", err, said)
	}
	var got struct {
		Code string `json:"errorCode"`
	}
	_ = json.Unmarshal(said, &got)
	if res.StatusCode != status || got.Code != code {
		s.t.Errorf("%s %s: %d %.300s, want %d %s", method, target, res.StatusCode, said, status, code)
	}
}

// TestDescription: docs/openapi.yaml describes what the program does, completely.
func TestDescription(t *testing.T) {
	localhost(t, "127.0.0.1", "::1")
	d := loadDescription(t)
	for name, run := range map[string]func(t *testing.T, d *description){
		"tokens": tokens, "mistakes": mistakes, "refusals": refusals, "failures": failures, "guards": guards,
		"forgetting": forgetting, "too much to do": overload, "no audit log": noAuditLog, "the end": theEnd, "admin port": adminPort,
	} {
		t.Run(name, func(t *testing.T) { run(t, d) })
	}
	for _, part := range d.all() {
		// A bug cannot be produced here, and whether the auth service names its failures is up to it.
		if !d.met[part] && !strings.Contains(part, " 500") && !strings.HasSuffix(part, " X-Humanapi-Request-Id") {
			t.Errorf("described, but never met: %s", part)
		}
	}
}

func tokens(t *testing.T, d *description) {
	s := d.sidecar(t, testbed.StartAuth(t).Environ()...)
	for _, o := range append(vending(), op{"POST", "/token", asForm}, op{"POST", "/v1/connect/token", asForm},
		op{"POST", "/v1/admin/token", asForm}) {
		s.ask(o, fields{"client_user_id": "a", "extra_scopes": []string{"x", "y"}}, 200, "")
		for _, kind := range []string{"access", "client", "id", "id_token", "session"} {
			f := fields{"client_user_id": "a", "type": kind}
			if kind == "session" || o.dropIn() {
				f["client_user_email"] = "a@b.example"
			}
			if o.dropIn() {
				f["client_id"], f["client_secret"] = sandbox.DefaultClientID, "x"
			}
			if o.path == "/v1/admin/token" && (kind == "id" || kind == "id_token" || kind == "session") {
				s.ask(o, f, 400, "INVALID_TOKEN_TYPE") // the auth service says so
				continue
			}
			s.ask(o, f, 200, "", "Cache-Control", "no-cache")
			s.ask(o, f, 200, "")
		}
		if o.dropIn() && o.contentType == asJSON {
			s.ask(o, fields{"client_user_id": 1, "type": nil, "client_user_email": "", "more": nil}, 200, "")
		}
	}
}

func mistakes(t *testing.T, d *description) {
	s := d.sidecar(t, testbed.StartAuth(t).Environ()...)
	for _, o := range vending() {
		s.ask(o, fields{"client_user_id": "a", "scope": "b"}, 400, "INVALID_REQUEST")
		s.ask(o, fields{"client_user_id": "a", "type": "x"}, 400, "INVALID_TOKEN_TYPE")
		if o.dropIn() {
			s.ask(o, fields{"client_user_id": "a", "client_id": "another"}, 401, "INVALID_CLIENT_ID")
		}
		if o.method == http.MethodPost {
			s.ask(o, fields{"client_user_id": strings.Repeat("a", 16<<10)}, 413, "BODY_TOO_LARGE")
			s.send(o.method, "http://"+s.Addr+o.path, "a", 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type", "text/plain")
		}
	}
	s.send("GET", "http://"+s.Addr+"/tokens", "", 404, "NOT_FOUND")
	s.send("PUT", "http://"+s.Addr+"/token", "", 405, "METHOD_NOT_ALLOWED")
	s.send("GET", "http://"+s.Addr+"/v1/admin/token", "", 405, "METHOD_NOT_ALLOWED")
}

func refusals(t *testing.T, d *description) {
	t.Run("documented", func(t *testing.T) {
		auth := testbed.StartAuth(t)
		auth.Set(sandbox.Mood{RefuseClientTokens: true})
		s := d.sidecar(t, auth.Environ()...)
		for _, o := range vending() {
			s.ask(o, fields{"client_user_id": "unconnected-a"}, 403, "ACCESS_TOKEN_GENERATION_NOT_ALLOWED")
			s.ask(o, fields{"client_user_id": "forbidden-a"}, 403, "NOT_AUTHORIZED")
			s.ask(o, fields{"client_user_id": "unknown-a"}, 404, "UNKNOWN_CLIENT_USER_ID")
			s.ask(o, fields{"type": "client"}, 403, "CLIENT_TOKEN_GENERATION_NOT_ALLOWED")
			if o.path != "/v1/admin/token" {
				s.ask(o, fields{"client_user_id": "a", "type": "session"}, 400, "UPSTREAM_REFUSED") // client_user_email is missing
			}
		}
	})
	for code, wrong := range map[string]string{
		"INVALID_CLIENT_ID": "HUMANAPI_CLIENT_ID=x", "INVALID_CLIENT_ID_OR_SECRET": "HUMANAPI_CLIENT_SECRET=x",
	} {
		t.Run(code, func(t *testing.T) {
			s := d.sidecar(t, testbed.StartAuth(t).Environ(wrong)...)
			for _, o := range vending() {
				s.ask(o, fields{"client_user_id": "a"}, 401, code)
			}
		})
	}
	for _, status := range []int{400, 401, 403, 404, 422} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Humanapi-Request-Id", "1")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `{"code":1,"error":"a","message":"b"}`)
			}))
			defer other.Close()
			s := d.sidecar(t, "HUMANAPI_AUTH_URL="+other.URL, "HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET=b")
			for _, o := range vending() {
				for range 2 {
					s.ask(o, fields{"client_user_id": "a" + o.method}, status, "UPSTREAM_REFUSED")
				}
			}
		})
	}
}

func failures(t *testing.T, d *description) {
	for code, c := range map[string]struct {
		mood   sandbox.Mood
		status int
	}{
		"UPSTREAM_RATE_LIMITED": {sandbox.Mood{Status: 429, RetryAfter: "60"}, 429},
		"UPSTREAM_BAD_RESPONSE": {sandbox.Mood{Fault: "html"}, 502},
		"UPSTREAM_UNAVAILABLE":  {sandbox.Mood{Status: 500}, 503},
		"UPSTREAM_TIMEOUT":      {sandbox.Mood{Fault: "hang"}, 504},
	} {
		t.Run(code, func(t *testing.T) {
			auth := testbed.StartAuth(t)
			auth.Set(c.mood)
			s := d.sidecar(t, auth.Environ("UPSTREAM_MAX_ATTEMPTS=1", "UPSTREAM_TIMEOUT=1s", "BREAKER_FAILURES=100")...)
			for _, o := range vending() {
				for range 2 {
					s.ask(o, fields{"client_user_id": o.method + o.path}, c.status, code)
				}
			}
		})
	}
}

func guards(t *testing.T, d *description) {
	environ := testbed.StartAuth(t).Environ()
	all := append(vending(), op{"DELETE", "/token", ""})
	user := fields{"client_user_id": "a"}
	s := d.sidecar(t, environ...)
	for _, o := range all {
		s.ask(o, user, 403, "CALLER_NOT_ALLOWED", "Origin", "http://a.example")
		s.ask(o, user, 421, "MISDIRECTED_HOST", "Host", "a.example")
	}
	s = d.sidecar(t, append(environ, "CALLER_TOKEN_FILE="+testbed.WriteFile(t, "token", "x"))...)
	for _, o := range all {
		s.ask(o, user, 401, "CALLER_TOKEN_REQUIRED")
	}
	s = d.sidecar(t, append(environ, "ALLOWED_TYPES=client")...)
	for _, o := range all {
		s.ask(o, user, 403, "TYPE_NOT_ALLOWED")
	}
}

func forgetting(t *testing.T, d *description) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "REDIS_TIMEOUT=2s")
	s, forget := d.sidecar(t, environ...), op{"DELETE", "/token", ""}
	s.ask(vending()[0], fields{"client_user_id": "a"}, 200, "")
	other := d.sidecar(t, environ...)
	other.ask(vending()[0], fields{"client_user_id": "a"}, 200, "") // detail=redis
	for _, kind := range []string{"access", "client", "id", "id_token", "session"} {
		s.ask(forget, fields{"client_user_id": "a", "type": kind, "extra_scopes": []string{"x"}}, 204, "")
	}
	s.ask(forget, fields{"client_user_id": "a"}, 204, "", "X-Rejected-Token-Hash", strings.Repeat("0", 64))
	s.ask(forget, fields{"client_user_id": "a"}, 400, "INVALID_REQUEST", "X-Rejected-Token-Hash", "0")
	s.ask(forget, fields{"client_user_id": "a", "type": "x"}, 400, "INVALID_TOKEN_TYPE")
	s.ask(vending()[0], fields{"client_user_id": "a"}, 200, "")
	redis.Kill()
	s.ask(forget, fields{"client_user_id": "a"}, 202, "")
}

// hang makes a caller wait for a token, and returns how to end that.
func (s *surface) hang(auth *testbed.Auth) {
	auth.Set(sandbox.Mood{Fault: "hang"})
	before := auth.Counts().Calls
	go s.Get("waits")
	testbed.Until(s.t, "a caller waits", func() bool { return auth.Counts().Calls > before })
}

func overload(t *testing.T, d *description) {
	auth := testbed.StartAuth(t)
	s := d.sidecar(t, auth.Environ("MAX_CONCURRENT_REQUESTS=1", "UPSTREAM_TIMEOUT=1m")...)
	s.hang(auth)
	for _, o := range append(vending(), op{"DELETE", "/token", ""}) {
		s.ask(o, fields{"client_user_id": "a"}, 503, "OVERLOADED")
	}
	s.Kill()
}

func noAuditLog(t *testing.T, d *description) {
	full := filepath.Join(t.TempDir(), "audit.log")
	if err := os.Symlink("/dev/full", full); err != nil {
		t.Fatal(err)
	}
	key := testbed.WriteFile(t, "key", strings.Repeat("A", 43)+"=")
	s := d.sidecar(t, testbed.StartAuth(t).Environ("AUDIT_LOG="+full, "AUDIT_KEY_FILE="+key)...)
	for _, o := range append(vending(), op{"DELETE", "/token", ""}) {
		s.ask(o, fields{"client_user_id": "a"}, 503, "AUDIT_UNAVAILABLE")
	}
}

func theEnd(t *testing.T, d *description) {
	auth := testbed.StartAuth(t)
	s := d.sidecar(t, auth.Environ("UPSTREAM_TIMEOUT=1m", "SHUTDOWN_TIMEOUT=1m")...)
	s.hang(auth)
	s.Signal(syscall.SIGTERM)
	testbed.Until(t, "it drains", func() bool { return strings.Contains(s.Log(), `"msg":"draining`) })
	testbed.Until(t, "it refuses", func() bool { return s.Get("a").ErrorCode == "SHUTTING_DOWN" })
	for _, o := range append(vending(), op{"DELETE", "/token", ""}) {
		s.ask(o, fields{"client_user_id": "a"}, 503, "SHUTTING_DOWN")
	}
	s.send("GET", "http://"+s.Admin+"/readyz", "", 503, "")
	s.Kill()
}

func adminPort(t *testing.T, d *description) {
	auth := testbed.StartAuth(t)
	s := d.sidecar(t, auth.Environ("POD_NAME=web-1", "POD_NAMESPACE=shop", "UPSTREAM_MAX_ATTEMPTS=1")...)
	s.ask(vending()[0], fields{"client_user_id": "a"}, 200, "")
	s.ask(vending()[0], fields{}, 400, "INVALID_REQUEST")
	auth.Set(sandbox.Mood{Fault: "cut"})
	s.ask(vending()[0], fields{"client_user_id": "b"}, 503, "UPSTREAM_UNAVAILABLE")
	auth.Set(sandbox.Mood{Status: 500})
	s.ask(vending()[0], fields{"client_user_id": "c"}, 503, "UPSTREAM_UNAVAILABLE")
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/", "/status.json"} {
		s.send("GET", "http://"+s.Admin+path, "", 200, "")
		s.send("GET", "http://"+s.Admin+path, "", 403, "", "Origin", "http://a.example")
		s.send("GET", "http://"+s.Admin+path, "", 421, "", "Host", "a.example")
	}
	s.send("GET", "http://"+s.Admin+"/metrics", "", 200, "", "Accept", "application/openmetrics-text")
}

// errorCodes returns those in the source of package proxy, and those in the auth service's documentation.
func errorCodes(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, code := range upstream.ErrorCodes() {
		all[code] = true
	}
	files, err := filepath.Glob("proxy/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if literal, ok := node.(*ast.BasicLit); ok && regexp.MustCompile(`^"[A-Z_]{8,}"$`).MatchString(literal.Value) {
				all[strings.Trim(literal.Value, `"`)] = true
			}
			return true
		})
	}
	return all
}

// TestErrorCodes: the description has all of them, and no others.
func TestErrorCodes(t *testing.T) {
	localhost(t, "127.0.0.1")
	written, described := errorCodes(t), map[string]bool{}
	for _, response := range loadDescription(t).doc.Components.Responses {
		for _, media := range response.Value.Content {
			for _, code := range codes(media.Schema) {
				described[code] = true
			}
		}
	}
	for code := range written {
		if !described[code] {
			t.Errorf("%s is not described", code)
		}
	}
	for code := range described {
		if !written[code] {
			t.Errorf("%s is described, but not in the source", code)
		}
	}
}

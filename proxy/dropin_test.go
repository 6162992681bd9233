package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

// sent records what is sent to the auth service.
type sent struct {
	http.RoundTripper

	mu     sync.Mutex
	paths  []string
	bodies []map[string]any
}

// RoundTrip implements [http.RoundTripper].
func (s *sent) RoundTrip(r *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var body map[string]any
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.paths, s.bodies = append(s.paths, r.URL.Path), append(s.bodies, body)
	s.mu.Unlock()
	return s.RoundTripper.RoundTrip(r)
}

func (s *sent) to(o *settings) { s.RoundTripper, o.upstream.Transport = o.upstream.Transport, s }

// post is a POST as it is written to a socket; kind is its Content-Type, or empty for none.
func post(path, kind, body string, lines ...string) string {
	if kind != "" {
		lines = append(lines, "Content-Type: "+kind)
	}
	return "POST " + path + " HTTP/1.1\r\nHost: localhost:8080\r\n" + strings.Join(append(lines,
		fmt.Sprint("Content-Length: ", len(body)), "", body), "\r\n")
}

const (
	connectToken = "/v1/connect/token"
	adminToken   = "/v1/admin/token"
)

// TestDropInCalls: a service changes its base URL to use the sidecar, and nothing else.
func TestDropInCalls(t *testing.T) {
	user := map[string]any{"type": "access", "client_user_id": "42"}
	client := map[string]any{"type": "client"}
	for name, c := range map[string]struct {
		text string
		want map[string]any // sent to the auth service in addition to our own credentials
	}{
		"the documentation's example": {post(adminToken, asJSON, `{"client_id":"sandbox-client","client_secret":"x","type":"client"}`, "Cache-Control: no-cache"), client},
		"no secret, no client_id":     {post(connectToken, asJSON, `{"client_user_id":"42","type":"access"}`), user},
		"any secret":                  {post(connectToken, asJSON, `{"client_user_id":"42","client_secret":{"a":[1]},"type":"access"}`), user},
		"a long secret":               {post(connectToken, asForm, "client_user_id=42&client_secret="+strings.Repeat("x", 1000)), user},
		"null":                        {post(connectToken, asJSON, `{"client_user_id":"42","client_id":null,"client_secret":null,"type":"access","client_user_email":null,"extra_scopes":null,"more":null}`), user},
		"empty":                       {post(connectToken, asJSON, `{"client_user_id":"42","client_id":"","client_secret":"","type":"","client_user_email":"","extra_scopes":"","more":""}`), user},
		"empty, form":                 {post(connectToken, asForm, "client_user_id=42&client_id=&client_secret=&type=&client_user_email=&extra_scopes=&more="), user},
		"empty user of a client":      {post(adminToken, asJSON, `{"client_user_id":"","type":"client"}`), client},
		"null user of a client":       {post(adminToken, asJSON, `{"client_user_id":null,"type":"client"}`), client},
		"a number":                    {post(connectToken, asJSON, `{"client_user_id":42,"type":"access"}`), user},
		"a large number":              {post(connectToken, asJSON, `{"client_user_id":90071992547409930001}`), map[string]any{"type": "access", "client_user_id": "90071992547409930001"}},
		"a negative number":           {post(connectToken, asJSON, `{"client_user_id":-42}`), map[string]any{"type": "access", "client_user_id": "-42"}},
		"email with access":           {post(connectToken, asJSON, `{"client_user_id":"42","client_user_email":"a@b.c","type":"access"}`), user},
		"email with id":               {post(connectToken, asForm, "client_user_id=42&client_user_email=a%40b.c&type=id"), map[string]any{"type": "id", "client_user_id": "42"}},
		"email with session": {
			post(connectToken, asJSON, `{"client_user_id":"42","client_user_email":"a@b.c","type":"session"}`),
			map[string]any{"type": "session", "client_user_id": "42", "client_user_email": "a@b.c"},
		},
		"no Content-Type": {post(connectToken, "", `{"client_user_id":"42","type":"access"}`), user},
		"scopes":          {post(connectToken, asJSON, `{"client_user_id":"42","extra_scopes":["b","a"]}`), map[string]any{"type": "access", "client_user_id": "42", "extra_scopes": []any{"a", "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, again := range []bool{false, true} { // the second is a hit
				seen := &sent{}
				bothPaths(t, seen.to, func(t *testing.T, l *line) {
					if status, said := l.ask(t, c.text); status != 200 {
						t.Fatalf("%d %s", status, said)
					}
					if again {
						l.ask(t, c.text)
					}
					calls := 1
					if again && c.want["type"] == "session" {
						calls = 2
					}
					if n := l.world.calls(); n != calls {
						t.Errorf("%d calls to the auth service", n)
					}
					got := seen.bodies[len(seen.bodies)-1]
					if got["client_id"] != sandbox.DefaultClientID || got["client_secret"] != sandbox.DefaultClientSecret {
						t.Error("other credentials than ours were sent")
					}
					delete(got, "client_id")
					delete(got, "client_secret")
					if fmt.Sprint(got) != fmt.Sprint(c.want) {
						t.Errorf("sent %v, want %v", got, c.want)
					}
				})
			}
		})
	}
}

// TestWrongDropInCalls: fields that the key of a cached token does not cover are refused, and nothing is guessed.
func TestWrongDropInCalls(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		status int
		code   string
		names  string
	}{
		"foreign client_id":     {post(connectToken, asJSON, `{"client_user_id":"a","client_id":"other"}`), 401, "INVALID_CLIENT_ID", "client_id"},
		"client_id of a number": {post(connectToken, asJSON, `{"client_user_id":"a","client_id":7}`), 401, "INVALID_CLIENT_ID", "client_id"},
		"unknown field":         {post(connectToken, asJSON, `{"client_user_id":"a","grant":"x"}`), 400, "INVALID_REQUEST", "grant is not a field"},
		"unknown number":        {post(connectToken, asJSON, `{"client_user_id":"a","grant":0}`), 400, "INVALID_REQUEST", "grant is not a field"},
		"unknown false":         {post(connectToken, asJSON, `{"client_user_id":"a","grant":false}`), 400, "INVALID_REQUEST", "grant is not a field"},
		"unknown list":          {post(connectToken, asJSON, `{"client_user_id":"a","grant":[]}`), 400, "INVALID_REQUEST", "grant is not a field"},
		"unknown, form":         {post(connectToken, asForm, "client_user_id=a&grant=x"), 400, "INVALID_REQUEST", "grant is not a field"},
		"fraction":              {post(connectToken, asJSON, `{"client_user_id":42.0}`), 400, "INVALID_REQUEST", "client_user_id is neither a text nor a whole number"},
		"exponent":              {post(connectToken, asJSON, `{"client_user_id":42e1}`), 400, "INVALID_REQUEST", "client_user_id is neither a text nor a whole number"},
		"minus nought":          {post(connectToken, asJSON, `{"client_user_id":-0}`), 400, "INVALID_REQUEST", "client_user_id is neither a text nor a whole number"},
		"true":                  {post(connectToken, asJSON, `{"client_user_id":true}`), 400, "INVALID_REQUEST", "client_user_id is neither a text nor a whole number"},
		"no user":               {post(connectToken, asJSON, `{"type":"access"}`), 400, "INVALID_REQUEST", "client_user_id is missing"},
		"null user":             {post(connectToken, asJSON, `{"client_user_id":null,"type":"access"}`), 400, "INVALID_REQUEST", "client_user_id is missing"},
		"empty user":            {post(connectToken, asForm, "client_user_id=&type=access"), 400, "INVALID_REQUEST", "client_user_id is missing"},
		"neither user nor type": {post(adminToken, asJSON, `{}`), 400, "INVALID_REQUEST", "client_user_id is missing"},
		"null and a user":       {post(connectToken, asJSON, `{"client_user_id":null,"client_user_id":"a"}`), 400, "INVALID_REQUEST", "client_user_id is repeated"},
		"null in a list":        {post(connectToken, asJSON, `{"client_user_id":"a","extra_scopes":[null]}`), 400, "INVALID_REQUEST", "extra_scopes"},
		"empty in a list":       {post(connectToken, asJSON, `{"client_user_id":"a","extra_scopes":[""]}`), 400, "INVALID_REQUEST", "extra_scopes"},
		"JSON as a form":        {post(connectToken, asForm, ` {"client_user_id":"a"}`), 400, "INVALID_REQUEST", "send Content-Type: application/json"},
		"a form without a type": {post(connectToken, "", "client_user_id=a"), 400, "INVALID_REQUEST", "not a complete JSON object"},
		"compressed":            {post(connectToken, "", `{"client_user_id":"a"}`, "Content-Encoding: gzip"), 415, "UNSUPPORTED_MEDIA_TYPE", "compressed"},
		"text":                  {post(connectToken, "text/plain", `{"client_user_id":"a"}`), 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		"number on /token":      {post("/token", asJSON, `{"client_user_id":42}`), 400, "INVALID_REQUEST", "client_user_id is not a text"},
		"null on /token":        {post("/token", asJSON, `{"client_user_id":"a","client_user_email":null}`), 400, "INVALID_REQUEST", "client_user_email is not a text"},
		"email on /token":       {post("/token", asJSON, `{"client_user_id":"a","client_user_email":"b"}`), 400, "INVALID_REQUEST", "client_user_email goes with"},
		"no type on /token":     {post("/token", "", `{"client_user_id":"a"}`), 415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type"},
		"form on /token":        {post("/token", asForm, `{"client_user_id":"a"}`), 400, "INVALID_REQUEST", "send Content-Type: application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			bothPaths(t, nil, func(t *testing.T, l *line) {
				l.ask(t, plainGet("a"))
				status, said := l.ask(t, c.text)
				if status != c.status || !strings.Contains(said, `"`+c.code+`"`) || !strings.Contains(said, c.names) {
					t.Errorf("%d %s; want %d %s naming %q", status, said, c.status, c.code, c.names)
				}
				if n := l.world.calls(); n != 1 {
					t.Error("it reached the auth service")
				}
			})
		})
	}
}

// TestHIPAsksForTheClient: if no user is named, because that is how the product is used.
func TestHIPAsksForTheClient(t *testing.T) {
	seen := &sent{}
	hip := func(s *settings) { seen.to(s); s.proxy.Path = upstream.AdminPath }
	for text, want := range map[string]string{
		"GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n":             "client_token",
		post("/token", asJSON, `{}`):                                 "client_token",
		"GET /token?type=client HTTP/1.1\r\nHost: localhost\r\n\r\n": "client_token",
		plainGet("a"): "access_token",
		"GET /token?client_user_id= HTTP/1.1\r\nHost: localhost\r\n\r\n":     "client_user_id is missing",
		"GET /token?type=access HTTP/1.1\r\nHost: localhost\r\n\r\n":         "client_user_id is missing",
		"GET /token?extra_scopes=a HTTP/1.1\r\nHost: localhost\r\n\r\n":      "client_token",
		"DELETE /token HTTP/1.1\r\nHost: localhost\r\nAccept: b\r\n\r\n":     "",
		post(connectToken, asJSON, `{}`):                                     "client_user_id is missing",
		"GET /token?client_user_email=a HTTP/1.1\r\nHost: localhost\r\n\r\n": "client_user_email goes with",
	} {
		bothPaths(t, hip, func(t *testing.T, l *line) {
			for range 2 {
				if _, said := l.ask(t, text); !strings.Contains(said, want) {
					t.Errorf("%s\n%s, want %s", text, said, want)
				}
			}
			if asks := strings.HasSuffix(want, "_token"); asks != (l.world.calls() == 1) || asks &&
				seen.paths[len(seen.paths)-1] != upstream.AdminPath {
				t.Errorf("%s\n%d calls, to %v", text, l.world.calls(), seen.paths)
			}
		})
	}
	bothPaths(t, nil, func(t *testing.T, l *line) {
		if status, said := l.ask(t, "GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != 400 {
			t.Errorf("without HIP: %d %s", status, said)
		}
	})
}

func TestAllowedTypes(t *testing.T) {
	only := func(s *settings) { s.proxy.AllowedTypes = []string{"access", "id"} }
	query := func(method, query string) string {
		return method + " /token?" + query + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	}
	for text, allowed := range map[string]bool{
		plainGet("a"): true, plainPost("a"): true, query("GET", "client_user_id=a&type=id"): true,
		query("DELETE", "client_user_id=a"):            true,
		query("GET", "client_user_id=a&type=id_token"): false, query("GET", "type=client"): false,
		query("GET", "client_user_id=a&type=session"): false,
		post(adminToken, asJSON, `{"type":"client"}`): false, post("/token", asForm, "type=client"): false,
		query("DELETE", "type=client"): false, query("DELETE", "client_user_id=a&type=session"): false,
	} {
		bothPaths(t, only, func(t *testing.T, l *line) {
			for range 2 {
				status, said := l.ask(t, text)
				if allowed != (status == 200 || status == 204) || allowed == strings.Contains(said, "TYPE_NOT_ALLOWED") ||
					!allowed && status != http.StatusForbidden {
					t.Errorf("%s\n%d %s", text, status, said)
				}
			}
			if !allowed && l.world.calls() != 0 {
				t.Error("it reached the auth service")
			}
		})
	}
}

// TestHabitsOfClients: no-cache has a meaning on /token only.
func TestHabitsOfClients(t *testing.T) {
	const body = `{"client_user_id":"a","type":"access"}`
	for path, calls := range map[string]int{"/token": 3, connectToken: 1, adminToken: 1} {
		bothPaths(t, nil, func(t *testing.T, l *line) {
			for range 3 {
				if status, said := l.ask(t, post(path, asJSON, body, "Cache-Control: no-cache",
					"Pragma: no-cache")); status != 200 {
					t.Errorf("%d %s", status, said)
				}
			}
			if n := l.world.calls(); n != calls {
				t.Errorf("%s: %d calls, want %d", path, n, calls)
			}
		})
	}
}

// TestTheLastSecondIsOne: clients read an expires_in of 0 as "never expires".
func TestTheLastSecondIsOne(t *testing.T) {
	bothPaths(t, nil, func(t *testing.T, l *line) {
		l.world.auth.Set(sandbox.Mood{ExpiresIn: 1})
		l.ask(t, plainGet("a"))
		time.Sleep(600 * time.Millisecond)
		if _, said := l.ask(t, plainGet("a")); !strings.Contains(said, `"expires_in":1,`) || l.world.calls() != 1 {
			t.Errorf("after %d calls: %s", l.world.calls(), said)
		}
	})
}

// TestHalfBodiesTakeNoPlace: a caller who sends a body slowly, or never completes it, does not keep others from waiting
// for a token.
func TestHalfBodiesTakeNoPlace(t *testing.T) {
	bothPaths(t, func(s *settings) { s.proxy.MaxConcurrent = 1 }, func(t *testing.T, l *line) {
		for _, text := range []string{
			post("/token", asJSON, `{"client_user_id":"half"}`),
			post("/v1/connect/token", asJSON, `{"client_user_id":"half","type":"access"}`),
			chunkedPost("/token", chunks(`{"client_user_id":"half"}`, 5), "Content-Type: application/json"),
		} {
			for range 5 {
				slow := l.another(t)
				if _, err := io.WriteString(slow.Conn, text[:len(text)-10]); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = slow.Close() }()
			}
		}
		synctest.Wait()
		for i, text := range []string{plainGet("a"), post("/token", asJSON, `{"client_user_id":"b"}`)} {
			if status, said := l.ask(t, text); status != 200 || l.world.calls() != i+1 {
				t.Errorf("beside half bodies: %d %s", status, said)
			}
		}
	})
}

// TestCallersWhoWaitDenyNoHit: what memory can answer is answered, including refusals, however many callers wait for
// something else.
func TestCallersWhoWaitDenyNoHit(t *testing.T) {
	bothPaths(t, func(s *settings) { s.proxy.MaxConcurrent = 3 }, func(t *testing.T, l *line) {
		l.ask(t, plainGet("a"))
		l.ask(t, plainGet("unknown-x"))
		l.world.auth.Set(sandbox.Mood{Fault: "hang"})
		var waiting []*line
		for i := range 3 {
			other := l.another(t)
			if _, err := io.WriteString(other.Conn, plainGet(fmt.Sprint("waits-", i))); err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, other)
		}
		synctest.Wait()
		for _, text := range []string{
			plainGet("a"), post("/token", asJSON, `{"client_user_id":"a"}`),
			chunkedPost("/token", chunks(`{"client_user_id":"a"}`, 5), "Content-Type: application/json"),
		} {
			if status, said := l.ask(t, text); status != 200 {
				t.Errorf("a hit beside them: %d %s", status, said)
			}
		}
		for _, text := range []string{
			plainGet("unknown-x"), post("/token", asJSON, `{"client_user_id":"unknown-x"}`),
			chunkedPost("/token", chunks(`{"client_user_id":"unknown-x"}`, 5), "Content-Type: application/json"),
		} {
			if status, said := l.ask(t, text); status != 404 || !strings.Contains(said, "UNKNOWN_CLIENT_USER_ID") {
				t.Errorf("a remembered refusal beside them: %d %s", status, said)
			}
		}
		for _, text := range []string{
			plainGet("b"), strings.Replace(plainGet("a"), "Accept: */*", "Cache-Control: no-cache", 1),
			strings.Replace(plainGet("unknown-x"), "Accept: */*", "Cache-Control: no-cache", 1),
			"GET /token?client_user_id=unknown-x&type=session HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"GET /token?client_user_id=a&type=session HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"DELETE /token?client_user_id=a HTTP/1.1\r\nHost: localhost\r\n\r\n",
		} {
			if status, said := l.ask(t, text); status != 503 || !strings.Contains(said, "OVERLOADED") {
				t.Errorf("one more that would wait: %d %s", status, said)
			}
		}
		for _, other := range waiting {
			other.read(t)
			_ = other.Close()
		}
		l.world.auth.Set(sandbox.Mood{})
		if status, said := l.ask(t, plainGet("b")); status != 200 && !strings.Contains(said, "UPSTREAM") {
			t.Errorf("after them: %d %s", status, said)
		}
	})
}

// TestBusyCallersAreToldToLeave: a caller who continues to use a connection is told that it closes before it does.
func TestBusyCallersAreToldToLeave(t *testing.T) {
	bothPaths(t, nil, func(t *testing.T, l *line) {
		callers := []*line{l, l.another(t), l.another(t)}
		for _, caller := range callers {
			caller.ask(t, plainGet("a"))
		}
		slow := l.another(t)
		l.world.auth.Set(sandbox.Mood{LatencyMS: 300})
		if _, err := io.WriteString(slow.Conn, plainGet("slow")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		var ending sync.WaitGroup
		ending.Go(func() { _ = l.server.Shutdown(t.Context()) })
		for i, caller := range callers {
			time.Sleep(100 * time.Millisecond)
			status, header, said := caller.answer(t, plainGet("a"))
			if status != 503 || !strings.Contains(said, "SHUTTING_DOWN") || header.Get("Connection") != "close" {
				t.Errorf("caller %d: %d %v %s", i, status, header, said)
			}
		}
		if status, header, said := slow.answer(t, ""); status != 200 || header.Get("Connection") != "close" {
			t.Errorf("in progress: %d %v %s", status, header, said)
		}
		ending.Wait()
		if took := time.Since(began); took > farewell+100*time.Millisecond {
			t.Errorf("it ended after %v though everybody had left", took)
		}
	})
	bothPaths(t, nil, func(t *testing.T, l *line) {
		l.ask(t, plainGet("a"))
		began := time.Now()
		_ = l.server.Shutdown(t.Context())
		if took := time.Since(began); took < farewell || took > farewell+time.Second {
			t.Errorf("a connection that nobody uses was closed after %v", took)
		}
	})
	bothPaths(t, nil, func(t *testing.T, l *line) {
		_ = l.Close()
		synctest.Wait()
		began := time.Now()
		if _ = l.server.Shutdown(t.Context()); time.Since(began) > 100*time.Millisecond {
			t.Errorf("it ended after %v though nobody was there", time.Since(began))
		}
	})
}

package proxy

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"token-sidecar/internal/secret"
	"token-sidecar/upstream/sandbox"
)

// TestFastPath: callers cannot distinguish servers with and without the fast path.
func TestFastPath(t *testing.T) {
	for range 10 { // a hundred scripts are few for so many kinds of oddities
		rapid.Check(t, func(rt *rapid.T) {
			token := rapid.SampledFrom([]*secret.File{nil, fixed("the-right-one")}).Draw(rt, "caller token")
			anyHost := rapid.Bool().Draw(rt, "any host")
			change := func(s *settings) {
				padded(s)
				s.proxy.CallerToken, s.proxy.AnyHost = token, anyHost
			}
			script := scripts().Draw(rt, "script")
			var got, want string
			var end, wanted time.Duration
			synctest.Test(t, func(t *testing.T) { got, end = connect(t, true, change).play(script) })
			synctest.Test(t, func(t *testing.T) { want, wanted = connect(t, false, change).play(script) })
			if got != want {
				rt.Fatalf("answered\n%s\nin place of\n%s", got, want)
			}
			if late := end - wanted; late < 0 || late > time.Second {
				rt.Fatalf("the connection ended after %v in place of %v", end, wanted)
			}
		})
	}
}

// TestEmptyLineBeforeRequest: net/http ignores it if the last request was a POST, and refuses it otherwise. Requests
// answered on the fast path count too.
func TestEmptyLineBeforeRequest(t *testing.T) {
	for name, before := range map[string][]string{
		"after GETs":             {plainGet("a"), plainGet("a"), plainGet("a")},
		"after POSTs":            {plainPost("a"), plainPost("a"), plainPost("a")},
		"after POSTs and a GET":  {plainPost("a"), plainPost("a"), plainGet("a")},
		"after GETs and a POST":  {plainGet("a"), plainGet("a"), plainPost("a")},
		"after a POST and GETs":  {plainPost("a"), plainGet("a"), plainGet("a")},
		"after a GET and POSTs":  {plainGet("a"), plainPost("a"), plainPost("a")},
		"after a POST of others": {plainPost("a"), plainPost("b"), plainGet("a"), plainGet("b")},
	} {
		t.Run(name, func(t *testing.T) {
			var script []piece
			for _, text := range before {
				script = append(script, piece{0, text})
			}
			script = append(script, piece{0, "\r\n" + plainGet("a")})
			var got, want string
			synctest.Test(t, func(t *testing.T) { got, _ = connect(t, true, nil).play(script) })
			synctest.Test(t, func(t *testing.T) { want, _ = connect(t, false, nil).play(script) })
			if got != want {
				t.Errorf("answered\n%s\nin place of\n%s", got, want)
			}
			refused := strings.Contains(want, "HTTP/1.1 400 Bad Request")
			if lastWasPost := strings.HasPrefix(before[len(before)-1], "POST"); refused == lastWasPost {
				t.Errorf("net/http answered\n%s", want)
			}
		})
	}
}

// TestFastPathIsTaken: by the requests of common HTTP clients.
func TestFastPathIsTaken(t *testing.T) {
	body := "Content-Type: application/json\r\nContent-Length: 22\r\n\r\n" + `{"client_user_id":"a"}`
	for name, text := range map[string]string{
		"Go":          "GET /token?client_user_id=a HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
		"Go POST":     "POST /v1/connect/token HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 22\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n" + `{"client_user_id":"a"}`,
		"curl":        "GET /token?client_user_id=a&type=access HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
		"Python":      "POST /token HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: python-requests/2.32\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n" + body,
		"Node":        "GET /token?client_user_id=%61 HTTP/1.1\r\nhost: localhost:8080\r\nconnection: keep-alive\r\naccept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n\r\n",
		"OkHttp POST": "POST /token HTTP/1.1\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 22\r\nHost: localhost:8080\r\nConnection: Keep-Alive\r\nAccept-Encoding: gzip\r\nUser-Agent: okhttp/4.12\r\n\r\n" + `{"client_user_id":"a"}`,
		"OkHttp":      "GET /token?client_user_id=a HTTP/1.1\r\nHost: localhost:8080\r\nConnection: Keep-Alive\r\nAccept-Encoding: gzip\r\nUser-Agent: okhttp/4.12\r\n\r\n",
		"traced":      "GET /token?client_user_id=a HTTP/1.1\r\nHost: [::1]\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const times = 10
				l := connect(t, true, nil)
				said, _ := l.play(slices.Repeat([]piece{{time.Second, text}}, times))
				if strings.Count(said, "HTTP/1.1 200 OK") != times || l.seen.Load() != 1 {
					t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.seen.Load(), said)
				}
				if hits := l.world.handler.Outcomes()["hit_memory"]; hits != times-1 {
					t.Errorf("%d hits were counted", hits)
				}
			})
		})
	}
}

// TestWithoutFastPath: no request takes the fast path if it is turned off, or if something else must see every request.
func TestWithoutFastPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := newWorld(t, nil).handler
		for want, all := range map[bool][]ServerOptions{
			true:  {{Handler: handler}, {Handler: handler, Outer: handler}},
			false: {{Handler: handler, NoFastPath: true}, {Handler: handler, Outer: http.MaxBytesHandler(handler, 1<<10)}},
		} {
			for i, o := range all {
				if got := NewServer(o).HasFastPath(); got != want {
					t.Errorf("%v %d: %v", want, i, got)
				}
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		const times = 5
		l := connect(t, false, nil)
		if l.play(slices.Repeat([]piece{{0, plainGet("a")}}, times)); l.seen.Load() != times {
			t.Errorf("net/http saw %d requests of %d", l.seen.Load(), times)
		}
	})
}

// TestFastPathIsLeft: by requests other than plain ones for a token in memory.
func TestFastPathIsLeft(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: localhost\r\n"
	for name, text := range map[string]string{
		"another user":     plainGet("b"),
		"no cache":         "GET /token?client_user_id=a" + host + "Cache-Control: no-cache\r\n\r\n",
		"forget":           "DELETE /token?client_user_id=a" + host + "\r\n",
		"session":          "GET /token?client_user_id=a&type=session&client_user_email=b" + host + "\r\n",
		"wrong field":      "GET /token?client_user_id=a&scope=b" + host + "\r\n",
		"GET on a drop-in": "GET /v1/connect/token?client_user_id=a" + host + "\r\n",
		"query on a POST":  strings.Replace(plainPost("a"), " HTTP", "?client_user_id=a HTTP", 1),
		"no such call":     strings.Replace(plainPost("a"), "/v1/connect/token", "/tokens", 1),
		"foreign client":   strings.Replace(plainPost("a"), "client_secret", "client_id\": \"", 1),
		"other host":       "GET /token?client_user_id=a HTTP/1.1\r\nHost: evil.example\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := connect(t, true, nil)
				if said, _ := l.play([]piece{{0, plainGet("a")}, {0, plainGet("a")}, {0, text}}); l.seen.Load() != 2 {
					t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.seen.Load(), said)
				}
			})
		})
	}
}

// TestEagerCaller: a request that arrives while another is in progress is answered by net/http, but the next one takes
// the fast path.
func TestEagerCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(t, true, nil)
		l.ask(t, plainGet("a"))
		l.world.auth.Set(sandbox.Mood{LatencyMS: 1000})
		said, _ := l.play([]piece{
			{0, plainGet("b")},
			{0, plainGet("a")},
			{2 * time.Second, plainGet("b")},
			{time.Second, plainGet("a")},
		})
		if strings.Count(said, "HTTP/1.1 200 OK") != 4 || l.seen.Load() != 3 {
			t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.seen.Load(), said)
		}
	})
}

// TestFastPathRenews: hits on the fast path start renewals too.
func TestFastPathRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(t, true, nil)
		_, first := l.ask(t, plainGet("a"))
		l.ask(t, plainGet("a"))
		for range 24*60 - 5 {
			time.Sleep(time.Minute)
			l.ask(t, plainGet("a"))
		}
		_, last := l.ask(t, plainGet("a"))
		first, _, _ = strings.Cut(first, `","`)
		last, _, _ = strings.Cut(last, `","`)
		if l.world.calls() != 2 || first == last {
			t.Errorf("%d calls; the first token was %s, the last %s", l.world.calls(), first, last)
		}
		if l.seen.Load() != 1 {
			t.Errorf("net/http saw %d requests", l.seen.Load())
		}
		l.close()
	})
}

package proxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"

	"pgregory.net/rapid"
)

// A line is a connection to a server of a world of its own.
type line struct {
	net.Conn
	world  *world
	server *http.Server
	pipe   *testbed.Pipe
	toSlow atomic.Int64 // requests that net/http saw
	done   sync.WaitGroup
}

// connect starts a server, with the fast path or without, and connects to it.
func connect(t testing.TB, fast bool, change func(*settings)) *line {
	l := &line{world: newWorld(t, change), pipe: testbed.NewPipe()}
	l.server = NewServer(l.world.handler, l.world.handler.Longest(), slog.New(slog.DiscardHandler))
	follow := l.server.ConnState
	l.server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateActive {
			l.toSlow.Add(1)
		}
		follow(conn, state)
	}
	l.done.Go(func() {
		if fast {
			_ = Serve(l.server, l.pipe)
		} else {
			_ = l.server.Serve(l.pipe)
		}
	})
	l.Conn = l.another(t).Conn
	return l
}

// another returns another connection to the same server.
func (l *line) another(t testing.TB) *line {
	conn, err := l.pipe.Dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return &line{Conn: conn}
}

func (l *line) close() {
	_ = l.Close()
	_ = l.server.Close()
	l.done.Wait()
}

// play sends script, and returns what is answered to it, of random values only that they are there, and when the server
// closes the connection.
func (l *line) play(script []piece) (said string, ended time.Duration) {
	began := time.Now()
	var answers strings.Builder
	l.done.Go(func() {
		_, _ = io.Copy(&answers, l)
		ended = time.Since(began)
	})
	for _, p := range script {
		time.Sleep(p.wait)
		_ = l.SetWriteDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(l.Conn, p.text); err != nil {
			break
		}
		synctest.Wait()
	}
	time.Sleep(10 * time.Minute)
	l.close()
	random := regexp.MustCompile(`x{9,}|sbx\.[^"]*|atrt-[^"]*|"human_id":"[^"]*|(?i:x-humanapi-request-id"?: ?"?)[^"\r]*`)
	return random.ReplaceAllString(answers.String(), "..."), ended
}

// TestFastPath: whoever is answered on the fast path cannot tell.
func TestFastPath(t *testing.T) {
	for range 10 { // a hundred scripts are few for so many ways to be odd
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

// TestContentLength: every answer has one, also those that net/http would send in chunks without it.
func TestContentLength(t *testing.T) {
	for _, user := range []string{"bytes-2048", "bytes-2049", "bytes-10000", "unknown-bytes-2047", "unknown-bytes-10000"} {
		synctest.Test(t, func(t *testing.T) {
			l := connect(t, true, padded)
			defer l.close()
			for range 3 { // by net/http when it is new and when it is known, then on the fast path
				if _, err := io.WriteString(l.Conn, plainGet(user)); err != nil {
					t.Fatal(err)
				}
				res, err := http.ReadResponse(bufio.NewReader(l.Conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.ContentLength != int64(len(body)) || len(body) < 2048 {
					t.Errorf("%s: Content-Length %d of %d bytes: %v", user, res.ContentLength, len(body), err)
				}
			}
		})
	}
}

// TestEmptyLineBeforeRequest: net/http ignores it if the last request was a POST, and refuses it otherwise. Requests that
// were answered on the fast path count.
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

// TestFastPathIsTaken by what common clients send.
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
				if strings.Count(said, "HTTP/1.1 200 OK") != times || l.toSlow.Load() != 1 {
					t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.toSlow.Load(), said)
				}
				if hits := l.world.handler.Outcomes()["hit_memory"]; hits != times-1 {
					t.Errorf("%d hits were counted", hits)
				}
			})
		})
	}
}

// TestFastPathIsLeft by what is no plain question for a token that is known.
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
				if said, _ := l.play([]piece{{0, plainGet("a")}, {0, plainGet("a")}, {0, text}}); l.toSlow.Load() != 2 {
					t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.toSlow.Load(), said)
				}
			})
		})
	}
}

// TestEagerCaller: a request that comes while another is in progress costs the connection nothing but that.
func TestEagerCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(t, true, nil)
		l.ask(t, plainGet("a"))
		l.world.auth.Set(sandbox.Mood{LatencyMS: 1000})
		said, _ := l.play([]piece{{0, plainGet("b")}, {0, plainGet("a")}, {2 * time.Second, plainGet("b")}, {time.Second, plainGet("a")}})
		if strings.Count(said, "HTTP/1.1 200 OK") != 4 || l.toSlow.Load() != 3 {
			t.Errorf("net/http saw %d requests, and these were the answers:\n%s", l.toSlow.Load(), said)
		}
	})
}

// blocked returns a line on which an answer of the fast path waits to be read.
func blocked(t *testing.T, change func(*settings)) *line {
	l := connect(t, true, change)
	l.ask(t, plainGet("a"))
	l.ask(t, plainGet("a"))
	l.ask(t, "GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := io.WriteString(l.Conn, plainGet("a")); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if n := l.world.handler.InProgress(); n != 1 || l.toSlow.Load() != 2 {
		l.close()
		t.Fatalf("%d requests are in progress, net/http saw %d", n, l.toSlow.Load())
	}
	return l
}

// ask sends text and reads the answer to it.
func (l *line) ask(t *testing.T, text string) (status int, body string) {
	t.Helper()
	if _, err := io.WriteString(l.Conn, text); err != nil {
		t.Fatal(err)
	}
	return l.read(t)
}

func (l *line) read(t *testing.T) (status int, body string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(l.Conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return res.StatusCode, string(content)
}

// TestFastPathAndShutdown: what is being answered when the end comes is answered.
func TestFastPathAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := blocked(t, nil)
		var ending sync.WaitGroup
		ending.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_ = l.world.handler.Shutdown(ctx, l.server)
		})
		time.Sleep(time.Second)
		if status, body := l.read(t); status != http.StatusOK || !strings.Contains(body, "access_token") {
			t.Errorf("%d %s", status, body)
		}
		ending.Wait()
		if n, err := l.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes came after the end", n)
		}
		l.close()
	})
	synctest.Test(t, func(t *testing.T) {
		l := connect(t, true, nil)
		l.ask(t, plainGet("a"))
		l.ask(t, plainGet("a"))
		l.world.handler.Drain()
		if status, body := l.ask(t, plainGet("a")); status != http.StatusServiceUnavailable || !strings.Contains(body, "SHUTTING_DOWN") {
			t.Errorf("%d %s after the end began", status, body)
		}
		l.close()
	})
}

// TestFastPathIsNoWayAround the limits: of requests in progress, and of the time that a caller takes to read.
func TestFastPathIsNoWayAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := blocked(t, func(s *settings) { s.proxy.MaxConcurrent = 1 })
		other := l.another(t)
		if status, body := other.ask(t, plainGet("a")); status != http.StatusServiceUnavailable || !strings.Contains(body, "OVERLOADED") {
			t.Errorf("%d %s beside another request", status, body)
		}
		l.read(t)
		synctest.Wait()
		for range 2 {
			if status, body := other.ask(t, plainGet("a")); status != http.StatusOK {
				t.Errorf("%d %s alone", status, body)
			}
		}
		l.ask(t, "GET /token HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := io.WriteString(l.Conn, plainGet("a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if status, body := other.ask(t, plainGet("a")); status != http.StatusServiceUnavailable {
			t.Errorf("%d %s on the fast path beside another request", status, body)
		}
		time.Sleep(l.server.WriteTimeout + 2*time.Second)
		if n := l.world.handler.InProgress(); n != 0 {
			t.Errorf("%d requests are in progress still, of a caller who does not read", n)
		}
		_ = other.Close()
		l.close()
	})
}

// TestFastPathRenews: hits drive the renewal there too.
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
		if l.toSlow.Load() != 1 {
			t.Errorf("net/http saw %d requests", l.toSlow.Load())
		}
		l.close()
	})
}

package fastpath

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"token-sidecar/internal/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An echo answers a request with a description of it, by net/http and on the fast path.
type echo struct{ here, netHTTP atomic.Int64 }

// Respond implements [Responder].
func (e *echo) Respond(r Request, a *Answer) bool {
	if string(r.Path) != "/echo" {
		return false
	}
	e.here.Add(1)
	a.Body = appendEcho(a.Body, r.Method, string(r.Query), string(r.Host), string(r.Authorization), string(r.ContentType),
		r.Body)
	a.Set("Cache-Control", []byte("no-store"))
	a.Set("Content-Type", []byte("text/plain"))
	return true
}

// ServeHTTP implements [http.Handler]. It answers all paths. It does not read the body for /unread, and takes a second
// for /slow.
func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.netHTTP.Add(1)
	var body []byte
	if r.URL.Path != "/unread" {
		body, _ = io.ReadAll(r.Body)
	}
	if r.URL.Path == "/slow" {
		time.Sleep(time.Second)
	}
	answer := appendEcho(nil, r.Method, r.URL.RawQuery, r.Host, r.Header.Get("Authorization"),
		r.Header.Get("Content-Type"), body)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer)
}

func appendEcho(b []byte, method, query, host, authorization, contentType string, body []byte) []byte {
	return fmt.Appendf(b, "%s ?%s at %s by %s: %s %q\n", method, query, host, authorization, contentType, body)
}

// pause is the time between two pieces of a script; no sum of pauses is a time limit of the server.
const pause = 503 * time.Millisecond

// serve plays pieces to a server on virtual time, and returns its answers and when it closed the connection.
func serve(t *testing.T, fast bool, pieces [][]byte) (answers string, ended time.Duration, e *echo) {
	e = &echo{}
	synctest.Test(t, func(t *testing.T) {
		server := &http.Server{
			Handler: e, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0),
		}
		pipe := testbed.NewPipe()
		var listener net.Listener = pipe
		if fast {
			listener = New(server, e).Listener(pipe)
		}
		var running sync.WaitGroup
		running.Go(func() { _ = server.Serve(listener) })
		conn, err := pipe.Dial(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var said bytes.Buffer
		running.Go(func() {
			_, _ = io.Copy(&said, conn)
			ended = time.Since(began)
		})
		for _, piece := range pieces {
			time.Sleep(pause)
			if len(piece) == 0 {
				continue
			}
			_ = conn.SetWriteDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Write(piece); err != nil {
				break
			}
		}
		time.Sleep(5 * time.Minute)
		_ = conn.Close()
		_ = server.Close()
		running.Wait()
		answers = said.String()
	})
	return answers, ended, e
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		path, len(body), body)
}

// FuzzConnection: a caller cannot distinguish servers with and without the fast path. The pieces of a script are
// separated by the byte 0xff.
func FuzzConnection(f *testing.F) {
	const then = "\xff"
	twice := get("/echo?1") + then + get("/echo?2") + then
	for _, seed := range []string{
		twice + get("/echo?3"),
		twice + get("/slow") + get("/echo?3") + then + get("/echo?4") + then + then + then + get("/echo?5"),
		twice + get("/slow") + get("/echo?3")[:1] + then + then + then + get("/echo?3")[1:] + then + get("/echo?4"),
		twice + get("/slow") + then + "G" + then + then + get("/echo?3")[1:] + get("/echo?4") + then + get("/echo?5"),
		twice + get("/echo?3") + get("/other") + get("/echo?4") + get("/echo?5"),
		twice + get("/echo?3")[:9] + then + get("/echo?3")[9:] + then + get("/echo?4"),
		twice + post("/echo", "a") + then + post("/echo", "b") + then + "\r\n" + get("/echo?3") + then + get("/echo?4"),
		post("/echo", "a") + then + get("/echo?1") + then + "\r\n" + get("/echo?2"),
		post("/echo", "a") + then + post("/echo", "b") + "\r\n" + then + post("/echo", "c") + then + get("/echo?2"),
		post("/echo", "a") + then + post("/slow", "b") + "\n" + then + then + then + post("/echo", "c"),
		twice + post("/unread", get("/echo?3")) + then + get("/echo?4") + then + get("/echo?5"),
		twice + strings.TrimSuffix(post("/unread", get("/echo?3")),
			get("/echo?3")) + then + get("/echo?3") + then + get("/echo?4"),
		twice + "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + then +
			get("/echo?3"),
		twice + "POST /unread HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 48\r\n\r\n" + then +
			get("/echo?3"),
		twice + "GET /echo HTTP/1.0\r\nHost: localhost\r\n\r\n" + then + get("/echo?3"),
		twice + "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" + then + get("/echo?3"),
		twice + get("/echo?3") + strings.Repeat(" ", 5000),
		// fills net/http's buffer exactly
		twice + strings.Repeat(get("/echo?"+strings.Repeat("x", 512-len(get("/echo?")))), 20),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 16<<10 {
			t.Skip("16 KiB fill every buffer of net/http; a longer script only takes more time")
		}
		pieces := bytes.Split(script, []byte(then))
		got, ended, _ := serve(t, true, pieces)
		want, wanted, _ := serve(t, false, pieces)
		if got != want {
			t.Errorf("answered\n%s\nin place of\n%s", got, want)
		}
		if late := ended - wanted; late < 0 || late > time.Second {
			t.Errorf("the connection ended after %v in place of %v", ended, wanted)
		}
	})
}

// TestWhoAnswers: net/http answers the first request on a connection, the first one after another method, and what the
// Responder leaves to it.
func TestWhoAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		script        []string
		here, netHTTP int64
	}{
		"GET":            {[]string{get("/echo"), get("/echo"), get("/echo")}, 2, 1},
		"POST":           {[]string{post("/echo", "a"), post("/echo", "b"), post("/echo", "c")}, 2, 1},
		"both":           {[]string{get("/echo"), get("/echo"), post("/echo", "a"), post("/echo", "b"), get("/echo"), get("/echo")}, 3, 3},
		"left":           {[]string{get("/echo"), get("/other"), get("/echo"), get("/other"), get("/echo")}, 2, 3},
		"a body apart":   {[]string{get("/echo"), post("/echo", "ab")[:86], "b", post("/echo", "c")}, 1, 2},
		"a head in two":  {[]string{get("/echo"), get("/echo")[:20], get("/echo")[20:], get("/echo")}, 0, 3},                       // net/http keeps the connection
		"together":       {[]string{get("/echo"), get("/echo") + get("/echo") + get("/other") + get("/echo"), get("/echo")}, 2, 4}, // here too
		"one byte ahead": {[]string{get("/slow"), get("/echo"), "", "", get("/echo")}, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var pieces [][]byte
			for _, text := range c.script {
				pieces = append(pieces, []byte(text))
			}
			answers, _, e := serve(t, true, pieces)
			if e.here.Load() != c.here || e.netHTTP.Load() != c.netHTTP || strings.Count(answers,
				" 200 OK\r\n") != int(c.here+c.netHTTP) {
				t.Errorf("%d and %d by net/http:\n%s", e.here.Load(), e.netHTTP.Load(), answers)
			}
		})
	}
}

// A sink keeps the slices that are written to it, without copying.
type sink struct {
	net.Conn
	written []byte
}

func (s *sink) Write(b []byte) (int, error)      { s.written = b; return len(b), nil }
func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// TestSecretsAreCleared: answers contain tokens, and their memory is reused.
func TestSecretsAreCleared(t *testing.T) {
	path := New(&http.Server{}, &echo{})
	s := &sink{}
	answered, err := path.answer(&conn{Conn: s, path: path}, Request{Path: []byte("/echo"), Received: time.Now()})
	if !answered || err != nil || len(s.written) == 0 || len(bytes.Trim(s.written, "\x00")) > 0 {
		t.Errorf("%v, %v, and what was written is now %q", answered, err, s.written)
	}
}

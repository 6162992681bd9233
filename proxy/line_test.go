package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/testbed"
)

// A line is a connection to a server with a world of its own.
type line struct {
	net.Conn
	world  *world
	server *Server
	pipe   *testbed.Pipe
	seen   atomic.Int64 // how many requests net/http saw
	idle   atomic.Bool  // net/http has finished the last one
	done   sync.WaitGroup
}

// connect starts a server, with the fast path or without, and connects to it.
func connect(t testing.TB, fast bool, change func(*settings)) *line {
	l := &line{world: newWorld(t, change), pipe: testbed.NewPipe()}
	l.server = NewServer(ServerOptions{Handler: l.world.handler, NoFastPath: !fast})
	follow := l.server.http.ConnState
	l.server.http.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateActive {
			l.seen.Add(1)
		}
		l.idle.Store(state == http.StateIdle)
		if follow != nil {
			follow(conn, state)
		}
	}
	l.done.Go(func() { _ = l.server.Serve(l.pipe) })
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
	_ = l.server.http.Close()
	l.done.Wait()
}

// play sends script and returns the answers, with random values replaced by dots, and when the server closed the
// connection.
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

// ask sends text and reads the answer to it.
func (l *line) ask(t *testing.T, text string) (status int, body string) {
	t.Helper()
	status, _, body = l.answer(t, text)
	return status, body
}

func (l *line) read(t *testing.T) (status int, body string) {
	t.Helper()
	status, _, body = l.answer(t, "")
	return status, body
}

// answer sends text, unless it is empty, and reads the answer.
func (l *line) answer(t *testing.T, text string) (status int, header http.Header, body string) {
	t.Helper()
	if text != "" {
		if _, err := io.WriteString(l.Conn, text); err != nil {
			t.Fatal(err)
		}
	}
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
	if res.Close {
		res.Header.Set("Connection", "close") // ReadResponse removes it
	}
	return res.StatusCode, res.Header, string(content)
}

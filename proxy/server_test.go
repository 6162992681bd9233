package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/testbed"
)

// TestContentLength: every answer has one, even those that net/http would otherwise send in chunks.
func TestContentLength(t *testing.T) {
	for _, user := range []string{"bytes-2048", "bytes-2049", "bytes-10000", "unknown-bytes-2047", "unknown-bytes-10000"} {
		synctest.Test(t, func(t *testing.T) {
			l := connect(t, true, padded)
			defer l.close()
			for range 3 { // by net/http as a miss and as a hit, then on the fast path
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

// TestCallersWhoDoNotRead: they do not keep others from being answered, however many requests they send.
func TestCallersWhoDoNotRead(t *testing.T) {
	const most = 8
	for _, fast := range []bool{true, false} {
		for _, user := range []string{"a", "bytes-10000"} {
			t.Run(fmt.Sprint(user, " fast path ", fast), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := connect(t, fast, func(s *settings) {
						padded(s)
						s.proxy.MaxConcurrent = most
					})
					defer l.close()
					l.ask(t, plainGet(user))
					var writing sync.WaitGroup
					for range most {
						deaf := l.another(t)
						deaf.ask(t, plainGet("a"))
						writing.Go(func() { _, _ = io.WriteString(deaf, strings.Repeat(plainGet(user), 100)) })
						defer writing.Wait()
						defer func() { _ = deaf.Close() }()
					}
					synctest.Wait()
					if n := l.world.handler.InProgress(); n != 0 {
						t.Errorf("%d requests are in progress", n)
					}
					for range 3 {
						if status, body := l.ask(t, plainGet("a")); status != http.StatusOK {
							t.Errorf("%d %s", status, body)
						}
					}
				})
			})
		}
	}
}

// TestShutdown: an answer that is being written at shutdown is completed, as long as there is time.
func TestShutdown(t *testing.T) {
	for _, fast := range []bool{true, false} {
		for _, reads := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				l := connect(t, fast, nil)
				defer l.close()
				l.ask(t, plainGet("a"))
				if _, err := io.WriteString(l.Conn, plainGet("a")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // a request that is still being read at shutdown is refused
				var ending sync.WaitGroup
				var err error
				ending.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					err = l.server.Shutdown(ctx)
				})
				time.Sleep(time.Second)
				if reads {
					if status, body := l.read(t); status != http.StatusOK || !strings.Contains(body, "access_token") {
						t.Errorf("%d %s", status, body)
					}
				}
				ending.Wait()
				if (err == nil) != reads {
					t.Errorf("fast path %v: %v, though the caller read: %v", fast, err, reads)
				}
				if n, err := l.Read(make([]byte, 1)); err == nil {
					t.Errorf("%d bytes came after the end", n)
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := connect(t, true, nil)
		l.ask(t, plainGet("a"))
		l.ask(t, plainGet("a"))
		l.world.handler.Drain()
		if status, body := l.ask(t, plainGet("a")); status != http.StatusServiceUnavailable || !strings.Contains(body,
			"SHUTTING_DOWN") {
			t.Errorf("%d %s after the end began", status, body)
		}
		l.close()
	})
}

// TestSlowReader: a caller who reads slowly gets as much time, and may then be idle for as long, as with net/http.
func TestSlowReader(t *testing.T) {
	for _, slow := range []time.Duration{0, 900 * time.Millisecond, 20 * time.Second, 5 * time.Minute} {
		var size [2]int64
		var ended [2]time.Duration
		for i, fast := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				l := connect(t, fast, nil)
				defer l.close()
				for _, user := range []string{"a", "a", "b"} { // net/http, the fast path, and net/http answer these
					l.ask(t, plainGet(user))
					time.Sleep(100 * time.Millisecond)
				}
				if _, err := io.WriteString(l.Conn, plainGet("a")); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				time.Sleep(slow)
				if fast && slow > l.server.http.WriteTimeout+time.Second && l.server.fast.InProgress() != 0 {
					t.Error("an answer is still being written")
				}
				size[i], _ = io.Copy(io.Discard, l)
				ended[i] = time.Since(began)
			})
		}
		if late := ended[1] - ended[0]; size[1] != size[0] || late < 0 || late > time.Second {
			t.Errorf("after %v, %d bytes were read until %v in place of %d until %v", slow, size[1], ended[1], size[0], ended[0])
		}
	}
}

// TestMaxConns: beyond the bound, a connection waits until another one is closed, or the server shuts down.
func TestMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe, server := testbed.NewPipe(), NewServer(ServerOptions{Handler: newWorld(t, nil).handler, MaxConns: 2})
		var running sync.WaitGroup
		running.Go(func() {
			if err := server.Serve(pipe); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		status := map[int]string{}
		var mu sync.Mutex
		conns := make([]net.Conn, 4)
		for i := range conns {
			running.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				conn, err := pipe.Dial(t.Context(), "", "")
				if err != nil {
					return // the fourth one is not even accepted
				}
				conns[i] = conn
				_, _ = io.WriteString(conn, plainGet("a"))
				line, _ := bufio.NewReader(conn).ReadString('\n')
				mu.Lock()
				defer mu.Unlock()
				status[i] = strings.TrimSpace(line)
			})
		}
		expect := func(when string, want map[int]string) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !maps.Equal(status, want) {
				t.Errorf("%s: %v in place of %v", when, status, want)
			}
		}
		const ok = "HTTP/1.1 200 OK"
		time.Sleep(5 * time.Second)
		expect("four callers", map[int]string{0: ok, 1: ok})
		_ = conns[0].Close()
		expect("one has left", map[int]string{0: ok, 1: ok, 2: ok})
		for _, conn := range conns[1:3] { // these will still be open when the listener is closed
			if _, err := io.WriteString(conn, "GET"); err != nil {
				t.Error(err)
			}
		}
		running.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_ = server.Shutdown(ctx)
		})
		time.Sleep(2 * time.Second)
		expect("at the end", map[int]string{0: ok, 1: ok, 2: ok, 3: ""})
		_ = conns[1].Close()
		_ = conns[2].Close()
		running.Wait()
	})
}

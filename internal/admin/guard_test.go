package admin

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/testbed"
)

// serve runs a server in a network of its own.
func serve(t *testing.T) *testbed.Pipe {
	pipe := testbed.NewPipe()
	server := NewServer(newHandler(true), slog.New(slog.DiscardHandler))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(pipe) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return pipe
}

func dial(t *testing.T, pipe *testbed.Pipe) net.Conn {
	t.Helper()
	conn, err := pipe.Dial(context.WithoutCancel(t.Context()), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends a request for path with these header lines, and returns the status of the answer, or 0 if the
// connection ends without an answer.
func ask(t *testing.T, conn net.Conn, path string, lines ...string) int {
	t.Helper()
	go func() {
		_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\n"+strings.Join(lines, "\r\n")+"\r\n\r\n")
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

func TestAdminGuards(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		lines  []string
	}{
		"localhost":       {200, []string{"Host: localhost"}},
		"localhost, port": {200, []string{"Host: LocalHost:8081"}},
		"a pod's address": {200, []string{"Host: 10.1.2.3:8081"}},
		"IPv4":            {200, []string{"Host: 10.1.2.3"}},
		"IPv6, port":      {200, []string{"Host: [fd00::7]:8081"}},
		"IPv6":            {200, []string{"Host: [::1]"}},
		"the page itself": {200, []string{"Host: localhost:8081", "Sec-Fetch-Site: same-origin"}},
		"typed":           {200, []string{"Host: localhost:8081", "Sec-Fetch-Site: none"}},
		"rebinding":       {421, []string{"Host: evil.example:8081"}},
		"nip.io":          {421, []string{"Host: 127.0.0.1.nip.io"}},
		"trailing dot":    {421, []string{"Host: localhost."}},
		"no host":         {421, []string{"Host:"}},
		"origin":          {403, []string{"Host: localhost", "Origin: http://evil.example"}},
		"cross-site":      {403, []string{"Host: localhost", "Sec-Fetch-Site: cross-site"}},
		"hidden":          {403, []string{"Host: localhost", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"}},
		"7 KiB of header": {200, []string{"Host: localhost", "X-A: " + strings.Repeat("a", 7<<10)}},
		"8 KiB of header": {431, []string{"Host: localhost", "X-A: " + strings.Repeat("a", 8<<10)}},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := serve(t)
			for _, path := range []string{"/livez", "/metrics", "/status.json", "/"} {
				if status := ask(t, dial(t, pipe), path, c.lines...); status != c.status {
					t.Errorf("%s: %d, want %d", path, status, c.status)
				}
			}
		})
	}
}

// TestAFloodOfTheAdminPort: a flood gets a limited number of connections, and does not keep probes out.
func TestAFloodOfTheAdminPort(t *testing.T) {
	for name, begin := range map[string]string{
		"idle":      "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"half head": "GET /livez HTTP/1.1\r\nHost: local",
		"silent":    "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pipe := serve(t)
				var open sync.Map
				var flood sync.WaitGroup
				for range 20 * maxConns {
					conn := dial(t, pipe)
					open.Store(conn, true)
					flood.Go(func() {
						_, _ = io.WriteString(conn, begin)
						_, _ = io.Copy(io.Discard, conn)
						open.Delete(conn)
					})
					synctest.Wait()
				}
				left := 0
				open.Range(func(any, any) bool { left++; return true })
				if left > maxConns {
					t.Errorf("%d connections are open", left)
				}
				began := time.Now()
				if status := ask(t, dial(t, pipe), "/livez", "Host: localhost"); status != 200 || time.Since(began) >= time.Second {
					t.Errorf("a probe got %d after %v", status, time.Since(began))
				}
				open.Range(func(conn, _ any) bool { return conn.(net.Conn).Close() == nil })
				flood.Wait()
			})
		})
	}
}

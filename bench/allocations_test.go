package bench

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
	"token-sidecar/proxy"
)

// repeated is a body that can be read repeatedly.
type repeated struct{ *strings.Reader }

func (r repeated) Read(b []byte) (int, error) {
	if r.Len() == 0 {
		_, _ = r.Seek(0, 0)
	}
	return r.Reader.Read(b)
}

func (repeated) Close() error { return nil }

// TestAllocations: hits do not allocate more than they used to. net/http's allocations do not count; the fast
// path does not run net/http.
func TestAllocations(t *testing.T) {
	l := newLocal(t, testbed.StartAuth(t), "", time.Hour)
	body := `{"client_user_id":"user","type":"access"}`
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/connect/token",
		repeated{strings.NewReader(body)})
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(body))
	for _, c := range []struct {
		name, what, against string
		ask                 func()
		most                float64
	}{
		{"allocations", "memory hit through the handler, allocations", "net/http's own", l.ask(t, "user"), 2},
		{"allocations-fast", "memory hit on the fast path, allocations", "none of net/http", l.onPipe(t, get("user")), 1},
		{"", "POST through the handler", "", l.serve(t, r), 4},
		{"", "POST on the fast path", "", l.onPipe(t, post("user")), 2},
	} {
		c.ask() // a miss
		c.ask() // the first on its connection
		g := &goal{name: c.name, what: c.what, against: c.against, limit: 4, atMost: true}
		for range 9 { // whatever else the process does allocates too
			g.add(testing.AllocsPerRun(100, c.ask))
		}
		if seen := median(g.seen); seen > c.most+raceAllocations {
			t.Errorf("%s: %v allocations, at most %v before", c.what, seen, c.most)
		}
		if c.name != "" {
			g.record(t)
		}
	}
}

// onPipe returns a function that sends request repeatedly on one connection.
func (l *local) onPipe(t testing.TB, request []byte) func() {
	t.Helper()
	return l.served(t, request, proxy.ServerOptions{Handler: l.handler})
}

func (l *local) served(t testing.TB, request []byte, opts proxy.ServerOptions) func() {
	t.Helper()
	pipe := testbed.NewPipe()
	server := proxy.NewServer(opts)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(pipe) })
	conn, err := pipe.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = pipe.Close()
		serving.Wait()
	})
	answer := make([]byte, 4096)
	return func() {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; ; {
			more, err := conn.Read(answer[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += more
			if size, complete := answerSize(answer[:n]); complete {
				if size != n || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
					t.Fatalf("%s", answer[:n])
				}
				return
			}
		}
	}
}

// BenchmarkMemoryHit is a hit without a network and without the fast path.
func BenchmarkMemoryHit(b *testing.B) {
	ask := newLocal(b, testbed.StartAuth(b), "", time.Hour).ask(b, "user")
	ask()
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

package bench

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"token-sidecar/internal/testbed"
)

// repeated is a body that can be read again and again.
type repeated struct{ *strings.Reader }

func (r repeated) Read(b []byte) (int, error) {
	if r.Len() == 0 {
		_, _ = r.Seek(0, 0)
	}
	return r.Reader.Read(b)
}

func (repeated) Close() error { return nil }

// TestAllocations: those of a hit do not grow. net/http's own are not counted.
func TestAllocations(t *testing.T) {
	l := newLocal(t, testbed.StartAuth(t), "", time.Hour)
	get := l.ask(t, "user")
	body := `{"client_user_id":"user","type":"access"}`
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/connect/token", repeated{strings.NewReader(body)})
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(body))
	post := l.serve(t, r)
	allocations := &goal{name: "allocations", what: "memory hit through the handler, allocations", against: "net/http's own", limit: 4, atMost: true}
	for i, c := range []struct {
		ask  func()
		most float64
	}{{get, 3}, {post, 5}} {
		c.ask()
		seen := testing.AllocsPerRun(100, c.ask)
		if seen > c.most+raceAllocations {
			t.Errorf("%v allocations, at most %v before", seen, c.most)
		}
		if i == 0 {
			allocations.add(seen)
		}
	}
	allocations.record(t)
}

// BenchmarkMemoryHit is a hit without a network.
func BenchmarkMemoryHit(b *testing.B) {
	ask := newLocal(b, testbed.StartAuth(b), "", time.Hour).ask(b, "user")
	ask()
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

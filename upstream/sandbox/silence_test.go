package sandbox

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestSilence: the connection of the call falls silent for good, including other calls and pings on the same HTTP/2
// connection. Once the fault is removed, a new connection works.
func TestSilence(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			s := New(Options{})
			server := httptest.NewUnstartedServer(s)
			server.Listener = Listen(server.Config, server.Listener)
			server.EnableHTTP2 = proto == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			transport := server.Client().Transport.(*http.Transport)
			transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 100 * time.Millisecond, PingTimeout: time.Second}
			ask := func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/v1/connect/token",
					strings.NewReader(`{}`))
				if err != nil {
					t.Fatal(err)
				}
				res, err := transport.RoundTrip(req)
				if err == nil {
					if res.Proto != proto {
						t.Errorf("%s was spoken", res.Proto)
					}
					err = res.Body.Close()
				}
				return err
			}
			if err := ask(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.Set(Mood{Fault: "silent"})
			if proto == "HTTP/2.0" { // a ping detects it
				if err := ask(t.Context()); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the silent connection: %v", err)
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the silent connection: %v", err)
				}
			}
			s.Set(Mood{})
			if err := ask(t.Context()); err != nil {
				t.Errorf("a new connection: %v", err)
			}
		})
	}
}

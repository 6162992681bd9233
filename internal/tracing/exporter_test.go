package tracing

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"token-sidecar/internal/testbed"
)

// sendOne sends a span like a process with that environment, and returns the log.
func sendOne(t *testing.T, environ ...string) string {
	t.Helper()
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	var log strings.Builder
	tracing, err := Start(t.Context(), os.Environ(), "v1", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if tracing.provider == nil {
		t.Fatal("off")
	}
	_, span := tracing.provider.Tracer("test").Start(t.Context(), "test")
	span.End()
	if err := tracing.provider.Shutdown(t.Context()); err != nil { // unlike Stop, it waits as long as it takes
		t.Error(err)
	}
	return log.String()
}

// TestNoRedirectWithTheAPIKey: redirects from the collector are not followed, not even on the same host.
func TestNoRedirectWithTheAPIKey(t *testing.T) {
	var asked, elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{other.URL, "/elsewhere"} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if r.URL.Path != "/v1/traces" {
					elsewhere.Add(1)
				}
				if r.Header.Get("X-Api-Key") != "s3cr3t" {
					t.Errorf("header %v", r.Header)
				}
				http.Redirect(w, r, to, status)
			}))
			log := sendOne(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_EXPORTER_OTLP_HEADERS=X-Api-Key=s3cr3t")
			server.Close()
			if asked.Swap(0) != 1 || elsewhere.Load() != 0 {
				t.Fatalf("%d to %s is followed", status, to)
			}
			if strings.Count(log, "traces cannot be sent") != 1 || !strings.Contains(log, fmt.Sprint("status ", status)) ||
				strings.Contains(log, "s3cr3t") {
				t.Errorf("log: %s", log)
			}
		}
	}
}

// TestNothingOfAnAnswerIsLogged: whatever the collector repeats of the API key, and wherever.
func TestNothingOfAnAnswerIsLogged(t *testing.T) {
	for name, c := range map[string]struct{ answer, reason string }{
		"no HTTP":             {"X-Api-Key: s3cr3t\r\n\r\n", "connection failed"},
		"a status of letters": {"HTTP/1.1 s3cr3t s3cr3t\r\n\r\n", "connection failed"},
		"a broken header":     {"HTTP/1.1 400 Bad Request\r\ns3cr3t\r\n\r\n", "connection failed"},
		"a broken redirect":   {"HTTP/1.1 307 s3cr3t\r\nLocation: :s3cr3t\r\nContent-Length: 0\r\n\r\n", "status 307"},
		"a text":              {"HTTP/1.1 400 s3cr3t\r\nContent-Length: 6\r\n\r\ns3cr3t", "status 400"},
		"no answer":           {"", "connection closed"},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = http.ReadRequest(bufio.NewReader(conn))
					_, _ = io.WriteString(conn, c.answer)
					_ = conn.Close()
				}
			})
			log := sendOne(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+listener.Addr().String(),
				"OTEL_EXPORTER_OTLP_HEADERS=X-Api-Key=s3cr3t")
			_ = listener.Close()
			serving.Wait()
			if strings.Count(log, "traces cannot be sent") != 1 || !strings.Contains(log, c.reason) ||
				strings.Contains(log, "s3cr3t") {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestCollectorWithCertificates(t *testing.T) {
	certificate, key := testbed.Certificate(t)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	var received atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 1 && r.ProtoMajor == 2 {
			received.Add(1)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	const otlp = "OTEL_EXPORTER_OTLP_"
	if log := sendOne(t, otlp+"ENDPOINT="+server.URL); received.Load() != 0 || !strings.Contains(log,
		"unknown authority") {
		t.Errorf("without certificates: %s", log)
	}
	log := sendOne(t, otlp+"CERTIFICATE="+certificate, otlp+"CLIENT_CERTIFICATE="+certificate, otlp+"CLIENT_KEY="+key,
		otlp+"INSECURE=true") // meant for gRPC; the scheme decides
	if received.Load() != 1 || log != "" {
		t.Errorf("%d received; %s", received.Load(), log)
	}
	// A collector without TLS is no mistake: there is nothing to check against the certificate.
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) }))
	defer plain.Close()
	if log := sendOne(t, otlp+"TRACES_ENDPOINT="+plain.URL); received.Load() != 2 || log != "" {
		t.Errorf("%d received; %s", received.Load(), log)
	}
}

// A fakeExporter fails with err.
type fakeExporter struct{ err error }

func (f *fakeExporter) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return f.err }
func (f *fakeExporter) Shutdown(context.Context) error                             { return nil }

func TestOneLineForEachChangeOfState(t *testing.T) {
	var log strings.Builder
	fake := &fakeExporter{}
	e := &exporter{
		SpanExporter: fake, transport: &transport{Transport: &http.Transport{}},
		log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	for _, step := range []struct {
		err    error
		status int64
		line   string
	}{
		{nil, 200, ""},
		{errors.New("body: s3cr3t"), 401, `level=WARN .*reason="status 401"`},
		{errors.New("body: s3cr3t"), 401, ""},
		{context.DeadlineExceeded, 0, ""},
		{nil, 200, "level=INFO"},
		{nil, 200, ""},
		{errors.New("partial success: s3cr3t"), 200, "rejected spans"},
	} {
		log.Reset()
		fake.err = step.err
		e.transport.status.Store(step.status)
		if err := e.ExportSpans(t.Context(), nil); !errors.Is(err, step.err) {
			t.Errorf("%v, not %v", err, step.err)
		}
		if got := log.String(); strings.Count(got, "\n") != min(1, len(step.line)) ||
			!regexp.MustCompile(step.line).MatchString(got) || strings.Contains(got, "s3cr3t") {
			t.Errorf("%v: %q", step.err, got)
		}
	}
}

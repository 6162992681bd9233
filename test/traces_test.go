package test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"token-sidecar/internal/testbed"
)

// A collector receives traces by OTLP, and keeps everything it was sent in raw.
type collector struct {
	mu         sync.Mutex
	raw        strings.Builder
	spans      []*tracepb.Span
	token      string
	compressed int
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintln(&c.raw, r.Method, r.URL, r.Host, r.Header)
	content := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		c.compressed++
		content, _ = gzip.NewReader(content)
	}
	body, _ := io.ReadAll(content)
	c.raw.Write(body)
	var data tracepb.TracesData // has the same encoding as an ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &data); err != nil || r.URL.Path != "/v1/traces" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.token = r.Header.Get("X-Token")
	for _, resource := range data.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
}

// TestTraces: a call by the app, the lookup in Redis and the call to the auth service are one trace, which the app
// began and which identifies no user.
func TestTraces(t *testing.T) {
	received := &collector{}
	server := httptest.NewServer(received)
	defer server.Close()
	redis := testbed.StartRedis(t)
	seen := make(chan string, 10)
	auth := testbed.StartAuth(t)
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Traceparent") + r.Header.Get("Baggage")
		auth.ServeHTTP(w, r)
	}))
	defer spy.Close()
	s := testbed.StartSidecar(t, auth.Environ("HUMANAPI_AUTH_URL="+spy.URL, "REDIS_URL="+redis.URL(),
		"OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL, "OTEL_EXPORTER_OTLP_TRACES_HEADERS=X-Token=let%20me",
		"OTEL_EXPORTER_OTLP_HEADERS=no-name-but-a-key", // ignored, and quoted by the library's own log
		"OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_SERVICE_NAME=my-sidecar")...)
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	const asked = 3 // hits are part of a trace too
	token := ""
	for range asked {
		token = mustGet(t, s, "policy-4711-0815", "Traceparent", "00-"+traceID+"-00f067aa0ba902b7-01", "Baggage",
			"user=policy-4711-0815").Token
	}
	if got := <-seen; !strings.HasPrefix(got, "00-"+traceID) || strings.Contains(got, "policy") {
		t.Errorf("the auth service was told %q", got)
	}
	s.Signal(syscall.SIGTERM)
	s.Wait()
	if strings.Contains(s.Log(), "no-name-but-a-key") {
		t.Errorf("the log tells a header:\n%s", s.Log())
	}
	received.mu.Lock()
	defer received.mu.Unlock()
	names := map[string]int{}
	for _, span := range received.spans {
		if fmt.Sprintf("%x", span.GetTraceId()) == traceID {
			names[span.GetName()]++
		}
	}
	if names["GET /token"] != asked || names["HTTP POST"] == 0 ||
		names["redis.pipeline evalsha"]+names["redis.pipeline eval"] == 0 {
		t.Errorf("not all spans are in the trace: %v", names)
	}
	for _, hidden := range []string{"policy-4711-0815", token, "sandbox-secret"} {
		if strings.Contains(received.raw.String(), hidden) {
			t.Errorf("a trace tells %q", hidden)
		}
	}
	if received.compressed == 0 || received.token != "let me" || !strings.Contains(received.raw.String(), "my-sidecar") {
		t.Error("compression, headers or the name of the service are not as set")
	}
}

func TestTracesAreOffUnlessAskedFor(t *testing.T) {
	for _, value := range []string{
		"OTEL_TRACES_EXPORTER=zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_EXPORTER_OTLP_ENDPOINT=nowhere", "OTEL_EXPORTER_OTLP_TIMEOUT=1s",
	} {
		name, _, _ := strings.Cut(value, "=")
		if out, errs, code := tool(t, testbed.StartAuth(t).Environ(value), "config"); code != 1 || !strings.Contains(errs,
			name+": ") {
			t.Errorf("%s: exit %d %s%s", value, code, out, errs)
		}
	}
	received := &collector{}
	server := httptest.NewServer(received)
	defer server.Close()
	s := testbed.StartSidecar(t, testbed.StartAuth(t).Environ("OTEL_SDK_DISABLED=true",
		"OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)...)
	mustGet(t, s, "alice")
	s.Signal(syscall.SIGTERM)
	if s.Wait() != 0 || len(received.spans) != 0 {
		t.Error("traces were sent though they are off")
	}
}

package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"token-sidecar/internal/health"
)

// An exporter exports what clean leaves of each span. It logs when that begins to fail and when it works again.
type exporter struct {
	sdktrace.SpanExporter
	transport *transport
	failing   atomic.Bool
	log       *slog.Logger
}

// newExporter returns an exporter that sends to the collector. The library reads headers, compression and encoding from
// the environment, but not two other things. Not the endpoint: the library would default to https, and would let a
// variable for gRPC (OTEL_EXPORTER_OTLP_INSECURE) turn an https endpoint into plain http. And not the client: the
// library's follows redirects, and sends the API key in OTEL_EXPORTER_OTLP_HEADERS to wherever they lead.
func newExporter(ctx context.Context, c config, log *slog.Logger) (*exporter, error) {
	transport := &transport{Transport: c.transport()}
	client := &http.Client{
		Transport: transport, Timeout: c.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	next, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(c.endpoint), otlptracehttp.WithHTTPClient(client),
		otlptracehttp.WithTLSClientConfig(nil)) // the client has them; here they would break plain http
	if err != nil {
		return nil, fmt.Errorf("traces cannot be sent: %w", err)
	}
	return &exporter{SpanExporter: next, transport: transport, log: log}, nil
}

// ExportSpans implements [sdktrace.SpanExporter].
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	cleaned := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, span := range spans {
		cleaned[i] = clean(span)
	}
	err := e.SpanExporter.ExportSpans(ctx, cleaned)
	switch {
	case err != nil && !e.failing.Swap(true):
		e.log.Warn("traces cannot be sent and are lost, tokens do not depend on them; check OTEL_EXPORTER_OTLP_* and the collector",
			slog.String("reason", e.reason(err)))
	case err == nil && e.failing.Swap(false):
		e.log.Info("traces are sent again")
	}
	return err
}

// Shutdown implements [sdktrace.SpanExporter].
func (e *exporter) Shutdown(ctx context.Context) error {
	defer e.transport.CloseIdleConnections()
	return e.SpanExporter.Shutdown(ctx)
}

// reason repeats nothing of err: it names the URL, and quotes the collector's answer, which may repeat the API key.
// net/http quotes a malformed answer as well.
func (e *exporter) reason(err error) string {
	switch status := e.transport.status.Load(); {
	case status >= http.StatusMultipleChoices:
		return fmt.Sprintf("status %d", status)
	case status == 0:
		return health.NetworkCause(err)
	}
	return "the collector rejected spans"
}

// A transport remembers the status of the last answer, which the library's errors omit; 0 if there was no answer.
type transport struct {
	*http.Transport
	status atomic.Int64
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(r)
	if err != nil {
		t.status.Store(0)
		return nil, err
	}
	t.status.Store(int64(res.StatusCode))
	return res, nil
}

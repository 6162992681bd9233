// Package tracing sends traces by OTLP, configured by the standard OTEL_* variables. Without them it does nothing and
// costs nothing.
//
// Of what a caller sent, a trace contains only the trace id: no path, query, method, header or body, and no Redis
// command; hence no secret, token or user id. One place decides what is exported, whatever the instrumentation records:
// the exporter (allowlist.go).
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// Tracing wraps the parts that create spans. The zero Tracing is off and wraps nothing.
type Tracing struct{ provider *sdktrace.TracerProvider }

// Start begins to send traces, if environ asks for it by naming an endpoint or the exporter otlp. environ must be the
// process's own, because the libraries read most of OTEL_* from there.
func Start(ctx context.Context, environ []string, version string, log *slog.Logger) (Tracing, error) {
	c, err := read(environ)
	if err != nil || !c.wanted {
		return Tracing{}, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {
		log.Debug("spans were lost; tokens do not depend on them") // the exporter logs why
	}))
	otel.SetLogger(logr.Discard()) // it quotes the variables, including API keys
	exporter, err := newExporter(ctx, c, log)
	if err != nil {
		return Tracing{}, err
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("token-sidecar"), semconv.ServiceVersion(version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return Tracing{}, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return Tracing{sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))}, nil
}

// stopLimit bounds how long shutting down waits for the last traces to be sent.
const stopLimit = 2 * time.Second

// Stop sends the remaining spans.
func (t Tracing) Stop(ctx context.Context) {
	if t.provider != nil {
		ctx, cancel := context.WithTimeout(ctx, stopLimit)
		defer cancel()
		_ = t.provider.Shutdown(ctx)
	}
}

// Handler wraps the calls on LISTEN_ADDR, which join the trace of the app.
func (t Tracing) Handler(h http.Handler) http.Handler {
	if t.provider == nil {
		return h
	}
	routed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trace.SpanFromContext(r.Context()).SetAttributes(semconv.HTTPRoute(route(r.URL.Path)))
		h.ServeHTTP(w, r)
	})
	return otelhttp.NewHandler(routed, "token-sidecar", otelhttp.WithTracerProvider(t.provider),
		otelhttp.WithPropagators(traceparent{}))
}

// Transport wraps the calls to the auth service, which receive the trace id.
func (t Tracing) Transport(next http.RoundTripper) http.RoundTripper {
	if t.provider == nil {
		return next
	}
	return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(traceparent{}))
}

// Redis adds spans for what client does, without the commands, which contain names and values.
func (t Tracing) Redis(client redis.UniversalClient) error {
	if t.provider == nil || client == nil {
		return nil
	}
	return redisotel.InstrumentTracing(client, redisotel.WithTracerProvider(t.provider), redisotel.WithDBStatement(false),
		redisotel.WithCallerEnabled(false))
}

// traceparent reads and forwards the header traceparent alone. Tracestate and baggage are the app's own and could
// contain anything.
type traceparent struct{ propagation.TraceContext }

func (p traceparent) Extract(ctx context.Context, header propagation.TextMapCarrier) context.Context {
	return p.TraceContext.Extract(ctx, onlyTraceparent{header})
}

type onlyTraceparent struct{ propagation.TextMapCarrier }

func (h onlyTraceparent) Get(key string) string {
	if key != "traceparent" {
		return ""
	}
	return h.TextMapCarrier.Get(key)
}

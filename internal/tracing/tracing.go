// Package tracing sends traces by OTLP, as the standard OTEL_* variables say. Without them it does nothing and
// costs nothing.
//
// Spans carry no query, no body and no Redis command: no secret, token or user id.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/extra/redisotel/v9"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// The variables that decide whether there are traces. The rest of OTEL_* is the SDK's business.
const (
	disabledVar = "OTEL_SDK_DISABLED"
	exporterVar = "OTEL_TRACES_EXPORTER"
	protocolVar = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProto = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	endpointVar = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesPoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
)

// Tracing wraps the parts that have spans. The zero Tracing is off and wraps nothing.
type Tracing struct{ provider *trace.TracerProvider }

// propagator takes in and hands on the trace alone. Baggage is the app's own and could hold anything.
var propagator = propagation.TraceContext{}

// Check reports every variable in environ whose value is not supported.
func Check(environ []string) error {
	given := parse(environ)
	var errs []error
	oneOf := func(name string, allowed ...string) {
		if v := given[name]; v != "" && !slices.Contains(allowed, v) {
			errs = append(errs, fmt.Errorf("%s: %q is not supported; use %s", name, v, strings.Join(allowed, " or ")))
		}
	}
	oneOf(exporterVar, "otlp", "none")
	oneOf(protocolVar, "http/protobuf")
	oneOf(tracesProto, "http/protobuf")
	oneOf(disabledVar, "true", "false")
	if _, err := newExporter(given); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func parse(environ []string) map[string]string {
	given := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			given[name] = value
		}
	}
	return given
}

// Start begins to send traces, if environ asks for it: by naming an endpoint, or the exporter otlp.
func Start(ctx context.Context, environ []string, version string, log *slog.Logger) (Tracing, error) {
	if err := Check(environ); err != nil {
		return Tracing{}, err
	}
	given := parse(environ)
	wanted := given[exporterVar] == "otlp" || given[endpointVar] != "" || given[tracesPoint] != ""
	if !wanted || given[exporterVar] == "none" || given[disabledVar] == "true" {
		return Tracing{}, nil
	}
	exporter, err := newExporter(given)
	if err != nil {
		return Tracing{}, err
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("token-sidecar"), semconv.ServiceVersion(version)), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return Tracing{}, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {
		log.Debug("traces could not be sent; tokens do not depend on it")
	}))
	return Tracing{trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))}, nil
}

// stopLimit bounds how long the end waits for the last traces to be sent.
const stopLimit = 2 * time.Second

// Stop sends what is left.
func (t Tracing) Stop(ctx context.Context) {
	if t.provider != nil {
		ctx, cancel := context.WithTimeout(ctx, stopLimit)
		defer cancel()
		_ = t.provider.Shutdown(ctx)
	}
}

// Handler wraps the calls on LISTEN_ADDR: they join the trace of the app.
func (t Tracing) Handler(h http.Handler) http.Handler {
	if t.provider == nil {
		return h
	}
	return otelhttp.NewHandler(h, "token-sidecar", otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(propagator),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + knownPath(r.URL.Path) }))
}

// knownPath keeps span names few.
func knownPath(path string) string {
	if slices.Contains([]string{"/token", "/v1/connect/token", "/v1/admin/token"}, path) {
		return path
	}
	return "unknown"
}

// Transport wraps the calls to the auth service, which are told of the trace.
func (t Tracing) Transport(next http.RoundTripper) http.RoundTripper {
	if t.provider == nil {
		return next
	}
	return otelhttp.NewTransport(next, otelhttp.WithTracerProvider(t.provider), otelhttp.WithPropagators(propagator))
}

// Redis adds spans to what client does; without the commands, which hold names and values.
func (t Tracing) Redis(client redis.UniversalClient) error {
	if t.provider == nil || client == nil {
		return nil
	}
	return redisotel.InstrumentTracing(client, redisotel.WithTracerProvider(t.provider), redisotel.WithDBStatement(false), redisotel.WithCallerEnabled(false))
}

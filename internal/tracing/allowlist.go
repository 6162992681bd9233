package tracing

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// clean returns what may be exported of span. It is built from scratch, so that what is not copied here is not sent:
// events, links and the texts of errors, which quote what failed; tracestate, which is the caller's; and every
// attribute unknown to [allow].
func clean(span sdktrace.ReadOnlySpan) sdktrace.ReadOnlySpan {
	attributes := make([]attribute.KeyValue, 0, len(span.Attributes()))
	for _, kv := range span.Attributes() {
		if value, ok := allow(span.SpanKind(), kv); ok {
			attributes = append(attributes, attribute.KeyValue{Key: kv.Key, Value: value})
		}
	}
	// A stub is the only span of the SDK that can be assembled.
	return tracetest.SpanStub{
		Name:        name(span, attribute.NewSet(attributes...)),
		SpanContext: span.SpanContext().WithTraceState(trace.TraceState{}),
		Parent:      span.Parent().WithTraceState(trace.TraceState{}),
		SpanKind:    span.SpanKind(),
		StartTime:   span.StartTime(),
		EndTime:     span.EndTime(),
		Attributes:  attributes,
		Status:      sdktrace.Status{Code: span.Status().Code},

		Resource:             span.Resource(),
		InstrumentationScope: span.InstrumentationScope(),
	}.Snapshot()
}

// allow is the allow-list. It returns the value with which kv may be exported, one of a known set; ok is false if kv
// must not be exported.
func allow(kind trace.SpanKind, kv attribute.KeyValue) (value attribute.Value, ok bool) {
	text := kv.Value.AsString()
	known := func(values ...string) bool { return slices.Contains(values, text) }
	switch kv.Key {
	case semconv.HTTPRequestMethodKey:
		if !known("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE") {
			return attribute.StringValue(otherMethod), true
		}
		return kv.Value, true
	case semconv.HTTPRouteKey:
		return attribute.StringValue(route(text)), true
	case semconv.HTTPResponseStatusCodeKey, "db.redis.num_cmd":
		return kv.Value, kv.Value.Type() == attribute.INT64
	case semconv.NetworkProtocolVersionKey:
		return kv.Value, known("1.0", "1.1", "2", "2.0")
	case semconv.URLSchemeKey:
		return kv.Value, known("http", "https")
	case "db.system":
		return kv.Value, known("redis")
	case "token_sidecar.outcome":
		return kv.Value, isWords(text)
	case semconv.ServerAddressKey, semconv.ServerPortKey:
		return kv.Value, kind == trace.SpanKindClient // configured; incoming, it is the Host header
	}
	return kv.Value, false
}

const (
	otherMethod = "_OTHER" // as in the semantic conventions
	unknown     = "unknown"
)

// route returns path if it is the path of a call, else unknown.
func route(path string) string {
	switch path {
	case "/token", "/v1/connect/token", "/v1/admin/token":
		return path
	}
	return unknown
}

// name names a server's span by its attributes, which must be clean. The names of other spans are our own, by what they
// call: "HTTP POST", "evalsha", "redis.pipeline get pttl".
func name(span sdktrace.ReadOnlySpan, attributes attribute.Set) string {
	if span.SpanKind() == trace.SpanKindServer {
		method, _ := attributes.Value(semconv.HTTPRequestMethodKey)
		route, _ := attributes.Value(semconv.HTTPRouteKey)
		return strings.Replace(method.AsString(), otherMethod, "HTTP", 1) + " " + route.AsString()
	}
	if !isWords(span.Name()) {
		return unknown
	}
	return span.Name()
}

// isWords reports whether s consists of plain words: an id has a digit, a sign, or a greater length.
func isWords(s string) bool {
	const signs = " ._"
	return s != "" && len(s) <= 100 && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(signs, r)
	}) < 0
}

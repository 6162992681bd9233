package tracing

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// marker stands for what identifies a user.
const marker = "marker4711x"

func TestOnlyKnownValuesLeave(t *testing.T) {
	const server, client = trace.SpanKindServer, trace.SpanKindClient
	for _, c := range []struct {
		kind trace.SpanKind
		in   attribute.KeyValue
		want any // nil: dropped
	}{
		{server, attribute.String("http.request.method", "DELETE"), "DELETE"},
		{server, attribute.String("http.request.method", marker), "_OTHER"},
		{server, attribute.String("http.request.method", "get"), "_OTHER"},
		{client, attribute.String("http.request.method", "POST"), "POST"},
		{server, attribute.String("http.request.method_original", marker), nil},
		{server, attribute.String("http.route", "/token"), "/token"},
		{server, attribute.String("http.route", "/v1/connect/token"), "/v1/connect/token"},
		{server, attribute.String("http.route", "/v1/admin/token"), "/v1/admin/token"},
		{server, attribute.String("http.route", "/token/"+marker), "unknown"},
		{server, attribute.Int("http.response.status_code", 421), int64(421)},
		{server, attribute.String("http.response.status_code", marker), nil},
		{server, attribute.String("network.protocol.version", "1.1"), "1.1"},
		{server, attribute.String("network.protocol.version", marker), nil},
		{server, attribute.String("url.scheme", "http"), "http"},
		{server, attribute.String("url.scheme", marker), nil},
		{server, attribute.String("token_sidecar.outcome", "hit_memory"), "hit_memory"},
		{server, attribute.String("token_sidecar.outcome", marker), nil},
		{server, attribute.String("server.address", marker), nil},
		{server, attribute.Int("server.port", 4711), nil},
		{client, attribute.String("server.address", "auth.humanapi.co"), "auth.humanapi.co"},
		{client, attribute.Int("server.port", 6379), int64(6379)},
		{client, attribute.String("db.system", "redis"), "redis"},
		{client, attribute.String("db.system", marker), nil},
		{client, attribute.Int("db.redis.num_cmd", 2), int64(2)},
		{client, attribute.String("db.statement", "get "+marker), nil},
		{client, attribute.String("db.connection_string", "redis://"+marker), nil},
		{client, attribute.String("url.full", "https://auth.humanapi.co/"+marker), nil},
		{client, attribute.String("error.type", marker), nil},
		{server, attribute.String("url.path", "/token"), nil},
		{server, attribute.String("url.query", marker), nil},
		{server, attribute.String("user_agent.original", marker), nil},
		{server, attribute.String("client.address", marker), nil},
		{server, attribute.String("network.peer.address", "127.0.0.1"), nil},
		{server, attribute.Int("http.request.body.size", 4711), nil},
		{server, attribute.StringSlice("http.request.header.x-user", []string{marker}), nil},
		{server, attribute.StringSlice("http.request.method", []string{marker}), "_OTHER"},
		{server, attribute.String(marker, "a"), nil},
	} {
		t.Run(fmt.Sprint(c.in.Key, "=", c.in.Value.AsInterface()), func(t *testing.T) {
			out := clean(tracetest.SpanStub{SpanKind: c.kind, Attributes: []attribute.KeyValue{c.in}}.Snapshot()).Attributes()
			var got any
			if len(out) > 0 {
				got = out[0].Value.AsInterface()
			}
			if got != c.want || len(out) > 1 || (got != nil && out[0].Key != c.in.Key) {
				t.Errorf("%v leaves, want %v", out, c.want)
			}
		})
	}
}

func TestNamesOfSpans(t *testing.T) {
	method, route := attribute.String("http.request.method", "GET"), attribute.String("http.route", "/token")
	for _, c := range []struct {
		kind       trace.SpanKind
		name       string
		attributes []attribute.KeyValue
		want       string
	}{
		{trace.SpanKindServer, marker, []attribute.KeyValue{method, route}, "GET /token"},
		{trace.SpanKindServer, "GET", []attribute.KeyValue{
			attribute.String("http.request.method", marker),
			attribute.String("http.route", "/"+marker),
		}, "HTTP unknown"},
		{trace.SpanKindClient, "HTTP POST", nil, "HTTP POST"},
		{trace.SpanKindClient, "redis.pipeline get pttl", nil, "redis.pipeline get pttl"},
		{trace.SpanKindClient, "get " + marker, nil, "unknown"},
		{trace.SpanKindClient, strings.Repeat("a", 101), nil, "unknown"},
		{trace.SpanKindInternal, "", nil, "unknown"},
	} {
		got := clean(tracetest.SpanStub{SpanKind: c.kind, Name: c.name, Attributes: c.attributes}.Snapshot()).Name()
		if got != c.want {
			t.Errorf("%q is sent as %q, want %q", c.name, got, c.want)
		}
	}
}

// TestWhatElseASpanHolds: structural parts of a trace stay; everything else that could quote a caller is dropped.
func TestWhatElseASpanHolds(t *testing.T) {
	state, err := trace.ParseTraceState(marker + "=" + marker)
	if err != nil {
		t.Fatal(err)
	}
	at := func(span byte) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{span}, TraceFlags: trace.FlagsSampled, TraceState: state,
			Remote: span == 2,
		})
	}
	said := []attribute.KeyValue{attribute.String("exception.message", marker)}
	began := time.Unix(1, 0)
	in := tracetest.SpanStub{
		Name: marker, SpanContext: at(3), Parent: at(2), SpanKind: trace.SpanKindClient, StartTime: began,
		EndTime:    began.Add(time.Second),
		Attributes: said, Status: sdktrace.Status{Code: codes.Error, Description: marker},
		Events:               []sdktrace.Event{{Name: marker, Attributes: said}},
		Links:                []sdktrace.Link{{SpanContext: at(4), Attributes: said}},
		Resource:             resource.NewSchemaless(attribute.String("service.name", "mine")),
		InstrumentationScope: instrumentation.Scope{Name: "otelhttp", Version: "1"},
	}
	out := tracetest.SpanStubFromReadOnlySpan(clean(in.Snapshot()))
	if told := fmt.Sprintf("%+v %v %v", out, out.SpanContext.TraceState(), out.Parent.TraceState()); strings.Contains(told,
		marker) {
		t.Errorf("the marker leaves: %s", told)
	}
	if len(out.Events)+len(out.Links) != 0 || out.Status != (sdktrace.Status{Code: codes.Error}) {
		t.Errorf("%+v", out)
	}
	if !out.SpanContext.Equal(in.SpanContext.WithTraceState(trace.TraceState{})) ||
		!out.Parent.Equal(in.Parent.WithTraceState(trace.TraceState{})) ||
		out.SpanKind != in.SpanKind || !out.StartTime.Equal(in.StartTime) || !out.EndTime.Equal(in.EndTime) ||
		!slices.Equal(out.Resource.Attributes(), in.Resource.Attributes()) ||
		out.InstrumentationScope != in.InstrumentationScope {
		t.Errorf("%+v became %+v", in, out)
	}
}

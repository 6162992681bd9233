package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// exporter sends spans by OTLP over HTTP in binary protobuf. The SDK's own one links gRPC, which would double
// the size of the program.
type exporter struct {
	endpoint string
	header   http.Header
	client   *http.Client
}

// newExporter reads the variables of the OTLP exporter specification.
func newExporter(given map[string]string) (*exporter, error) {
	first := func(names ...string) (name, value string) {
		for _, name := range names {
			if given[name] != "" {
				return name, given[name]
			}
		}
		return names[len(names)-1], ""
	}
	e := &exporter{header: http.Header{}, client: &http.Client{Timeout: 10 * time.Second}}
	name, endpoint := first(tracesPoint, endpointVar)
	switch {
	case endpoint == "":
		endpoint = "http://localhost:4318/v1/traces"
	case name == endpointVar:
		endpoint = strings.TrimSuffix(endpoint, "/") + "/v1/traces"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%s: is no URL of the form http://host:4318", name)
	}
	e.endpoint = endpoint
	name, headers := first("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
	for pair := range strings.SplitSeq(headers, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return nil, fmt.Errorf("%s: must be name=value, separated by commas", name) // it may hold a credential
		}
		e.header.Add(strings.TrimSpace(key), value)
	}
	if name, timeout := first("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"); timeout != "" {
		ms, err := strconv.ParseUint(timeout, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no number of milliseconds", name, timeout)
		}
		e.client.Timeout = time.Duration(ms) * time.Millisecond
	}
	name, file := first("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
	if file == "" {
		return e, nil
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names it
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: there is no PEM certificate in the file", name)
	}
	e.client.Transport = &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}
	return e, nil
}

// ExportSpans implements [trace.SpanExporter].
func (e *exporter) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	// An ExportTraceServiceRequest has the same form as TracesData.
	body, err := proto.Marshal(convert(spans))
	if err != nil {
		return fmt.Errorf("traces cannot be encoded: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.endpoint, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("traces cannot be sent: %w", err)
	}
	req.Header = e.header.Clone()
	req.Header.Set("Content-Type", "application/x-protobuf")
	res, err := e.client.Do(req)
	if err != nil {
		return errors.New("traces cannot be sent: no answer")
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	if res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("traces cannot be sent: status %d", res.StatusCode)
	}
	return nil
}

// Shutdown implements [trace.SpanExporter].
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// convert groups spans by their scope, as all have the same resource.
func convert(spans []trace.ReadOnlySpan) *tracepb.TracesData {
	if len(spans) == 0 {
		return &tracepb.TracesData{}
	}
	scopes := map[string]*tracepb.ScopeSpans{}
	all := &tracepb.ResourceSpans{Resource: &resourcepb.Resource{Attributes: attributes(spans[0].Resource().Attributes())}}
	for _, span := range spans {
		scope := span.InstrumentationScope()
		group := scopes[scope.Name]
		if group == nil {
			group = &tracepb.ScopeSpans{Scope: &commonpb.InstrumentationScope{Name: scope.Name, Version: scope.Version}}
			scopes[scope.Name] = group
			all.ScopeSpans = append(all.ScopeSpans, group)
		}
		group.Spans = append(group.Spans, convertSpan(span))
	}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{all}}
}

func convertSpan(span trace.ReadOnlySpan) *tracepb.Span {
	id, traceID := span.SpanContext().SpanID(), span.SpanContext().TraceID()
	out := &tracepb.Span{
		TraceId: traceID[:], SpanId: id[:], TraceState: span.SpanContext().TraceState().String(), Name: span.Name(),
		Kind:              tracepb.Span_SpanKind(span.SpanKind()), //nolint:gosec // the same five values
		StartTimeUnixNano: nanos(span.StartTime()), EndTimeUnixNano: nanos(span.EndTime()), Attributes: attributes(span.Attributes()),
	}
	if parent := span.Parent().SpanID(); parent.IsValid() {
		out.ParentSpanId = parent[:]
	}
	// Events and the texts of errors are left out: they quote what failed.
	switch span.Status().Code {
	case codes.Error:
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	case codes.Ok:
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_OK}
	case codes.Unset:
	}
	return out
}

func nanos(t time.Time) uint64 { return uint64(t.UnixNano()) }

func attributes(list []attribute.KeyValue) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, 0, len(list))
	for _, kv := range list {
		value := &commonpb.AnyValue{}
		switch kv.Value.Type() {
		case attribute.BOOL:
			value.Value = &commonpb.AnyValue_BoolValue{BoolValue: kv.Value.AsBool()}
		case attribute.INT64:
			value.Value = &commonpb.AnyValue_IntValue{IntValue: kv.Value.AsInt64()}
		case attribute.FLOAT64:
			value.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: kv.Value.AsFloat64()}
		default:
			value.Value = &commonpb.AnyValue_StringValue{StringValue: kv.Value.String()}
		}
		out = append(out, &commonpb.KeyValue{Key: string(kv.Key), Value: value})
	}
	return out
}

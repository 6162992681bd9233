package tracing

import (
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

func TestCheckNamesEachMistake(t *testing.T) {
	certificate, key := testbed.Certificate(t)
	const otlp = "OTEL_EXPORTER_OTLP_"
	for _, c := range []struct{ environ, want string }{ // want: the variables that are named
		{"", ""},
		{"OTEL_SDK_DISABLED=maybe", "OTEL_SDK_DISABLED"},
		{"OTEL_TRACES_EXPORTER=zipkin", "OTEL_TRACES_EXPORTER"},
		{otlp + "PROTOCOL=grpc", otlp + "PROTOCOL"},
		{otlp + "PROTOCOL=grpc " + otlp + "TRACES_PROTOCOL=http/protobuf", ""}, // other signals may use gRPC
		{otlp + "PROTOCOL=http/json", ""},
		{otlp + "TRACES_PROTOCOL=x", otlp + "TRACES_PROTOCOL"},
		{otlp + "COMPRESSION=gzip", ""},
		{otlp + "COMPRESSION=zstd", otlp + "COMPRESSION"},
		{otlp + "ENDPOINT=https://collector:4318/base/", ""},
		{otlp + "ENDPOINT=collector:4318", otlp + "ENDPOINT"},
		{otlp + "ENDPOINT=collector:4317 " + otlp + "TRACES_ENDPOINT=http://collector:4318", ""},
		{otlp + "TRACES_ENDPOINT=ftp://a", otlp + "TRACES_ENDPOINT"},
		{otlp + "ENDPOINT=https://user:s3cr3t@collector", otlp + "ENDPOINT"},
		{otlp + "ENDPOINT=https://collector/?key=s3cr3t", otlp + "ENDPOINT"},
		{otlp + "HEADERS=a=b,,c=%20d,", ""},
		{otlp + "HEADERS=s3cr3t", otlp + "HEADERS"},
		{otlp + "HEADERS=a=s3cr3t%zz", otlp + "HEADERS"},
		{otlp + "HEADERS=a=s3cr3t%0A", ""}, // the library trims it too
		{otlp + "HEADERS=a=s3cr3t%0Ab", otlp + "HEADERS"},
		{otlp + "TRACES_HEADERS=a:s3cr3t=x", otlp + "TRACES_HEADERS"},
		{otlp + "TIMEOUT=1s", otlp + "TIMEOUT"},
		{otlp + "TIMEOUT=-1", otlp + "TIMEOUT"},
		{otlp + "TIMEOUT=0", ""},
		{otlp + "CERTIFICATE=" + certificate, ""},
		{otlp + "CERTIFICATE=" + key, otlp + "CERTIFICATE"},
		{otlp + "TRACES_CERTIFICATE=/nowhere", otlp + "TRACES_CERTIFICATE"},
		{otlp + "CLIENT_CERTIFICATE=" + certificate + " " + otlp + "CLIENT_KEY=" + key, ""},
		{otlp + "CLIENT_CERTIFICATE=" + certificate, otlp + "CLIENT_KEY"},
		{otlp + "CLIENT_KEY=" + key, otlp + "CLIENT_CERTIFICATE"},
		{otlp + "CLIENT_CERTIFICATE=" + key + " " + otlp + "CLIENT_KEY=" + key, otlp + "CLIENT_CERTIFICATE"},
		{"OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.25", ""},
		{"OTEL_TRACES_SAMPLER=jaeger_remote OTEL_TRACES_SAMPLER_ARG=endpoint=http://a", "OTEL_TRACES_SAMPLER"},
		{"OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=NaN", "OTEL_TRACES_SAMPLER_ARG"},
		{"OTEL_BSP_MAX_QUEUE_SIZE=-1", "OTEL_BSP_MAX_QUEUE_SIZE"},
		{"OTEL_BSP_SCHEDULE_DELAY=0", "OTEL_BSP_SCHEDULE_DELAY"},
		{"OTEL_RESOURCE_ATTRIBUTES=a=b,c=d", ""},
		{"OTEL_RESOURCE_ATTRIBUTES=a=b,c", "OTEL_RESOURCE_ATTRIBUTES"},
		{
			"OTEL_TRACES_EXPORTER=x " + otlp + "TIMEOUT=x OTEL_BSP_EXPORT_TIMEOUT=x",
			"OTEL_TRACES_EXPORTER OTEL_BSP_EXPORT_TIMEOUT " + otlp + "TIMEOUT",
		},
	} {
		t.Run(c.environ, func(t *testing.T) {
			var named []string
			if err := Check(strings.Fields(c.environ)); err != nil {
				for line := range strings.SplitSeq(err.Error(), "\n") {
					name, _, _ := strings.Cut(line, ": ")
					named = append(named, name)
				}
				if strings.Contains(err.Error(), "s3cr3t") {
					t.Errorf("quotes a credential: %v", err)
				}
			}
			if got := strings.Join(named, " "); got != c.want {
				t.Errorf("%q is named, want %q", got, c.want)
			}
		})
	}
}

// TestNoValueIsQuoted: whichever variable is wrong.
func TestNoValueIsQuoted(t *testing.T) {
	names := Variables()
	if len(names) < 20 {
		t.Errorf("only %q", names)
	}
	for _, name := range names {
		for _, value := range []string{"s3cr3t", "https://u:s3cr3t@h", "https://h?k=s3cr3t", "s3cr3t=%zz", "/s3cr3t"} {
			err := Check([]string{name + "=" + value, "OTEL_TRACES_SAMPLER=traceidratio"})
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Error(err)
			}
		}
	}
}

func TestEndpointAndWhetherThereAreTraces(t *testing.T) {
	const otlp = "OTEL_EXPORTER_OTLP_"
	for environ, want := range map[string]struct {
		wanted   bool
		endpoint string
	}{
		"":                          {false, "http://localhost:4318/v1/traces"},
		"OTEL_TRACES_EXPORTER=otlp": {true, "http://localhost:4318/v1/traces"},
		"OTEL_TRACES_EXPORTER=none " + otlp + "ENDPOINT=http://a": {false, "http://a/v1/traces"},
		"OTEL_SDK_DISABLED=true " + otlp + "ENDPOINT=http://a":    {false, "http://a/v1/traces"},
		otlp + "ENDPOINT=https://a:1/base/":                       {true, "https://a:1/base/v1/traces"},
		otlp + "TRACES_ENDPOINT=https://a/as/it/is":               {true, "https://a/as/it/is"},
		otlp + "TRACES_ENDPOINT=http://a " + otlp + "ENDPOINT=b":  {true, "http://a"},
	} {
		if c, err := read(strings.Fields(environ)); err != nil || c.wanted != want.wanted || c.endpoint != want.endpoint {
			t.Errorf("%q: %v, %v %q", environ, err, c.wanted, c.endpoint)
		}
	}
}

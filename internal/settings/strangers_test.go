package settings

import (
	"slices"
	"strings"
	"testing"
)

// TestStrangers: every setting with any single typing mistake is recognised; correct variables are left alone.
func TestStrangers(t *testing.T) {
	for _, name := range names() {
		for i := range len(name) {
			for kind, typed := range map[string]string{
				"left out": name[:i] + name[i+1:],
				"replaced": name[:i] + "Q" + name[i+1:],
				"added":    name[:i] + "Q" + name[i:],
				"swapped":  name[:i] + swapped(name[i:]),
				"lower":    strings.ToLower(name),
				"hyphens":  strings.ReplaceAll(name, "_", "-"),
				"joined":   strings.ReplaceAll(name, "_", ""),
			} {
				found := Strangers([]string{typed + "=x"})
				if typed != name && !slices.Contains(names(), typed) && (len(found) != 1 || found[0] != Stranger{typed, name}) {
					t.Errorf("%s, %s: %v", kind, typed, found)
				}
			}
		}
		if found := Strangers([]string{name + "=x"}); len(found) > 0 {
			t.Errorf("a setting itself: %v", found)
		}
	}
	for typed, meant := range map[string]string{
		"LISTEN_ADDRESS": "LISTEN_ADDR", "HUMANAPI_SECRET": "HUMANAPI_CLIENT_SECRET", "REDIS_URI": "REDIS_URL",
		"UPSTREAM_ATTEMPTS": "UPSTREAM_MAX_ATTEMPTS", "OTEL_EXPORTER_OLTP_ENDPOINT": "OTEL_EXPORTER_OTLP_ENDPOINT",
		"MEMORY_CACHE_ENTRIES": "MEMORY_CACHE_SIZE",
	} {
		found := Strangers([]string{typed + "=x"}, "OTEL_EXPORTER_OTLP_ENDPOINT")
		if len(found) != 1 || found[0].Meant != meant && typed != "MEMORY_CACHE_ENTRIES" ||
			!strings.Contains(found[0].String(), typed) || !strings.Contains(found[0].String(), meant) {
			t.Errorf("%s: %v", typed, found)
		}
	}
	if found := Strangers([]string{
		// A pod's own.
		"PATH=/bin", "HOME=/", "HOSTNAME=pod-1", "TERM=xterm", "LANG=C", "GOMEMLIMIT=1GiB", "GOGC=50", "GODEBUG=x=1",
		"SSL_CERT_FILE=/x", "HTTPS_PROXY=x", "POD_NAME=x", "NODE_NAME=x", "LOG_FILE=x", "TOKEN=x", "LOG_LEVEL_ROOT=x",
		// A service called redis, one called humanapi-mock, one called upstream.
		"REDIS_SERVICE_HOST=10.0.0.1", "REDIS_SERVICE_PORT=6379", "REDIS_SERVICE_PORT_REDIS=6379",
		"REDIS_PORT=tcp://10.0.0.1:6379", "REDIS_PORT_6379_TCP=tcp://10.0.0.1:6379", "REDIS_PORT_6379_TCP_PROTO=tcp",
		"REDIS_PORT_6379_TCP_PORT=6379", "REDIS_PORT_6379_TCP_ADDR=10.0.0.1", "HUMANAPI_MOCK_SERVICE_HOST=10.0.0.1",
		"HUMANAPI_MOCK_PORT=tcp://10.0.0.1:80", "UPSTREAM_PORT_53_UDP=udp://10.0.0.1:53",
		"UPSTREAM_PORT_53_UDP_ADDR=10.0.0.1",
		"KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443",
		// OpenTelemetry variables that others use.
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=x", "OTEL_LOGS_EXPORTER=none", "OTEL_METRICS_EXPORTER=none",
		// Not set.
		"REDIS_URI=",
	}, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"); len(found) > 0 {
		t.Errorf("no mistakes: %v", found)
	}
}

func swapped(s string) string {
	if len(s) < 2 {
		return s
	}
	return s[1:2] + s[:1] + s[2:]
}

package test

import (
	"fmt"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestFastPathIsASetting: the log says whether it is on. Traces, which cover all requests, and an audit log turn it
// off.
func TestFastPathIsASetting(t *testing.T) {
	auth := testbed.StartAuth(t)
	key := "AUDIT_KEY_FILE=" + testbed.WriteFile(t, "key", auditKey)
	for setting, want := range map[string]bool{
		"": true, "FAST_PATH=true": true, "FAST_PATH=false": false, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1": false,
		"AUDIT_LOG=stdout": false,
	} {
		environ := auth.Environ(setting)
		if strings.HasPrefix(setting, "AUDIT_LOG=") {
			environ = append(environ, key)
		}
		s := testbed.StartSidecar(t, environ...)
		for range 3 {
			mustGet(t, s, "alice")
		}
		testbed.Until(t, fmt.Sprintf("with %q the log has fast_path %v", setting, want), func() bool {
			return strings.Contains(s.Log(), fmt.Sprintf(`"fast_path":%v`, want))
		})
	}
}

package test

import (
	"encoding/json"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestStartLine: one line says what runs, and hides neither too little nor too much.
func TestStartLine(t *testing.T) {
	auth := testbed.StartAuth(t)
	keys := testbed.WriteFile(t, "keys", strings.Repeat("A", 43)+"=")
	for name, c := range map[string]struct {
		environ []string
		want    map[string]any
	}{
		"by default": {nil, map[string]any{
			"product": "connect", "redis": "not used: memory only", "breaker_failures": 5., "breaker_open_for": "30s",
			"callers_authenticate": false, "own_encryption": false, "audit": false, "fast_path": true,
			"auth_service": strings.TrimPrefix(auth.URL, "http://"),
		}},
		"otherwise": {[]string{
			"HUMANAPI_PRODUCT=hip", "REDIS_URL=redis://:hunter2@127.0.0.1:1", "ENCRYPTION_KEYS_FILE=" + keys,
			"CALLER_TOKEN_FILE=" + testbed.WriteFile(t, "caller", "hunter2"), "AUDIT_LOG=stdout", "AUDIT_KEY_FILE=" + keys,
		}, map[string]any{
			"product": "hip", "redis": "single", "callers_authenticate": true, "own_encryption": true, "audit": true,
			"fast_path": false,
		}},
	} {
		s := testbed.StartSidecar(t, auth.Environ(c.environ...)...)
		testbed.Until(t, "the line is written", func() bool { return strings.Contains(s.Log(), `"msg":"serving"`) })
		lines := strings.Split(strings.TrimSpace(grep(s.Log(), `"msg":"serving"`)), "\n")
		var said map[string]any
		if err := json.Unmarshal([]byte(lines[0]), &said); err != nil || len(lines) != 1 {
			t.Fatalf("%s: %v, %q", name, err, lines)
		}
		c.want["listen_addr"], c.want["admin_addr"] = s.Addr, s.Admin
		for field, want := range c.want {
			if said[field] != want {
				t.Errorf("%s: %s is %v in place of %v", name, field, said[field], want)
			}
		}
		for _, secret := range []string{"hidden", "hunter2", "sandbox-secret"} {
			if strings.Contains(lines[0], secret) {
				t.Errorf("%s: %q in %s", name, secret, lines[0])
			}
		}
	}
}

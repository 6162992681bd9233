package test

import (
	"path/filepath"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestGeneratedCallerToken: whoever can read the file that the sidecar wrote gets tokens, and nobody else does.
func TestGeneratedCallerToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "caller-token")
	s := testbed.StartSidecar(t, testbed.StartAuth(t).Environ("CALLER_TOKEN_GENERATE=true", "CALLER_TOKEN_FILE="+path)...)
	if status, body := s.Fetch("http://" + s.Addr + "/token?client_user_id=alice"); status != 401 ||
		!strings.Contains(body, "CALLER_TOKEN_REQUIRED") {
		t.Errorf("%d %s", status, body)
	}
	token := testbed.ReadFile(t, path)
	if res := s.Get("alice", "Authorization", "Bearer "+token); res.Status != 200 {
		t.Errorf("%+v", res)
	}
	if strings.Contains(s.Log(), token) {
		t.Error("the token is in the log")
	}
}

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// TestANewCallerTokenIsTakenAtOnce: whoever has read it from the file may use it, however the file was written.
func TestANewCallerTokenIsTakenAtOnce(t *testing.T) {
	path := testbed.WriteFile(t, "caller-token", "token-0")
	s := testbed.StartSidecar(t, testbed.StartAuth(t).Environ("CALLER_TOKEN_FILE="+path)...)
	for i := 1; i < 6; i++ {
		token, before := fmt.Sprint("token-", i), "Bearer token-"+fmt.Sprint(i-1)
		written := path
		if i%2 == 0 {
			written += ".new"
		}
		if err := os.WriteFile(written, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(written, path); err != nil {
			t.Fatal(err)
		}
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				if r := s.Get("alice", "Authorization", "Bearer "+token); r.Status != 200 {
					t.Errorf("%s: %d %s", token, r.Status, r.Body)
				}
			})
		}
		callers.Wait()
		if r := s.Get("alice", "Authorization", before); r.Status != 401 {
			t.Errorf("the one before %s: %d %s", token, r.Status, r.Body)
		}
	}
}

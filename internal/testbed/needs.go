package testbed

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Needs skips the test if one of those programs or files is not installed, so that go test ./... needs only Go. Under
// make test, which installs them all, it fails instead, so that nothing is skipped by mistake.
func Needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		_, err := exec.LookPath(program)
		if filepath.IsAbs(program) {
			_, err = os.Stat(program)
		}
		if err == nil {
			continue
		}
		if os.Getenv("SKIP_NO_TESTS") != "" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed; make test installs it and runs all tests", program)
	}
}

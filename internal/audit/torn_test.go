package audit

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestTornLine: an incomplete line does not spoil the next one.
func TestTornLine(t *testing.T) {
	path := testbed.WriteFile(t, "audit.log", `{"audit":1,"time":"20`)
	trail := openTrail(t, path)
	if err := record(t, trail, "after"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(testbed.ReadFile(t, path), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], pseudonym(t, "after")) || !json.Valid([]byte(lines[1])) {
		t.Errorf("%q", lines)
	}
	var written strings.Builder
	torn := tear(false)
	if err := torn.write(cutting{&written, 5}, []byte("12345678\n")); err == nil {
		t.Error("no error")
	}
	if err := torn.write(&written, []byte("next\n")); err != nil || written.String() != "12345\nnext\n" {
		t.Errorf("%v, %q", err, written.String())
	}
}

// cutting is a writer with room for that many bytes.
type cutting struct {
	to   *strings.Builder
	room int
}

func (c cutting) Write(b []byte) (int, error) {
	n, _ := c.to.Write(b[:min(len(b), c.room)])
	return n, syscall.ENOSPC
}

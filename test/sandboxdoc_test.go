package test

import (
	"bufio"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// TestSandboxDoc runs every example of docs/sandbox.md against token-sidecar sandbox, and compares what it prints with
// what the page shows.
func TestSandboxDoc(t *testing.T) {
	testbed.Needs(t, "bash", "curl", "openssl")
	addr := testbed.FreeAddr(t)
	program := testbed.Command(context.WithoutCancel(t.Context()), nil, "sandbox", "--addr", addr)
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = program.Process.Signal(os.Interrupt)
		if err := program.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, addr) {
		t.Fatalf("it says %q, %v", line, err)
	}

	page := strings.ReplaceAll(testbed.ReadFile(t, "docs/sandbox.md"), "127.0.0.1:8090", addr)
	examples := testbed.Console(t, page)
	if examples < 40 {
		t.Errorf("only %d examples found", examples)
	}
}

// TestSandboxDocNamesEverything: the page names every field and fault.
func TestSandboxDocNamesEverything(t *testing.T) {
	page := testbed.ReadFile(t, "docs/sandbox.md")
	for _, name := range append(sandbox.Faults(), sandbox.Fields()...) {
		if !regexp.MustCompile("(?m)^\\|[^|]*`" + name + "`").MatchString(page) {
			t.Errorf("%s is in no table", name)
		}
	}
}

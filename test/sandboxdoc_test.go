package test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
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
	dir, defined, examples := t.TempDir(), "", 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			if regexp.MustCompile(`^[a-z]+\(\) \{`).MatchString(command) {
				defined += command + "\n"
				continue
			}
			cmd := exec.CommandContext(t.Context(), "bash", "-c", defined+command)
			cmd.Dir = dir
			got, err := cmd.Output()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if !matches(want, strings.ReplaceAll(string(got), "\r", "")) {
				t.Errorf("$ %s\n%s\nwant:\n%s", command, got, want)
			}
			examples++
		}
	}
	if examples < 40 {
		t.Errorf("only %d examples found", examples)
	}
}

// TestSandboxDocNamesEverything that the sandbox can be told.
func TestSandboxDocNamesEverything(t *testing.T) {
	page := testbed.ReadFile(t, "docs/sandbox.md")
	for _, name := range append(sandbox.Faults(), sandbox.Fields()...) {
		if !regexp.MustCompile("(?m)^\\|[^|]*`" + name + "`").MatchString(page) {
			t.Errorf("%s is in no table", name)
		}
	}
}

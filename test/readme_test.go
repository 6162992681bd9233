package test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
)

// TestReadme runs every command of the README against the sidecar that make run starts, and compares what it prints
// with what the README shows; … matches anything.
func TestReadme(t *testing.T) {
	testbed.Needs(t, "bash", "curl", "make")
	readme := testbed.ReadFile(t, "README.md")
	t.Run("make targets", func(t *testing.T) {
		targets := regexp.MustCompile(`make (run|test|help|[a-z]+-[a-z]+)\b`).FindAllStringSubmatch(readme, -1)
		if len(targets) < 3 {
			t.Fatalf("found %v", targets)
		}
		for _, target := range targets {
			if out, err := exec.Command("make", "-n", target[1]).CombinedOutput(); err != nil {
				t.Errorf("make %s: %s", target[1], out)
			}
		}
	})
	tools := testbed.InPath(t, "token-sidecar")
	sidecar := testbed.Command(t.Context(), []string{"UPSTREAM_TIMEOUT=300ms", "BREAKER_FAILURES=100"}, "serve",
		"--sandbox")
	var log strings.Builder
	sidecar.Stdout, sidecar.Stderr = &log, &log
	if err := sidecar.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sidecar.Process.Signal(os.Interrupt)
		if err := sidecar.Wait(); err != nil {
			t.Errorf("make run ended with %v:\n%s", err, &log)
		}
	}()
	path := "PATH=" + tools + ":" + os.Getenv("PATH")
	testbed.Eventually(t, "it is ready", func() error {
		return exec.Command(tools+"/token-sidecar", "healthcheck").Run()
	})
	if commands := testbed.Console(t, readme, path); commands < 12 {
		t.Errorf("only %d commands found", commands)
	}
}

// TestReadmeAndSettings: the README gives the right defaults for the settings it names.
func TestReadmeAndSettings(t *testing.T) {
	readme := testbed.ReadFile(t, "README.md")
	s, _ := settings.Load(nil)
	named := 0
	for _, setting := range s.List(nil) {
		row := regexp.MustCompile("(?m)^\\|[^|]*`" + setting.Name + "`[^|]*\\|([^|]*)\\|").FindStringSubmatch(readme)
		if row == nil {
			continue
		}
		named++
		if setting.Value == "" {
			continue
		}
		if !strings.Contains(row[1], "`"+setting.Value+"`") && !sameDuration(row[1], setting.Value) {
			t.Errorf("%s: the README says %q, the default is %s", setting.Name, row[1], setting.Value)
		}
	}
	if named == 0 {
		t.Error("the README names no setting")
	}
}

func sameDuration(row, value string) bool {
	want, err := time.ParseDuration(value)
	if err != nil {
		return false
	}
	got, err := time.ParseDuration(strings.Trim(strings.TrimSpace(row), "`"))
	return err == nil && got == want
}

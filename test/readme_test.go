package test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/settings"
	"token-sidecar/internal/testbed"
)

// TestReadme runs every command of the README against the sidecar that make run starts, and compares what it
// prints with what the README shows; … stands for anything.
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
	sh := func(script string) (string, error) {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", script)
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		return strings.ReplaceAll(string(out), "\r", ""), err
	}
	testbed.Eventually(t, "it is ready", func() error {
		_, err := sh("token-sidecar healthcheck")
		return err
	})
	commands := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		assignments := ""
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			got, err := sh(assignments + command)
			if regexp.MustCompile(`^[A-Z]+=`).MatchString(command) {
				assignments += command + "\n"
			}
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if !matches(want, got) || err != nil {
				t.Errorf("$ %s\n%swant:\n%s(%v)", command, got, want, err)
			}
			commands++
		}
	}
	if commands < 30 {
		t.Errorf("only %d commands found", commands)
	}
}

// matches compares got with a text in which … stands for anything.
func matches(want, got string) bool {
	parts := strings.Split(strings.TrimSpace(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

// TestReadmeAndSettings: the defaults of the settings that the README names are right.
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

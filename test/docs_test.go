package test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"token-sidecar/internal/testbed"
)

// pages are those of the documentation, by their paths.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "charts/*/*.md", "examples/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if path != "CHANGELOG.md" { // which tells of former versions too
				all[path] = testbed.ReadFile(t, path)
			}
		}
	}
	if len(all) < 15 {
		t.Fatalf("only %d pages found", len(all))
	}
	return all
}

// TestEveryConsoleIsRun: the console blocks of each page are run by a test. Those with commands for a cluster are run
// on one, by TestCommands in test/e2e/charts, which finds them by itself.
func TestEveryConsoleIsRun(t *testing.T) {
	var tests []string
	for _, pattern := range []string{"test/*_test.go", "test/e2e/*/*_test.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if source := testbed.ReadFile(t, path); strings.Contains(source, "Console(t, ") {
				tests = append(tests, source)
			}
		}
	}
	for path, page := range pages(t) {
		commands := testbed.ConsoleCommands(page)
		onCluster := slices.ContainsFunc(commands, regexp.MustCompile(`^(kubectl|helm) `).MatchString)
		run := slices.ContainsFunc(tests, func(source string) bool {
			return strings.Contains(source, `ReadFile(t, "`+path+`")`)
		})
		if len(commands) > 0 && !onCluster && !run {
			t.Errorf("%s: nothing runs %q", path, commands)
		}
		if n := len(regexp.MustCompile(`(?m)^ *\$ `).FindAllString(page, -1)); n != len(commands) {
			t.Errorf("%s: %d commands are in console blocks, of %d", path, len(commands), n)
		}
	}
}

// TestAuditPage runs the commands of docs/audit.md.
func TestAuditPage(t *testing.T) {
	dir := t.TempDir()
	key := base64.StdEncoding.EncodeToString([]byte("an-example-key-of-thirty-two-byte"))
	if err := os.WriteFile(filepath.Join(dir, "audit.key"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	path := testbed.InPath(t, "token-sidecar") + ":" + os.Getenv("PATH")
	shell := testbed.Shell{Dir: dir, Environ: []string{"PATH=" + path}}
	if n := shell.Console(t, testbed.ReadFile(t, "docs/audit.md")); n != 1 {
		t.Errorf("%d commands", n)
	}
}

// TestCommandsInText: what pages name outside of console blocks is there. The program and make take it as far as they go
// without doing it; of go test, the tests are there. Commands for a cluster are run on one.
func TestCommandsInText(t *testing.T) {
	testbed.Needs(t, "bash", "make", "openssl")
	shell := testbed.Shell{Environ: []string{"PATH=" + testbed.InPath(t, "token-sidecar") + ":" + os.Getenv("PATH")}}
	names := regexp.MustCompile(`func ((?:Test|Benchmark)\w+)\(`)
	var tests []string
	grep := exec.CommandContext(t.Context(), "grep", "-rhE", "--include=*_test.go", `^func (Test|Benchmark)`, ".")
	out, err := grep.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names.FindAllStringSubmatch(string(out), -1) {
		tests = append(tests, name[1])
	}
	tried := map[string]bool{}
	for path, page := range pages(t) {
		commands := testbed.OtherCommands(page, "make", "token-sidecar", "openssl", "go test")
		for _, command := range commands {
			if tried[command] {
				continue
			}
			tried[command] = true
			switch program, _, _ := strings.Cut(command, " "); program {
			case "make":
				shell.Run(t, strings.Replace(command, "make", "make -n", 1))
			case "token-sidecar":
				out, errs, code := tool(t, nil, append(strings.Fields(command)[1:], "--help")...)
				if words := regexp.MustCompile(`^[a-z -]*[a-z]`).FindString(command); code != 0 || !strings.Contains(out,
					strings.SplitN(words, " --", 2)[0]) {
					t.Errorf("%s: %s: exit %d, %s%s", path, command, code, out, errs)
				}
			case "openssl":
				shell.Run(t, command)
			case "go":
				flag := regexp.MustCompile(`-(?:run|bench) '?([\w$]+)`).FindStringSubmatch(command)
				if flag != nil && !slices.ContainsFunc(tests, func(name string) bool {
					return regexp.MustCompile("^(Test|Benchmark)?" + flag[1]).MatchString(name)
				}) {
					t.Errorf("%s: there is no test for %s", path, command)
				}
			}
		}
	}
	if len(tried) < 30 {
		t.Errorf("only %d commands found", len(tried))
	}
}

// TestRedisCommandsInText gives a real Redis the commands that pages name.
func TestRedisCommandsInText(t *testing.T) {
	redis := testbed.StartRedis(t).Client()
	if err := redis.Do(t.Context(), "ACL", "SETUSER", "token-sidecar", ">old").Err(); err != nil { // the one to rotate
		t.Fatal(err)
	}
	found := 0
	for path, page := range pages(t) {
		for _, command := range testbed.OtherCommands(page, "ACL", "INFO", "SCRIPT", "SLOWLOG") {
			var args []any
			for word := range strings.FieldsSeq(command) {
				args = append(args, word)
			}
			if err := redis.Do(t.Context(), args...).Err(); err != nil && !strings.HasPrefix(err.Error(), "NOTBUSY ") {
				t.Errorf("%s: %s: %v", path, command, err)
			}
			found++
		}
	}
	if found < 7 {
		t.Errorf("only %d commands found", found)
	}
}

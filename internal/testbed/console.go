package testbed

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Console runs the commands in the console blocks of a documentation page with bash, and compares what each prints with
// what the page shows; … matches anything. A variable assigned from the output of a command keeps its value until the
// end of the block, a function until the end of the page. It returns the number of commands.
func Console(t testing.TB, page string, environ ...string) (commands int) {
	t.Helper()
	Needs(t, "bash")
	var functions strings.Builder
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(page, -1) {
		assignments := ""
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			if regexp.MustCompile(`^[a-z]+\(\) \{`).MatchString(command) {
				functions.WriteString(command + "\n")
				continue
			}
			script := functions.String() + assignments + command
			assigned := regexp.MustCompile(`^([A-Z]+)=\$\(.*\)$`).FindStringSubmatch(command)
			if assigned != nil {
				script += "\ndeclare -p " + assigned[1]
			}
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", script)
			cmd.Env = append(os.Environ(), environ...)
			out, err := cmd.Output()
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(string(out), "\r", "")
			if assigned != nil {
				assignments, got = assignments+got, ""
			}
			if !shows(want, got) || err != nil {
				t.Errorf("$ %s\n%swant:\n%s(%v)", command, got, want, err)
			}
			commands++
		}
	}
	return commands
}

// shows compares got with a text in which … matches anything.
func shows(want, got string) bool {
	parts := strings.Split(strings.TrimSpace(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

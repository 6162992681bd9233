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

// Console runs the commands of the console blocks in a page of documentation with bash, and compares what each prints
// with what the page shows; … stands for anything. A variable to which a block assigns the output of a command keeps it
// until the block's end, and a function until the page's. It returns how many commands there are.
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

// shows compares got with a text in which … stands for anything.
func shows(want, got string) bool {
	parts := strings.Split(strings.TrimSpace(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?s)^` + strings.Join(parts, ".*") + `$`).MatchString(strings.TrimSpace(got))
}

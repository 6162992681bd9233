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

// A Shell runs the commands of documentation with bash.
type Shell struct {
	// Dir is where they run. Default: the test's folder.
	Dir string
	// Environ adds to the test's environment.
	Environ []string
	// MayFail reports whether a command may have failed with that output and error output. Default: none may.
	MayFail func(output string) bool
}

// Console runs the console blocks of a page with a [Shell] that has that environment.
func Console(t testing.TB, page string, environ ...string) (commands int) {
	t.Helper()
	return Shell{Environ: environ}.Console(t, page)
}

// Console runs the commands of the console blocks in a page of documentation, and compares what each prints with what
// the page shows; … stands for anything. A variable to which a block assigns the output of a command keeps it until the
// block's end, and a function until the page's. It returns how many commands there are.
func (s Shell) Console(t testing.TB, page string) (commands int) {
	t.Helper()
	var functions strings.Builder
	for _, block := range consoleBlock().FindAllStringSubmatch(page, -1) {
		assignments := ""
		for _, step := range steps(block[1]) {
			if regexp.MustCompile(`^[a-z]+\(\) \{`).MatchString(step.command) {
				functions.WriteString(step.command + "\n")
				continue
			}
			script := functions.String() + assignments + step.command
			assigned := regexp.MustCompile(`^([A-Z]+)=\$\(.*\)$`).FindStringSubmatch(step.command)
			if assigned != nil {
				script += "\ndeclare -p " + assigned[1]
			}
			got, complaints, err := s.run(t, script)
			if assigned != nil {
				assignments, got = assignments+got, ""
			}
			failed := err != nil && (s.MayFail == nil || !s.MayFail(got+complaints))
			if failed || err == nil && !shows(step.want, got) {
				t.Errorf("$ %s\n%s%swant:\n%s(%v)", step.command, got, complaints, step.want, err)
			}
			commands++
		}
	}
	return commands
}

// Run runs one command, and fails the test if that fails.
func (s Shell) Run(t testing.TB, command string) {
	t.Helper()
	got, complaints, err := s.run(t, command)
	if err != nil && (s.MayFail == nil || !s.MayFail(got+complaints)) {
		t.Errorf("$ %s\n%s%s(%v)", command, got, complaints, err)
	}
}

func (s Shell) run(t testing.TB, script string) (output, complaints string, err error) {
	t.Helper()
	Needs(t, "bash")
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", script)
	cmd.Dir, cmd.Env = s.Dir, append(os.Environ(), s.Environ...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), "\r", ""), stderr.String(), err
}

func consoleBlock() *regexp.Regexp { return regexp.MustCompile("(?s)```console\n(.*?)```") }

// A step is a command of a console block, and what the page shows that it prints.
type step struct{ command, want string }

// steps are those of a block. A command ends with its line, unless that ends with a backslash.
func steps(block string) (all []step) {
	for _, text := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, want, _ := strings.Cut(text, "\n")
		for strings.HasSuffix(command, `\`) {
			var more string
			more, want, _ = strings.Cut(want, "\n")
			command += "\n" + more
		}
		all = append(all, step{command, want})
	}
	return all
}

// ConsoleCommands are the commands of a page's console blocks.
func ConsoleCommands(page string) (commands []string) {
	for _, block := range consoleBlock().FindAllStringSubmatch(page, -1) {
		for _, step := range steps(block[1]) {
			commands = append(commands, step.command)
		}
	}
	return commands
}

// OtherCommands are the commands that a page has outside of its blocks of code with a language: in its text, or in
// indented lines. They are those that begin with one of the programs.
func OtherCommands(page string, programs ...string) (commands []string) {
	text := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(page, "")
	begin := `(?:` + strings.Join(programs, "|") + `)\s`
	found := regexp.MustCompile("(?m)`("+begin+"[^`]+)`|^    ("+begin+".*)$").FindAllStringSubmatch(text, -1)
	for _, command := range found {
		commands = append(commands, strings.Join(strings.Fields(command[1]+command[2]), " "))
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

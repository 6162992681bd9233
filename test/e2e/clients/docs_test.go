package clients

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"

	"token-sidecar/internal/testbed"
)

// tools is an environment for following the documentation: the program, and a python3 with requests, are in PATH.
func tools(t *testing.T) (environ []string) {
	t.Helper()
	testbed.Needs(t, "bash", "curl", "go", "node", "javac", debianPython, requestsFolder)
	dir := testbed.InPath(t, "token-sidecar")
	if err := os.Symlink(debianPython, filepath.Join(dir, "python3")); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
}

// TestClientsPage runs every command in docs/clients.md with the sidecar that make run starts.
func TestClientsPage(t *testing.T) {
	environ := tools(t)
	start(t)
	t.Cleanup(func() { _ = os.Remove("/tmp/caller-token") })
	page := testbed.ReadFile(t, "docs/clients.md")
	written := len(regexp.MustCompile(`(?m)^\$ `).FindAllString(page, -1))
	if commands := testbed.Console(t, page, environ...); commands < 20 || commands != written {
		t.Errorf("%d commands of %d were run", commands, written)
	}
}

// TestExamplesPage: the commands in examples/README.md are in docs/clients.md too, and so are tested.
func TestExamplesPage(t *testing.T) {
	localhost(t, "127.0.0.1")
	run := testbed.ReadFile(t, "docs/clients.md")
	commands := regexp.MustCompile("`([^`]+) USER \\[PATH\\]`").FindAllStringSubmatch(
		testbed.ReadFile(t, "examples/README.md"), -1)
	for _, command := range commands {
		if !strings.Contains(run, " "+command[1]+" alice /sandbox\n") {
			t.Errorf("%s is not run", command[1])
		}
	}
	if len(commands) != 4 {
		t.Errorf("%d commands", len(commands))
	}
}

// TestQuotes: docs/clients.md quotes the examples correctly.
func TestQuotes(t *testing.T) {
	localhost(t, "127.0.0.1")
	quotes := regexp.MustCompile("(?s)\nOf \\[([^]]+)\\]\\(\\.\\./([^)]+)\\):\n\n```[a-z]+\n(.*?)```\n").FindAllStringSubmatch(
		testbed.ReadFile(t, "docs/clients.md"), -1)
	if len(quotes) != 4 {
		t.Errorf("%d quotes", len(quotes))
	}
	for _, quote := range quotes {
		if quote[1] != quote[2] || !strings.Contains(testbed.ReadFile(t, quote[1]), quote[3]) {
			t.Errorf("%s does not say:\n%s", quote[1], quote[3])
		}
	}
}

// TestErrorsPage: docs/clients.md says what to do about each errorCode.
func TestErrorsPage(t *testing.T) {
	localhost(t, "127.0.0.1")
	page := testbed.ReadFile(t, "docs/clients.md")
	for code := range errorCodes(t) {
		if !regexp.MustCompile("(?m)^\\| [0-9x, ]+ \\|[^|]*`" + code + "`").MatchString(page) {
			t.Errorf("%s is not there", code)
		}
	}
}

// TestCompose runs examples/compose.yaml as far as possible without containers: its commands with their environment, in
// one network, like the app and the sidecar there.
func TestCompose(t *testing.T) {
	testbed.Needs(t, "redis-server", "node")
	options, err := cli.NewProjectOptions([]string{"examples/compose.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context()) // validates it with the schema
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", "sandbox"} {
		if mode := project.Services[name].NetworkMode; mode != "service:sidecar" {
			t.Errorf("%s: network_mode %s", name, mode)
		}
	}
	localhost(t, "127.0.0.1", "::1")
	addHost(t, "127.0.0.1 redis")
	launch := func(cmd *exec.Cmd, environ map[string]*string) {
		for name, value := range environ {
			cmd.Env = append(cmd.Env, name+"="+*value)
		}
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	ctx := context.WithoutCancel(t.Context())
	redis, sandbox, sidecar, app := project.Services["redis"], project.Services["sandbox"], project.Services["sidecar"],
		project.Services["app"]
	server := exec.CommandContext(ctx, redis.Command[0], redis.Command[1:]...)
	server.Dir = t.TempDir()
	launch(server, nil)
	launch(testbed.Command(ctx, nil, sandbox.Command...), sandbox.Environment)
	launch(testbed.Command(ctx, nil, sidecar.Command...), sidecar.Environment)
	check := sidecar.HealthCheck.Test
	if check[0] != "CMD" || check[1] != "/token-sidecar" {
		t.Fatalf("%v", check)
	}
	testbed.Eventually(t, "it is healthy", func() error { return testbed.Command(ctx, nil, check[2:]...).Run() })
	testbed.Until(t, "it uses Redis", func() bool {
		_, metrics, _ := fetch(http.MethodGet, admin+"/metrics", "")
		return strings.Contains(metrics, "\ntoken_sidecar_redis_up 1\n")
	})
	volume := app.Volumes[0]
	for i, arg := range app.Command {
		app.Command[i] = strings.Replace(arg, volume.Target+"/", volume.Source+"/", 1)
	}
	client := exec.CommandContext(ctx, app.Command[0], app.Command[1:]...)
	client.Env = os.Environ()
	for name, value := range app.Environment {
		client.Env = append(client.Env, name+"="+*value)
	}
	if out, err := client.CombinedOutput(); err != nil || !strings.Contains(string(out), `"tokens":1`) {
		t.Errorf("%v: %s", err, out)
	}
}

// addHost adds a line to /etc/hosts, as [localhost] wrote it.
func addHost(t *testing.T, line string) {
	t.Helper()
	file := os.Getenv(ownNetwork)
	if err := os.WriteFile(file, []byte(testbed.ReadFile(t, file)+line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"token-sidecar/internal/testbed"
)

// tool runs the program with args and returns what it wrote and its exit code.
func tool(t testing.TB, environ []string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := testbed.Command(context.WithoutCancel(t.Context()), environ, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestTools(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ()...)
	at := []string{"LISTEN_ADDR=" + s.Addr, "ADMIN_ADDR=" + s.Admin}
	token := mustGet(t, s, "alice").Token
	nobody := []string{"LISTEN_ADDR=" + testbed.FreeAddr(t), "ADMIN_ADDR=" + testbed.FreeAddr(t)}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		environ []string
		args    []string
		code    int
		out     string
		errs    string
	}{
		"get":                 {at, []string{"get", "--user", "alice"}, 0, "expires_in", ""},
		"get, shown":          {at, []string{"get", "--user", "alice", "--show"}, 0, token, ""},
		"get, client":         {at, []string{"get", "--type", "client"}, 0, "client_token", ""},
		"get, session":        {at, []string{"get", "--user", "a", "--type", "session", "--email", "a@b"}, 0, "session_token", ""},
		"get, on one line":    {at, []string{"get", "--user", "alice", "--json"}, 0, `{"access_token":"sbx.…","expires_in":`, ""},
		"get, no such field":  {at, []string{"get", "--user", "alice", "--field", "x"}, 1, "", "it has access_token, expires_in,"},
		"get, refused":        {at, []string{"get", "--user", "unknown-x"}, 1, "", "UNKNOWN_CLIENT_USER_ID (status 404): "},
		"get, no sidecar":     {[]string{"LISTEN_ADDR=" + s.Admin}, []string{"get", "--user", "alice"}, 1, "", "is not answered by a sidecar"},
		"get, nobody there":   {nobody, []string{"get", "--user", "alice"}, 1, "", "is the sidecar running?"},
		"get without user":    {at, []string{"get"}, 2, "", "--user"},
		"healthcheck":         {at, []string{"healthcheck"}, 0, "", ""},
		"healthcheck, nobody": {nobody, []string{"healthcheck"}, 1, "", "is the sidecar running?"},
		"config":              {auth.Environ(), []string{"config"}, 0, "UPSTREAM_TIMEOUT=5s", ""},
		"config, mistakes":    {[]string{"LOG_LEVEL=loud"}, []string{"config"}, 1, "REDIS_TIMEOUT=250ms", "HUMANAPI_CLIENT_ID: "},
		"version":             {nil, []string{"version"}, 0, "token-sidecar ", ""},
		"--version":           {nil, []string{"--version"}, 0, "token-sidecar ", ""},
		"help":                {nil, []string{"--help"}, 0, "healthcheck", ""},
		"unknown command":     {nil, []string{"sevre"}, 2, "", `there is no command "sevre"; did you mean serve?`},
		"strange command":     {nil, []string{"dance"}, 2, "", `there is no command "dance"` + "\n"},
		"help of a command":   {nil, []string{"help", "get"}, 0, "token-sidecar get", ""},
		"help of no command":  {nil, []string{"help", "sevre"}, 2, "", `there is no command "sevre"; did you mean serve?`},
		"help of too much":    {nil, []string{"help", "get", "alice"}, 2, "", `get takes no argument "alice"`},
		"sandbox, no address": {nil, []string{"sandbox", "--addr", "8090"}, 1, "", "--addr: cannot listen: it is no host:port"},
		"socket, long path":   {auth.Environ("LISTEN_ADDR=unix:///" + strings.Repeat("a", 108)), nil, 1, "", "longer than the 107 bytes"},
		"secret from a pipe":  {[]string{"HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET_FILE=" + pipe}, nil, 1, "", "write the value into a file"},
		"unknown flag":        {nil, []string{"serve", "--sandbx"}, 2, "", "serve has no flag --sandbx; did you mean --sandbox?"},
		"flag without value":  {nil, []string{"get", "--user"}, 2, "", "--user needs a value"},
		"bad value of a flag": {nil, []string{"status", "--json=maybe"}, 2, "", "--json takes true or false"},
		"argument":            {nil, []string{"get", "alice"}, 2, "", `get takes no argument "alice"`},
		"serve, mistakes":     {nil, []string{"serve"}, 1, "", "HUMANAPI_CLIENT_SECRET: "},
		"no command":          {nil, nil, 1, "", "HUMANAPI_CLIENT_ID: "},
		"address in use":      {auth.Environ("LISTEN_ADDR=" + s.Addr), nil, 1, "", "LISTEN_ADDR: "},
		"secret file missing": {[]string{"HUMANAPI_CLIENT_ID=a", "HUMANAPI_CLIENT_SECRET_FILE=/no/such"}, nil, 1, "", "HUMANAPI_CLIENT_SECRET_FILE: "},
		"bad keys":            {auth.Environ("REDIS_URL=redis://127.0.0.1:1", "ENCRYPTION_KEYS_FILE=/etc/hostname"), nil, 1, "", "ENCRYPTION_KEYS_FILE: line 1"},
		"bad CA":              {auth.Environ("HUMANAPI_CA_FILE=/etc/hostname"), nil, 1, "", "HUMANAPI_CA_FILE: "},
		"sentinel, no master": {auth.Environ("REDIS_URL=redis://127.0.0.1:1", "REDIS_MODE=sentinel"), nil, 1, "", "master_name"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := tool(t, c.environ, c.args...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) {
				t.Errorf("exit %d\n%s\n%s", code, out, errs)
			}
			if c.args != nil && c.args[len(c.args)-1] != "--show" && strings.Contains(out+errs, token) {
				t.Error("a token is printed in full")
			}
			if strings.Contains(out+errs, "sandbox-secret") {
				t.Error("the secret is printed")
			}
		})
	}
}

// TestGetIsForScripts: standard output contains the answer and nothing else.
func TestGetIsForScripts(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ()...)
	at := []string{"LISTEN_ADDR=" + s.Addr}
	for _, args := range [][]string{{"get", "--user", "alice"}, {"get", "--user", "alice", "--json", "--show"}} {
		out, errs, _ := tool(t, at, args...)
		if !strings.HasPrefix(errs, "Cache-Status: token-sidecar; ") || !json.Valid([]byte(out)) {
			t.Errorf("%q, %q", out, errs)
		}
	}
	token := mustGet(t, s, "alice").Token
	if out, _, code := tool(t, at, "get", "--user", "alice", "--field", "access_token"); out != token+"\n" || code != 0 {
		t.Errorf("%d %q", code, out)
	}
	if out, _, _ := tool(t, at, "get", "--user", "unknown-x", "--field", "access_token"); out != "" {
		t.Errorf("%q", out)
	}
}

// TestSandboxFindsAnotherPort: if the usual ones are taken; the printed commands work.
func TestSandboxFindsAnotherPort(t *testing.T) {
	testbed.Needs(t, "bash", "curl")
	for _, addr := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8090"} {
		if listener, err := net.Listen("tcp", addr); err == nil { // otherwise it is taken already
			defer func() { _ = listener.Close() }()
		}
	}
	for name, args := range map[string][]string{"emulator": {"sandbox"}, "sidecar": {"serve", "--sandbox"}} {
		t.Run(name, func(t *testing.T) {
			cmd := testbed.Command(t.Context(), nil, args...)
			var log strings.Builder
			cmd.Stderr = &log
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			said := ""
			for lines.Scan() {
				said += lines.Text() + "\n"
				if strings.Contains(lines.Text(), "Ctrl-C") || strings.Contains(lines.Text(), "client_secret") {
					break
				}
			}
			taken := strings.Count(said, " is taken by another program; port ")
			if taken != map[string]int{"emulator": 1, "sidecar": 3}[name] {
				t.Errorf("%d ports were taken:\n%s", taken, said)
			}
			tries := regexp.MustCompile(`(?m)^  [a-z ,]+: +(.*(curl| get) .*)$`).FindAllStringSubmatch(said, -1)
			if name == "sidecar" && len(tries) != 6 {
				t.Errorf("%d commands to try:\n%s", len(tries), said)
			}
			for _, try := range tries {
				cmd := exec.Command("bash", "-c", strings.Replace(try[1], "curl", "curl -sS --retry 5 --retry-connrefused", 1))
				cmd.Env = testbed.Command(t.Context(), nil).Env
				if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out)+"{}", "{") {
					t.Errorf("%s: %v, %s", try[1], err, out)
				}
			}
			_ = cmd.Process.Signal(os.Interrupt)
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			if strings.Contains(log.String(), "WARN") {
				t.Errorf("a newcomer is warned: %s", &log)
			}
		})
	}
	_, errs, code := tool(t, nil, "sandbox", "--addr", "127.0.0.1:8090")
	if code != 1 || !strings.Contains(errs, "in use") {
		t.Errorf("a port that was asked for is taken: exit %d, %s", code, errs)
	}
	if _, errs, code := tool(t, []string{"LISTEN_ADDR=127.0.0.1:8080"}, "serve", "--sandbox"); code != 1 ||
		!strings.Contains(errs, "LISTEN_ADDR: 127.0.0.1:8080 is in use") {
		t.Errorf("a port that was asked for is taken: exit %d, %s", code, errs)
	}
}

func TestEmulatorAlone(t *testing.T) {
	addr := testbed.FreeAddr(t)
	cmd := testbed.Command(t.Context(), nil, "sandbox", "--addr", addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	s := testbed.StartSidecar(t, "HUMANAPI_AUTH_URL=http://"+addr, "HUMANAPI_CLIENT_ID=sandbox-client",
		"HUMANAPI_CLIENT_SECRET=sandbox-secret")
	testbed.Until(t, "it answers", func() bool { return s.Get("alice").Status == 200 })
}

// TestNoSecretInTheWrongPlaceIsShown: a running sidecar shows none, on no page and in no log.
func TestNoSecretInTheWrongPlaceIsShown(t *testing.T) {
	const marker = "s3cr3tMarker4711"
	file := testbed.WriteFile(t, "file", marker)
	environ := testbed.StartAuth(t).Environ("HUMANAPI_CLIENT_ID="+marker, "HUMANAPI_CLIENT_SECRET=",
		"HUMANAPI_CLIENT_SECRET_FILE="+file, "CALLER_TOKEN_FILE="+file,
		"REDIS_URL=redis://"+marker+":"+marker+"@"+testbed.FreeAddr(t)+"/0",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+testbed.FreeAddr(t), "OTEL_EXPORTER_OTLP_HEADERS=key="+marker)
	s := testbed.StartSidecar(t, environ...)
	at := append(environ, "LISTEN_ADDR="+s.Addr, "ADMIN_ADDR="+s.Admin)
	got, asked, _ := tool(t, at, "get", "--user", marker)
	seen := map[string]string{"get": got + asked, "metrics": s.Metrics()}
	for _, args := range []string{"config", "status", "status --json"} {
		out, errs, _ := tool(t, at, strings.Fields(args)...)
		seen[args] = out + errs
	}
	for _, path := range []string{"/", "/status.json"} {
		_, seen[path] = s.Fetch("http://" + s.Admin + path)
	}
	s.Signal(syscall.SIGTERM)
	s.Wait()
	seen["log"] = s.Log()
	for place, text := range seen {
		if text == "" || strings.Contains(text, marker) {
			t.Errorf("%s: %s", place, text)
		}
	}
}

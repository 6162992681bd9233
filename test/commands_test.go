package test

import (
	"context"
	"encoding/json"
	"strings"
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
		"get, refused":        {at, []string{"get", "--user", "unknown-x"}, 1, "", "UNKNOWN_CLIENT_USER_ID"},
		"get, nobody there":   {nobody, []string{"get", "--user", "alice"}, 1, "", "is the sidecar running?"},
		"get without user":    {at, []string{"get"}, 2, "", "--user"},
		"healthcheck":         {at, []string{"healthcheck"}, 0, "", ""},
		"healthcheck, nobody": {nobody, []string{"healthcheck"}, 1, "", "ADMIN_ADDR"},
		"config":              {auth.Environ(), []string{"config"}, 0, "UPSTREAM_TIMEOUT=5s", ""},
		"config, mistakes":    {[]string{"LOG_LEVEL=loud"}, []string{"config"}, 1, "REDIS_TIMEOUT=250ms", "HUMANAPI_CLIENT_ID: "},
		"version":             {nil, []string{"version"}, 0, "token-sidecar ", ""},
		"help":                {nil, []string{"--help"}, 0, "healthcheck", ""},
		"unknown command":     {nil, []string{"sevre"}, 2, "", "sevre"},
		"unknown flag":        {nil, []string{"serve", "--sandbx"}, 2, "", "sandbx"},
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

func TestGetPrintsTheCacheStatusApart(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ()...)
	out, _, _ := tool(t, []string{"LISTEN_ADDR=" + s.Addr}, "get", "--user", "alice")
	body, status, found := strings.Cut(out, "\nCache-Status: ")
	if !found || !strings.HasPrefix(status, "token-sidecar; ") || !json.Valid([]byte(body)) {
		t.Errorf("%q", out)
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

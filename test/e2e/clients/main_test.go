// Package clients tests the program with real clients in other languages, its OpenAPI description, and what
// docs/clients.md and the examples show.
package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"token-sidecar/internal/cli"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// ownNetwork is set in a process with its own network and its own /etc/hosts, and names that file. The tests can thus
// use the default ports, and define localhost.
const ownNetwork = "TOKEN_SIDECAR_TEST_NETWORK"

func TestMain(m *testing.M) {
	testbed.BecomeProgram(cli.Main)
	if err := enterNetwork(); err != nil {
		panic(err)
	}
	if err := os.Chdir("../../.."); err != nil { // what is tested is the project as it is seen from its root
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.Remove(os.Getenv(ownNetwork))
		os.Exit(code)
	}))
}

// enterNetwork starts this test binary again in its own network. If that is not possible, start skips the tests.
func enterNetwork() error {
	unshare, _ := exec.LookPath("unshare")
	if unshare == "" || os.Getenv(ownNetwork) != "" {
		return nil
	}
	hosts, err := os.CreateTemp("", "hosts")
	if err != nil {
		return err
	}
	_ = hosts.Close()
	script := `ip link set lo up; mount --bind ` + hosts.Name() + ` /etc/hosts; exec "$@"`
	args := append([]string{unshare, "--map-root-user", "--net", "--mount", "sh", "-euc", script, "sh"}, os.Args...)
	return syscall.Exec(unshare, args, append(os.Environ(), ownNetwork+"="+hosts.Name()))
}

// localhost gives those addresses the name localhost.
func localhost(t testing.TB, addresses ...string) {
	t.Helper()
	testbed.Needs(t, "unshare", "ip")
	hosts := strings.Join(addresses, " localhost\n") + " localhost\n"
	if err := os.WriteFile(os.Getenv(ownNetwork), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	base  = "http://localhost:8080"
	admin = "http://127.0.0.1:8081"
)

// A service is the sidecar with the emulated auth service, on the default ports.
type service struct {
	t   testing.TB
	cmd *exec.Cmd
	log strings.Builder
}

// start runs serve --sandbox with those settings and no others. It ends with the test.
func start(t testing.TB, environ ...string) *service {
	t.Helper()
	localhost(t, "127.0.0.1", "::1") // as in a pod
	s := &service{t: t}
	s.cmd = testbed.Command(context.WithoutCancel(t.Context()), environ, "serve", "--sandbox")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Wait()
		}
		if t.Failed() || strings.Contains(s.log.String(), "DATA RACE") {
			t.Errorf("log of the sidecar:\n%s", &s.log)
		}
	})
	testbed.Eventually(t, "the sidecar is ready", func() error {
		status, _, err := fetch(http.MethodGet, admin+"/readyz", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	return s
}

// stop sends SIGTERM.
func (s *service) stop() { _ = s.cmd.Process.Signal(syscall.SIGTERM) }

// wait waits for the sidecar's end, and returns its exit code.
func (s *service) wait() int {
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

// calls returns how many calls the auth service got.
func (s *service) calls() int {
	s.t.Helper()
	var state struct{ Counts sandbox.Counts }
	_, said, err := fetch(http.MethodGet, "http://127.0.0.1:8090/sandbox", "")
	if err == nil {
		err = json.Unmarshal([]byte(said), &state)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return state.Counts.Calls
}

// fetch makes one request on a connection of its own.
func fetch(method, url, body string) (status int, said string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	return res.StatusCode, string(content), err
}

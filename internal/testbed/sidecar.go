package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// runAsProgram is the environment variable that makes a test binary run the program instead of its tests. Tests thus
// start real processes, built with the race detector, without building them.
const runAsProgram = "TOKEN_SIDECAR_RUN_AS_PROGRAM"

// BecomeProgram is for a TestMain: in a process that [Command] started, it runs the program, as main does, and exits.
func BecomeProgram(program func(context.Context) int) {
	if os.Getenv(runAsProgram) == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(program(ctx))
}

// Command returns the program with that environment, plus the test's PATH and HOME.
func Command(ctx context.Context, environ []string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append([]string{
		runAsProgram + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"GORACE=halt_on_error=1",
	}, environ...)
	return cmd
}

// InPath returns a folder that contains the program under that name, for scripts.
func InPath(t testing.TB, name string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\nexport " + runAsProgram + "=1\nexec " + exe + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A Sidecar is a running process of the program.
type Sidecar struct {
	Addr, Admin string

	t    testing.TB
	cmd  *exec.Cmd
	log  *output
	done chan error
	http *http.Client
}

var requestLine = regexp.MustCompile(`(?m)^.*"msg":"request".*\n`)

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(b)
}

// StartSidecar runs the program with that environment on free ports and waits until it is ready. It ends with the test.
func StartSidecar(t testing.TB, environ ...string) *Sidecar {
	t.Helper()
	s := LaunchSidecar(t, environ...)
	s.AwaitReady()
	return s
}

// Observe returns a Sidecar that was started elsewhere.
func Observe(t testing.TB, addr, admin string) *Sidecar {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &Sidecar{t: t, Addr: addr, Admin: admin, http: &http.Client{Transport: transport, Timeout: time.Minute}}
}

// LaunchSidecar is StartSidecar without waiting.
func LaunchSidecar(t testing.TB, environ ...string) *Sidecar {
	t.Helper()
	return launch(t, Command(context.WithoutCancel(t.Context()), nil, "serve"), environ)
}

// LaunchLogging is LaunchSidecar for a process whose output goes to out.
func LaunchLogging(t testing.TB, out *os.File, environ ...string) *Sidecar {
	t.Helper()
	cmd := Command(context.WithoutCancel(t.Context()), nil, "serve")
	cmd.Stdout, cmd.Stderr = out, out
	return launch(t, cmd, environ)
}

// LaunchBuilt is LaunchSidecar for the released program, started by command.
func LaunchBuilt(t testing.TB, command []string, environ ...string) *Sidecar {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), command[0], append(command[1:], "serve")...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return launch(t, cmd, environ)
}

func launch(t testing.TB, cmd *exec.Cmd, environ []string) *Sidecar {
	t.Helper()
	s := &Sidecar{cmd: cmd, t: t, Addr: FreeAddr(t), Admin: FreeAddr(t), log: &output{}, done: make(chan error, 1)}
	environ = append([]string{"LISTEN_ADDR=" + s.Addr, "ADMIN_ADDR=" + s.Admin, "LOG_LEVEL=debug"}, environ...)
	s.cmd.Env = append(s.cmd.Env, environ...)
	if s.cmd.Stdout == nil {
		s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DialContext: func(ctx context.Context, network,
		addr string,
	) (net.Conn, error) {
		if path := environValue(environ, "LISTEN_ADDR"); strings.HasPrefix(path, "unix://") && addr == s.Addr {
			network, addr = "unix", strings.TrimPrefix(path, "unix://")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	s.http = &http.Client{Transport: transport, Timeout: time.Minute}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Kill()
		if t.Failed() {
			t.Logf("log of the sidecar at %s:\n%s", s.Addr, requestLine.ReplaceAllString(s.Log(), ""))
		}
		if strings.Contains(s.Log(), "DATA RACE") {
			t.Errorf("a data race:\n%s", s.Log())
		}
	})
	return s
}

func environValue(environ []string, name string) (value string) {
	for _, pair := range environ {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			value = v
		}
	}
	return value
}

// AwaitReady waits until /readyz answers 200.
func (s *Sidecar) AwaitReady() {
	s.t.Helper()
	Eventually(s.t, "the sidecar is ready", func() error {
		select {
		case err := <-s.done:
			s.done <- err
			s.t.Fatalf("the sidecar ended: %v\n%s", err, s.Log())
		default:
		}
		status, _ := s.Fetch("http://" + s.Admin + "/readyz")
		if status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
}

// Log returns what the process has written so far.
func (s *Sidecar) Log() string {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.all.String()
}

// Signal sends a signal.
func (s *Sidecar) Signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// Kill ends the process at once.
func (s *Sidecar) Kill() {
	_ = s.cmd.Process.Kill()
	s.Wait()
}

// Wait waits for the process to end and returns its exit code.
func (s *Sidecar) Wait() int {
	err := <-s.done
	s.done <- err
	return s.cmd.ProcessState.ExitCode()
}

// PID returns the process's id.
func (s *Sidecar) PID() int { return s.cmd.Process.Pid }

// Fetch gets a URL; the status is 0 if there was no answer.
func (s *Sidecar) Fetch(url string) (status int, body string) {
	res, err := s.http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(content)
}

// Metrics returns the content of /metrics.
func (s *Sidecar) Metrics() string {
	_, body := s.Fetch("http://" + s.Admin + "/metrics")
	return body
}

// A Reply is a caller's answer from /token.
type Reply struct {
	Status      int // 0: no answer
	Err         error
	Token       string
	ErrorCode   string
	CacheStatus string
	Body        string
	Header      http.Header
	Closes      bool // whether it said that its connection closes
	Took        time.Duration
}

// Client returns the client with which s is asked; its connections close with the test.
func (s *Sidecar) Client() *http.Client { return s.http }

// Get asks for the token of user.
func (s *Sidecar) Get(user string, header ...string) Reply {
	return s.Do(http.MethodGet, "client_user_id="+url.QueryEscape(user), header...)
}

// Do calls /token; headers are pairs.
func (s *Sidecar) Do(method, query string, header ...string) Reply {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.Addr+"/token?"+query, nil)
	if err != nil {
		return Reply{Err: err}
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	began := time.Now()
	res, err := s.http.Do(req)
	if err != nil {
		return Reply{Err: err, Took: time.Since(began)}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	r := Reply{
		Status: res.StatusCode, Err: err, Body: string(body), Took: time.Since(began), Header: res.Header,
		Closes: res.Close, CacheStatus: res.Header.Get("Cache-Status"),
	}
	var fields struct {
		Token string `json:"access_token"`
		Code  string `json:"errorCode"`
	}
	if len(body) > 0 {
		r.Err = errors.Join(err, json.Unmarshal(body, &fields))
	}
	r.Token, r.ErrorCode = fields.Token, fields.Code
	return r
}

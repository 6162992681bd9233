package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

// runServer makes the test binary act as one of the compared servers: its arguments are the server's name, its address
// and whom it asks.
const runServer = "TOKEN_SIDECAR_RUN_SERVER"

func TestMain(m *testing.M) {
	if server := strings.Fields(os.Getenv(runServer)); len(server) > 0 {
		switch server[0] {
		case "bare":
			serveBare(server[1])
		case "oauth2":
			serveOAuth2(server[1], server[2])
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// The answer of servers that cache nothing.
const (
	cannedBody = `{"access_token":"sbx.0123456789abcdef.1796000000000.ABCDEFGHIJKLMNOPQRSTUVWXYZ",` +
		`"expires_in":86399,"refresh_token":"atrt-ABCDEFGHIJKLMNOPQRSTUVWXYZ","token_type":"Bearer"}` + "\n"
	cannedStatus = "token-sidecar; hit; ttl=86399; detail=memory"
)

// serveBare is net/http that writes the bytes of an answer, and nothing else. Below /cold it writes them to all
// concurrent callers of the same path together, after the time that the auth service would take for the first of them.
func serveBare(addr string) {
	body := []byte(cannedBody)
	json, noStore, status := []string{"application/json"}, []string{"no-store"},
		[]string{cannedStatus}
	var cold sync.Map
	server := &http.Server{Addr: addr, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/cold/") {
			answered, later := cold.LoadOrStore(r.URL.Path, make(chan struct{}))
			answer, _ := answered.(chan struct{})
			if !later {
				time.AfterFunc(authTakes, func() { close(answer) })
			}
			<-answer
		}
		h := w.Header()
		h["Content-Type"], h["Cache-Control"], h["Cache-Status"] = json, noStore, status
		_, _ = w.Write(body)
	})}
	_ = server.ListenAndServe()
}

// A target is a server under load.
type target struct {
	addr string
	pids []int
}

// callerToken is sent by the callers in the benchmarks: all guards are on.
const callerToken = "a-token-that-the-callers-of-the-benchmark-show"

func get(user string) []byte {
	return fmt.Appendf(nil,
		"GET /token?client_user_id=%s HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n\r\n", user, callerToken)
}

func post(user string) []byte {
	body := fmt.Sprintf(`{"client_user_id":%q,"type":"access","client_id":%q,"client_secret":%q}`, user,
		sandbox.DefaultClientID, sandbox.DefaultClientSecret)
	return fmt.Appendf(nil,
		"POST /v1/connect/token HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", callerToken, len(body), body)
}

// names are the users user-0 to user-(n-1).
func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "user-" + strconv.Itoa(i)
	}
	return all
}

func requests(ask func(string) []byte, users []string) [][]byte {
	all := make([][]byte, len(users))
	for i, user := range users {
		all[i] = ask(user)
	}
	return all
}

// warm asks for each user once.
func warm(t testing.TB, g target, ask func(string) []byte, users []string) {
	t.Helper()
	each := Load{Addr: g.addr, Conns: min(32, len(users)), Requests: requests(ask, users), Once: true}
	if res, err := each.Run(); err != nil || res.Failures > 0 || len(res.Latencies) != len(users) {
		t.Fatalf("%v, %d answers, %d failures: %s", err, len(res.Latencies), res.Failures, res.Sample)
	}
}

// program builds the sidecar as released.
func program(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token-sidecar")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w",
		"-o", path, ".")
	build.Dir = ".." // with the versions of the release
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// startSidecar starts the program with these settings, and the defaults for all others.
func startSidecar(t testing.TB, command []string, auth *testbed.Auth, environ ...string) (*testbed.Sidecar, target) {
	t.Helper()
	token := testbed.WriteFile(t, "caller", callerToken)
	s := testbed.LaunchBuilt(t, command,
		auth.Environ(append([]string{"CALLER_TOKEN_FILE=" + token, "LOG_LEVEL=info"}, environ...)...)...)
	s.AwaitReady()
	return s, target{addr: s.Addr, pids: []int{s.PID()}}
}

// startBare starts the bare handler.
func startBare(t testing.TB) target { return startServer(t, "bare", "") }

// startServer starts one of the servers in the test binary.
func startServer(t testing.TB, name, authURL string) target {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := testbed.FreeAddr(t)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), exe)
	cmd.Env = []string{runServer + "=" + strings.Join([]string{name, addr, authURL}, " ")}
	startProcess(t, cmd, addr)
	return target{addr: addr, pids: []int{cmd.Process.Pid}}
}

// startProcess starts a server and waits until it listens. It ends with the test.
func startProcess(t testing.TB, cmd *exec.Cmd, addr string) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	testbed.Eventually(t, cmd.Path+" listens", func() error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.WithoutCancel(t.Context()), "tcp", addr)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// nginxConf puts nginx in the place of the sidecar: no log, unlimited keepalive, one lock for each key.
const nginxConf = `
daemon off; worker_processes %[7]d; pid %[1]s/pid; error_log %[1]s/error error; worker_rlimit_nofile 20000;
events { worker_connections 15000; }
http {
  access_log off; keepalive_requests 100000000; tcp_nodelay on; default_type application/json;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  client_body_buffer_size 16k; client_body_in_single_buffer on;
  %[8]s
  proxy_cache_path %[1]s/cache levels=1:2 keys_zone=tokens:16m max_size=1g inactive=24h use_temp_path=off;
  proxy_cache tokens; proxy_cache_methods GET HEAD POST; proxy_cache_valid 200 23h; proxy_cache_lock on; proxy_ignore_headers Cache-Control Expires;
  server {
    listen %[2]s backlog=4096;
    location = /token {
      if ($http_authorization != "Bearer %[4]s") { return 401; }
      proxy_cache_key $arg_client_user_id; proxy_method POST; proxy_pass_request_headers off; proxy_set_header Content-Type application/json;
      proxy_set_body '{"client_id":"%[5]s","client_secret":"%[6]s","type":"access","client_user_id":"$arg_client_user_id"}';
      proxy_pass %[3]s/v1/connect/token; add_header Cache-Control no-store; add_header Cache-Status $upstream_cache_status;
    }
    location = /v1/connect/token {
      if ($http_authorization != "Bearer %[4]s") { return 401; }
      proxy_cache_key $request_body; proxy_pass %[3]s; add_header Cache-Control no-store; add_header Cache-Status $upstream_cache_status;
    }
  }
}
`

// keepFiles is the directive that makes nginx keep its cache files open, which is not its default.
const keepFiles = "open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h;"

// startNginx starts nginx as a cache in front of the auth service, with that directive.
func startNginx(t testing.TB, auth *testbed.Auth, directive string) target {
	t.Helper()
	testbed.Needs(t, "nginx")
	dir, addr := t.TempDir(), testbed.FreeAddr(t)
	workers := runtime.NumCPU()
	conf := fmt.Sprintf(nginxConf, dir, addr, auth.URL, callerToken, sandbox.DefaultClientID, sandbox.DefaultClientSecret,
		workers, directive)
	if os.Getuid() == 0 {
		conf = "user root;" + conf
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "nginx", "-p", dir, "-c",
		testbed.WriteFile(t, "nginx.conf", conf))
	startProcess(t, cmd, addr)
	// These are its workers. The cache manager may have ended.
	var pids []int
	testbed.Until(t, "nginx has its workers", func() bool {
		pids = []int{cmd.Process.Pid}
		for _, child := range children(t, cmd.Process.Pid) {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child)); strings.HasPrefix(string(line), "nginx: worker") {
				pids = append(pids, child)
			}
		}
		return len(pids) == 1+workers
	})
	return target{addr: addr, pids: pids}
}

// children are the child processes of pid.
func children(t testing.TB, pid int) (all []int) {
	t.Helper()
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for field := range strings.FieldsSeq(string(list)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, child)
	}
	return all
}

// cpu is the processor time that the target has used so far.
func (g target) cpu(t testing.TB) (total time.Duration) {
	t.Helper()
	for _, pid := range g.pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, file := range files {
			stat, err := os.ReadFile(file)
			if err != nil {
				continue // the thread has ended
			}
			nanoseconds, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += time.Duration(nanoseconds)
		}
	}
	return total
}

// memory is how much of the machine's memory the target uses, in bytes. Memory shared by its processes counts once.
func (g target) memory(t testing.TB) (total int64) {
	t.Helper()
	name := "Rss:"
	if len(g.pids) > 1 {
		name = "Pss:"
	}
	for _, pid := range g.pids {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(rollup)) {
			if fields := strings.Fields(line); fields[0] == name {
				kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				total += kilobytes << 10
			}
		}
	}
	return total
}

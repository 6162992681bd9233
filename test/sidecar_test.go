package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"token-sidecar/internal/cli"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream/sandbox"
)

func TestMain(m *testing.M) {
	testbed.BecomeProgram(cli.Main)
	if err := os.Chdir(".."); err != nil { // the tests use the paths of the project's root
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// mustGet fails the test unless the sidecar vends a token of that user.
func mustGet(t testing.TB, s *testbed.Sidecar, user string, header ...string) testbed.Reply {
	t.Helper()
	r := s.Get(user, header...)
	if r.Status != 200 || r.Err != nil {
		t.Fatalf("status %d, %v: %s", r.Status, r.Err, r.Body)
	}
	if mine, left := sandbox.Inspect(r.Token, user, time.Now()); !mine || left <= 0 {
		t.Fatalf("a token of somebody else, or dead: %v, %v", mine, left)
	}
	return r
}

func TestTwoSidecarsShareATokenAndARestartedOneAsksRedis(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "REDIS_TIMEOUT=2s")
	first, second := testbed.StartSidecar(t, environ...), testbed.StartSidecar(t, environ...)
	token := mustGet(t, first, "alice").Token
	if r := mustGet(t, second, "alice"); r.Token != token || !strings.HasSuffix(r.CacheStatus, "detail=redis") {
		t.Errorf("the second got another token, or not from Redis: %s", r.CacheStatus)
	}
	first.Signal(syscall.SIGTERM)
	if code := first.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if r := mustGet(t, testbed.StartSidecar(t, environ...), "alice"); r.Token != token {
		t.Error("the restarted one got another token")
	}
	if n := auth.Counts().Calls; n != 1 {
		t.Errorf("%d calls", n)
	}
	client := redis.Client()
	for _, name := range client.Keys(t.Context(), "*}").Val() {
		if strings.HasSuffix(name, "{probe}") {
			continue
		}
		if left := client.PTTL(t.Context(), name).Val(); left > 24*time.Hour-time.Minute ||
			left < 24*time.Hour-2*time.Minute {
			t.Errorf("a key lives for %v, which is not shortly before expires_in", left)
		}
	}
}

func TestRedisKilledInTheMiddleOfTraffic(t *testing.T) {
	auth, redis := testbed.StartAuth(t), testbed.StartRedis(t)
	environ := auth.Environ("REDIS_URL="+redis.URL(), "REDIS_TIMEOUT=2s")
	s := testbed.StartSidecar(t, environ...)
	var asked, failed atomic.Int32
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for i := range 8 {
		traffic.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				// Uncached keys as well, which involve Redis.
				if r := s.Get(fmt.Sprintf("user-%d-%d", i, n%200)); r.Status != 200 {
					t.Errorf("status %d, %v: %s", r.Status, r.Err, r.Body)
					failed.Add(1)
				}
				asked.Add(1)
			}
		})
	}
	after := func(n int32) {
		from := asked.Load()
		testbed.Until(t, "traffic flows", func() bool { return asked.Load() > from+n || failed.Load() > 0 })
	}
	after(500)
	redis.Kill()
	after(500)
	testbed.Until(t, "the outage is noticed",
		func() bool { return strings.Contains(s.Metrics(), "\ntoken_sidecar_redis_up 0\n") })
	after(500)
	redis.Start()
	testbed.Until(t, "Redis is used again",
		func() bool { return strings.Contains(s.Metrics(), "\ntoken_sidecar_redis_up 1\n") })
	after(200)
	close(stop)
	traffic.Wait()
	other := testbed.StartSidecar(t, environ...)
	mustGet(t, s, "after")
	if r := mustGet(t, other, "after"); !strings.HasSuffix(r.CacheStatus, "detail=redis") {
		t.Errorf("not shared after Redis came back: %s\n%s", r.CacheStatus,
			grep(s.Metrics()+other.Metrics(), "redis_step_duration_seconds_count"))
	}
}

// TestSignalDrains: requests in progress are answered, new ones are refused, and the exit code is 0.
func TestSignalDrains(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			auth := testbed.StartAuth(t)
			s := testbed.StartSidecar(t, auth.Environ()...)
			auth.Set(sandbox.Mood{LatencyMS: 4000})
			slow := make(chan testbed.Reply, 1)
			go func() { slow <- s.Get("alice") }()
			testbed.Until(t, "the call is under way", func() bool { return auth.Counts().Calls == 1 })
			s.Signal(sig)
			testbed.Until(t, "it is not ready any more", func() bool {
				status, body := s.Fetch("http://" + s.Admin + "/readyz")
				return status == 503 && strings.Contains(body, "draining")
			})
			if r := s.Get("bob"); r.Status != 503 || r.ErrorCode != "SHUTTING_DOWN" {
				t.Errorf("a new request got %d, %v: %s", r.Status, r.Err, r.Body)
			}
			if r := <-slow; r.Status != 200 {
				t.Errorf("a request in progress got %d, %v", r.Status, r.Err)
			}
			if code := s.Wait(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, s.Log())
			}
			if auth.CallsOf("bob") != 0 {
				t.Error("a refused request reached the auth service")
			}
		})
	}
}

// endAtOnce repeats the signal until the process ends, and returns the exit code. After the first signal it takes the
// process a moment to leave the next to the system.
func endAtOnce(t *testing.T, s *testbed.Sidecar) (code int) {
	t.Helper()
	ended := make(chan int, 1)
	go func() { ended <- s.Wait() }()
	testbed.Until(t, "it ends", func() bool {
		s.Signal(syscall.SIGTERM)
		select {
		case code = <-ended:
			return true
		default:
			return false
		}
	})
	return code
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ("SHUTDOWN_TIMEOUT=1h", "UPSTREAM_TIMEOUT=200s")...)
	auth.Set(sandbox.Mood{Fault: "hang"})
	go s.Get("alice")
	testbed.Until(t, "the call is under way", func() bool { return auth.Counts().Calls == 1 })
	s.Signal(syscall.SIGTERM)
	testbed.Until(t, "it drains", func() bool { return strings.Contains(s.Log(), "draining") })
	if code := endAtOnce(t, s); code == 0 {
		t.Error("exit code 0 though a request was cut off")
	}
}

// TestBusyCallersAtTheEnd: with SHUTDOWN_DELAY everything is served for a while. Then a caller who continues to use a
// connection is told SHUTTING_DOWN, or by the last token that the connection closes, and sees no reset. A caller that
// paused was not busy, and its connection is closed in the end.
func TestBusyCallersAtTheEnd(t *testing.T) {
	for name, environ := range map[string][]string{"no delay": nil, "delay": {"SHUTDOWN_DELAY=3s"}} {
		t.Run(name, func(t *testing.T) {
			auth := testbed.StartAuth(t)
			s := testbed.StartSidecar(t, auth.Environ(environ...)...)
			var served, leaving atomic.Int64 // before the signal, and during the shutdown
			var callers sync.WaitGroup
			for i := range 8 {
				callers.Go(func() {
					last, closes := time.Now(), false
					r := s.Get(fmt.Sprint("user-", i))
					for ; r.Status == 200; r = s.Get(fmt.Sprint("user-", i)) {
						last, closes = time.Now(), r.Closes
						served.Add(1)
					}
					refused := r.Status == 503 && r.ErrorCode == "SHUTTING_DOWN" && r.Err == nil
					told := closes && errors.Is(r.Err, syscall.ECONNREFUSED)
					paused := r.Status == 0 && time.Since(last) > 400*time.Millisecond
					if !refused && !told && !paused {
						t.Errorf("a busy caller got %d, %v: %s", r.Status, r.Err, r.Body)
					}
				})
			}
			testbed.Until(t, "callers are busy", func() bool { return served.Load() > 500 })
			s.Signal(syscall.SIGTERM)
			if environ != nil {
				testbed.Until(t, "it is not ready", func() bool {
					status, _ := s.Fetch("http://" + s.Admin + "/readyz")
					return status == 503
				})
				leaving.Store(served.Load())
				mustGet(t, s, "somebody new")
			}
			callers.Wait()
			if more := served.Load() - leaving.Load(); environ != nil && more < 100 {
				t.Errorf("%d requests were served while it was not ready", more)
			}
			if code := s.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestASecondSignalEndsTheDelay(t *testing.T) {
	s := testbed.StartSidecar(t, testbed.StartAuth(t).Environ("SHUTDOWN_DELAY=1h")...)
	s.Signal(syscall.SIGTERM)
	testbed.Until(t, "it is leaving", func() bool { return strings.Contains(s.Log(), "leaving") })
	mustGet(t, s, "alice")
	if code := endAtOnce(t, s); code == 0 {
		t.Error("exit code 0 though it was ended")
	}
}

// TestLocalhost: some clients reach it by IPv4, some by IPv6, and the commands do too.
func TestLocalhost(t *testing.T) {
	auth := testbed.StartAuth(t)
	_, port, _ := net.SplitHostPort(testbed.FreeAddr(t))
	_, adminPort, _ := net.SplitHostPort(testbed.FreeAddr(t))
	at := []string{"LISTEN_ADDR=localhost:" + port, "ADMIN_ADDR=localhost:" + adminPort}
	s := testbed.LaunchSidecar(t, auth.Environ(at...)...)
	testbed.Until(t, "it is ready", func() bool {
		_, _, code := tool(t, at, "healthcheck")
		return code == 0
	})
	hosts := []string{"127.0.0.1"}
	if conn, err := net.Dial("tcp", net.JoinHostPort("::1", port)); err == nil {
		_ = conn.Close()
		hosts = append(hosts, "[::1]")
	} else if !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Error(err)
	}
	for _, host := range hosts {
		if status, body := s.Fetch("http://" + host + ":" + port + "/token?client_user_id=alice"); status != 200 {
			t.Errorf("%s: %d %s", host, status, body)
		}
		if status, body := s.Fetch("http://" + host + ":" + adminPort + "/livez"); status != 200 {
			t.Errorf("%s: %d %s", host, status, body)
		}
	}
	if out, _, code := tool(t, at, "get", "--user", "alice"); code != 0 {
		t.Error(out)
	}
}

// TestRemoteCallersAreNoReasonToTakeAnyHost: on loopback, where nothing else would keep a web page out.
func TestRemoteCallersAreNoReasonToTakeAnyHost(t *testing.T) {
	s := testbed.StartSidecar(t, testbed.StartAuth(t).Environ("ALLOW_REMOTE_CALLERS=true")...)
	if status, body := attack(t, s.Addr, 1,
		"GET /token?client_user_id=alice HTTP/1.1\r\nHost: evil.example\r\n\r\n"); status != 421 {
		t.Errorf("%d %s", status, body)
	}
}

func TestSocket(t *testing.T) {
	auth := testbed.StartAuth(t)
	path := t.TempDir() + "/s.sock"
	s := testbed.StartSidecar(t, auth.Environ("LISTEN_ADDR=unix://"+path)...)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	mustGet(t, s, "alice", "Host", "anything")
	second := testbed.LaunchSidecar(t, auth.Environ("LISTEN_ADDR=unix://"+path)...)
	if code := second.Wait(); code != 1 || !strings.Contains(second.Log(), "in use") {
		t.Errorf("a second one on the same socket: exit %d\n%s", code, second.Log())
	}
	s.Kill() // leaves the socket behind
	mustGet(t, testbed.StartSidecar(t, auth.Environ("LISTEN_ADDR=unix://"+path)...), "alice")
	file := testbed.WriteFile(t, "file", "x")
	third := testbed.LaunchSidecar(t, auth.Environ("LISTEN_ADDR=unix://"+file)...)
	if code := third.Wait(); code != 1 || !strings.Contains(third.Log(), "not a socket") {
		t.Errorf("in the place of a file: exit %d\n%s", code, third.Log())
	}
}

// grep returns the lines of text that contain part.
func grep(text, part string) (lines string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			lines += line
		}
	}
	return lines
}

// TestForgetIsToldLater: a DELETE of which Redis cannot be told says so.
func TestForgetIsToldLater(t *testing.T) {
	auth := testbed.StartAuth(t)
	s := testbed.StartSidecar(t, auth.Environ("REDIS_URL=redis://"+testbed.FreeAddr(t))...)
	token := mustGet(t, s, "alice").Token
	if r := s.Do("DELETE", "client_user_id=alice"); r.Status != 202 || !strings.Contains(r.Body, `"message"`) {
		t.Errorf("status %d, %v: %s", r.Status, r.Err, r.Body)
	}
	if mustGet(t, s, "alice").Token == token {
		t.Error("a forgotten token is served")
	}
	if !strings.Contains(s.Metrics(), "\ntoken_sidecar_forgets_pending 1\n") {
		t.Error("the metric does not count it")
	}
}

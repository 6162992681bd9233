package test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"token-sidecar/internal/testbed"
)

// TestAuditLogUnavailable: without a line no token is vended and the auth service is not asked, but a DELETE still
// takes effect. When lines can be written again, tokens are vended without a restart.
func TestAuditLogUnavailable(t *testing.T) {
	for _, fastPath := range []string{"true", "false"} {
		t.Run("FAST_PATH="+fastPath, func(t *testing.T) {
			auth, path := testbed.StartAuth(t), filepath.Join(t.TempDir(), "audit.log")
			s := testbed.StartSidecar(t, auth.Environ("AUDIT_LOG="+path, "FAST_PATH="+fastPath,
				"AUDIT_KEY_FILE="+testbed.WriteFile(t, "key", auditKey))...)
			for range 3 {
				mustGet(t, s, "alice")
			}
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/dev/full", path); err != nil {
				t.Fatal(err)
			}
			calls := auth.Counts().Calls
			for i, query := range []string{"alice", "bob", "alice&type=session&client_user_email=a", "unknown-carol"} {
				r := s.Do("GET", "client_user_id="+query)
				if r.Status != 503 || r.ErrorCode != "AUDIT_UNAVAILABLE" || r.Header.Get("Retry-After") == "" || r.Token != "" {
					t.Errorf("%d: %d %s", i, r.Status, r.Body)
				}
			}
			if r := s.Do("DELETE", "client_user_id=alice"); r.Status != 503 || r.ErrorCode != "AUDIT_UNAVAILABLE" {
				t.Errorf("forget: %d %s", r.Status, r.Body)
			}
			if n := auth.Counts().Calls - calls; n != 0 {
				t.Errorf("the auth service was asked %d times", n)
			}
			metrics := s.Metrics()
			for _, want := range []string{
				"token_sidecar_audit_writable 0", `token_sidecar_errors_total{code="AUDIT_UNAVAILABLE"} 5`,
				`token_sidecar_degraded{cause="no space left on device",part="audit",path="",state="not written"} 1`,
			} {
				if !strings.Contains(metrics, want) {
					t.Errorf("no %s", want)
				}
			}
			told := func() int { return strings.Count(s.Log(), `"cause":"no space left on device"`) }
			testbed.Until(t, "the log tells it", func() bool { return told() > 0 })
			if n := told(); n != 1 {
				t.Errorf("the log tells it %d times:\n%s", n, s.Log())
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			testbed.Until(t, "tokens are vended again", func() bool { return s.Get("bob").Status == 200 })
			if r := s.Get("alice"); !strings.Contains(r.CacheStatus, "miss") {
				t.Errorf("it was not forgotten: %s", r.CacheStatus)
			}
			if text := testbed.ReadFile(t, path); !strings.HasPrefix(text, `{"audit":1,"time":"`) ||
				!strings.Contains(text, `"event":"resumed","since":"`) {
				t.Errorf("it does not tell of the gap: %s", text)
			}
		})
	}
}

// TestAuditLogMustOpen: at start, a problem with it is an error that names the setting.
func TestAuditLogMustOpen(t *testing.T) {
	auth, key := testbed.StartAuth(t), testbed.WriteFile(t, "key", auditKey)
	for name, c := range map[string]struct{ setting, want string }{
		"no such folder": {"AUDIT_LOG=/no/such/folder/audit.log", "AUDIT_LOG: "},
		"a folder":       {"AUDIT_LOG=" + t.TempDir(), "AUDIT_LOG: "},
		"a short key":    {"AUDIT_KEY_FILE=" + testbed.WriteFile(t, "key", "c2hvcnQ="), "AUDIT_KEY_FILE: "},
		"no key":         {"AUDIT_KEY_FILE=", "AUDIT_LOG: "},
	} {
		_, errs, code := tool(t, auth.Environ("AUDIT_LOG=stdout", "AUDIT_KEY_FILE="+key, c.setting), "serve")
		if code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
}

// TestAuditLogOfAKilledProcess: every answer that was received has its line.
func TestAuditLogOfAKilledProcess(t *testing.T) {
	auth := testbed.StartAuth(t)
	a := startAudited(t, auth.Environ()...)
	var answered atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := 0; a.Get(fmt.Sprint("user-", i, "-", n%20)).Status == 200; n++ {
				answered.Add(1)
			}
		})
	}
	testbed.Until(t, "load", func() bool { return answered.Load() > 500 })
	a.Kill()
	callers.Wait()
	lines := int64(strings.Count(testbed.ReadFile(t, a.path), `"status":200`))
	if n := answered.Load(); lines < n || lines > n+8 {
		t.Errorf("%d lines of %d answers", lines, n)
	}
}

// TestAuditLogRotates: with SIGHUP and without.
func TestAuditLogRotates(t *testing.T) {
	auth := testbed.StartAuth(t)
	a := startAudited(t, auth.Environ()...)
	mustGet(t, a.Sidecar, "alice")
	for i, hangup := range []bool{true, false} {
		old := fmt.Sprint(a.path, ".", i)
		if err := os.Rename(a.path, old); err != nil {
			t.Fatal(err)
		}
		if hangup {
			a.Signal(syscall.SIGHUP)
		}
		mustGet(t, a.Sidecar, "alice")
		if was, is := readAudit(t, old), readAudit(t, a.path); len(was) != 1 || len(is) != 1 {
			t.Errorf("%d: %d lines and %d", i, len(was), len(is))
		}
	}
}

// TestAuditLogOnStdout: it has standard output to itself. A reader that closes it does not end the process, but then no
// token is vended.
func TestAuditLogOnStdout(t *testing.T) {
	auth := testbed.StartAuth(t)
	listen, admin := testbed.FreeAddr(t), testbed.FreeAddr(t)
	cmd := testbed.Command(context.WithoutCancel(t.Context()), auth.Environ("AUDIT_LOG=stdout",
		"AUDIT_KEY_FILE="+testbed.WriteFile(t, "key", auditKey), "LISTEN_ADDR="+listen, "ADMIN_ADDR="+admin), "serve")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
	s := testbed.Observe(t, listen, admin)
	s.AwaitReady()
	mustGet(t, s, "alice")
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"audit":1,`) || !strings.Contains(line, `"outcome":"fetched"`) {
		t.Errorf("%v: %s", err, line)
	}
	_ = out.Close()
	for range 3 {
		if r := s.Get("alice"); r.Status != 503 || r.ErrorCode != "AUDIT_UNAVAILABLE" {
			t.Errorf("without a reader: %d %s", r.Status, r.Body)
		}
	}
}

// TestPseudonym: the command computes what is in the log, with each key, and needs nothing but the keys.
func TestPseudonym(t *testing.T) {
	auth := testbed.StartAuth(t)
	a := startAudited(t, auth.Environ()...)
	mustGet(t, a.Sidecar, "alice")
	l := readAudit(t, a.path)[0]
	other := base64.StdEncoding.EncodeToString([]byte("9876543210-another-key-987654321"))
	environ := []string{"AUDIT_KEY_FILE=" + testbed.WriteFile(t, "keys", other+"\n"+auditKey+"\n")}
	out, errs, code := tool(t, environ, "pseudonym", "--user", "alice")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 2 || lines[1] != l.Key+" "+l.User || strings.Contains(out, "alice") {
		t.Errorf("exit %d, %s\n%s; the line has %s %s", code, errs, out, l.Key, l.User)
	}
	for name, c := range map[string]struct {
		environ []string
		args    []string
		code    int
		want    string
	}{
		"no key":    {nil, []string{"pseudonym", "--user", "alice"}, 1, "AUDIT_KEY_FILE: "},
		"bad key":   {[]string{"AUDIT_KEY_FILE=/etc/hostname"}, []string{"pseudonym", "--user", "alice"}, 1, "AUDIT_KEY_FILE: "},
		"no user":   {environ, []string{"pseudonym"}, 2, "--user"},
		"more args": {environ, []string{"pseudonym", "alice"}, 2, "takes no argument"},
	} {
		if out, errs, code := tool(t, c.environ, c.args...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d: %s%s", name, code, out, errs)
		}
	}
}

package audit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyText is a key of 32 bytes that begins with that letter.
func keyText(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, leastKey)))
}

func anEvent(user string) Event {
	return Event{Path: "/v1/connect/token", Type: "access", User: secret.Hide(user), Outcome: Fetched, Status: 200}
}

func openTrail(t *testing.T, path string) *Trail {
	t.Helper()
	trail, err := Open(Options{Path: path, Key: secret.Fixed(keyText("k"))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(trail.Close)
	return trail
}

// record records an event of user, without a deadline.
func record(t *testing.T, trail *Trail, user string) error {
	t.Helper()
	return trail.Record(t.Context(), anEvent(user))
}

// usersIn returns the pseudonyms in the lines of a file, in order.
func usersIn(t *testing.T, path string) (users []string) {
	t.Helper()
	for text := range strings.Lines(testbed.ReadFile(t, path)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		users = append(users, l.User)
	}
	return users
}

func pseudonym(t *testing.T, user string) string {
	t.Helper()
	keys, err := ParseKeys(secret.Fixed(keyText("k")).Text())
	if err != nil {
		t.Fatal(err)
	}
	return keys[0].User(secret.Hide(user))
}

// TestRecorded: when Record returns, the line has been written, exactly once.
func TestRecorded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	trail := openTrail(t, path)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			user := fmt.Sprint("user ", i)
			if err := record(t, trail, user); err != nil {
				t.Error(err)
			}
			if n := strings.Count(testbed.ReadFile(t, path), pseudonym(t, user)); n != 1 {
				t.Errorf("%s: %d lines", user, n)
			}
		})
	}
	all.Wait()
	if n := len(usersIn(t, path)); n != 50 {
		t.Errorf("%d lines", n)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others may read it: %v, %v", info.Mode(), err)
	}
}

// TestRotation: a file that was moved or removed is created again at its path at once.
func TestRotation(t *testing.T) {
	for name, rotate := range map[string]func(*Trail, string) error{
		"moved":                 func(_ *Trail, path string) error { return os.Rename(path, path+".1") },
		"removed":               func(_ *Trail, path string) error { return os.Remove(path) },
		"moved, and told":       func(l *Trail, path string) error { defer l.Reopen(); return os.Rename(path, path+".1") },
		"told, but not moved":   func(l *Trail, _ string) error { l.Reopen(); return nil },
		"replaced with another": func(_ *Trail, path string) error { return os.Rename(path+".new", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			trail := openTrail(t, path)
			first := record(t, trail, "before")
			rotated := rotate(trail, path)
			if err := errors.Join(first, rotated, record(t, trail, "after")); err != nil {
				t.Fatal(err)
			}
			users := usersIn(t, path)
			if len(users) == 0 || users[len(users)-1] != pseudonym(t, "after") ||
				len(users) > 1 != (name == "told, but not moved") {
				t.Errorf("the file at the path has %d lines", len(users))
			}
		})
	}
}

// TestNoRoom: with a full disk, callers get an error. When there is space again, lines are written again, and the first
// one reports the gap.
func TestNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	trail, err := Open(Options{Path: path, Key: secret.Fixed(keyText("k")), Registerer: metrics})
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	for i, err := range []error{record(t, trail, "lost"), trail.Check(), trail.Check()} {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if gauge(t, metrics, "token_sidecar_audit_writable") != 0 {
		t.Error("the metric does not show it")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	testbed.Until(t, "it goes on by itself", func() bool { return !trail.hasFailed() })
	if err := errors.Join(trail.Check(), record(t, trail, "kept")); err != nil {
		t.Error(err)
	}
	told, rest, _ := strings.Cut(testbed.ReadFile(t, path), "\n")
	var over gap
	if err := json.Unmarshal([]byte(told), &over); err != nil || over.Event != "resumed" || over.Withheld != 3 ||
		over.Since == "" {
		t.Errorf("%v: %s", err, told)
	}
	if !strings.Contains(rest, pseudonym(t, "kept")) || gauge(t, metrics, "token_sidecar_audit_writable") != 1 {
		t.Errorf("after it: %s", rest)
	}
}

// TestReaderGone: a named pipe without a reader is an error, at the start and later. It neither ends the process nor
// blocks it.
func TestReaderGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	key := secret.Fixed(keyText("k"))
	if _, err := Open(Options{Path: path, Key: key}); err == nil || !strings.HasPrefix(err.Error(), "AUDIT_LOG: ") {
		t.Fatalf("without a reader: %v", err)
	}
	read := func() *os.File {
		reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return reader
	}
	reader := read()
	trail := openTrail(t, path)
	if err := record(t, trail, "a"); err != nil {
		t.Error(err)
	}
	_ = reader.Close()
	if err := record(t, trail, "b"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a reader: %v", err)
	}
	reader = read()
	defer func() { _ = reader.Close() }()
	testbed.Until(t, "it goes on", func() bool { return !trail.hasFailed() })
	if err := record(t, trail, "c"); err != nil {
		t.Error(err)
	}
}

// A valve is a sink that can be blocked.
type valve struct {
	mu    sync.Mutex
	lines strings.Builder
	shut  chan struct{} // nil: open
	fails error
}

func (v *valve) write(lines []byte) error {
	v.mu.Lock()
	shut := v.shut
	v.mu.Unlock()
	if shut != nil {
		<-shut
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails == nil {
		v.lines.Write(lines)
	}
	return v.fails
}

func (v *valve) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fails = err
}

func (v *valve) reopen()      {}
func (v *valve) close() error { return nil }

func (v *valve) turn(shut chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = shut
}

func startTrail(t *testing.T, to sink) *Trail {
	t.Helper()
	trail, err := start(Options{Key: secret.Fixed(keyText("k"))}, to)
	if err != nil {
		t.Fatal(err)
	}
	return trail
}

// TestStalled: while writing takes too long, callers wait until their deadline at most, and later ones not at all.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{}
		trail := startTrail(t, v)
		shut := make(chan struct{})
		v.turn(shut)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				began := time.Now()
				if err := trail.Record(ctx, anEvent("during")); !errors.Is(err, ErrUnavailable) ||
					time.Since(began) != time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		all.Wait()
		if err := trail.Check(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		v.turn(nil)
		close(shut)
		synctest.Wait()
		if err := errors.Join(trail.Check(), record(t, trail, "after")); err != nil {
			t.Error(err)
		}
		trail.Close()
		if text := v.lines.String(); !strings.Contains(text, `"event":"resumed"`) ||
			!strings.Contains(text, `"withheld":4}`) || !strings.Contains(text, pseudonym(t, "after")) {
			t.Errorf("written:\n%s", text)
		}
	})
}

// TestGap: however often writing was tried in vain, the first line afterwards reports all of it and when it began.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{fails: syscall.EIO}
		trail := startTrail(t, v)
		began := time.Now()
		for range 10 {
			if err := record(t, trail, "withheld"); !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
			time.Sleep(retryInterval * 3 / 2)
		}
		v.fail(nil)
		time.Sleep(retryInterval)
		if err := errors.Join(trail.Check(), record(t, trail, "after")); err != nil {
			t.Error(err)
		}
		trail.Close()
		want := string(gapLine(began.Add(31*retryInterval/2), lapse{began, 10}))
		if first, _, _ := strings.Cut(v.lines.String(), "\n"); first != strings.TrimSpace(want) {
			t.Errorf("%s in place of %s", first, want)
		}
		if n := strings.Count(v.lines.String(), "resumed"); n != 1 {
			t.Errorf("it is told %d times", n)
		}
	})
}

// TestFull: the waiting lines are bounded; beyond that, no caller waits.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{}
		trail := startTrail(t, v)
		shut := make(chan struct{})
		v.turn(shut)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = trail.Record(ctx, anEvent("being written")) })
		synctest.Wait()
		const room = 10
		trail.most = room * len(anEvent("u").line(time.Now(), *trail.key.Load()))
		for range room {
			all.Go(func() { _ = trail.Record(ctx, anEvent("u")) })
		}
		synctest.Wait()
		if err := trail.Record(t.Context(), anEvent("one more")); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		close(shut)
		all.Wait()
		cancel()
		trail.Close()
		if n := strings.Count(v.lines.String(), `"user":`); n != room+1 {
			t.Errorf("%d lines in place of %d", n, room+1)
		}
	})
}

// TestCloseIsBounded: even if the reader has stopped reading.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{}
		trail := startTrail(t, v)
		shut := make(chan struct{})
		v.turn(shut)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := trail.Record(ctx, anEvent("u")); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		began := time.Now()
		trail.Close()
		if took := time.Since(began); took != closeLimit {
			t.Errorf("it took %v", took)
		}
		close(shut)
	})
}

// gauge returns the value of a metric without labels.
func gauge(t *testing.T, from prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("%s is not there", name)
	return 0
}

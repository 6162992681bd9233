package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// left makes a socket file that a process left behind.
func left(t *testing.T, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = listener.Close()
}

// TestOnlyAStaleSocketIsReplaced: whatever the error of connecting to it, but for the one that says that nobody listens.
func TestOnlyAStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left(t, path)
	if stale, err := isStale(path, dialer(t.Context())); !stale || err != nil {
		t.Errorf("nobody listens: %v, %v", stale, err)
	}
	for _, err := range append(errnos(), nil, context.DeadlineExceeded, errors.New("unknown")) {
		stale, reason := isStale(path, func(string) error { return &net.OpError{Op: "dial", Err: err} })
		if stale != errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v: stale %v", err, stale)
		}
		if (reason == nil) != (stale || errors.Is(err, syscall.ENOENT)) {
			t.Errorf("%v: %v", err, reason)
		}
	}
	listener, err := Listen(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
}

func errnos() (all []error) {
	for n := syscall.Errno(1); n < 134; n++ {
		all = append(all, os.NewSyscallError("connect", n))
	}
	return all
}

// TestASocketWhoseProcessIsFrozen: connections are accepted no longer once its queue is full. It is not replaced.
func TestASocketWhoseProcessIsFrozen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer func() { _ = conn.Close() }()
	}
	if _, err := Listen(t.Context(), "unix://"+path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

// TestCheckAddrChangesNothing: neither is a socket made, nor one that was left behind removed.
func TestCheckAddrChangesNothing(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	left(t, stale)
	before, err := os.Lstat(stale)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{stale, filepath.Join(dir, "new")} {
		if err := CheckAddr(t.Context(), "unix://"+path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	after, err := os.Lstat(stale)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the old socket: %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%v", files)
	}
}

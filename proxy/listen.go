package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"token-sidecar/internal/reason"
)

// socketMode admits the containers of the pod that share the group, and nobody else.
const socketMode = 0o660

// longestSocket is how long the path of a socket may be, in bytes: sun_path without the NUL that ends it.
const longestSocket = 107

// ErrInUse is the error of [Listen] if another program listens at the address.
var ErrInUse = errors.New("is in use by another program; stop that, or choose another address")

// Listen opens addr: host:port, with localhost for both loopback addresses, or unix:///path. A socket file left behind
// by a process that has ended is replaced. Errors name the remedy.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	var listener net.Listener
	var err error
	if path, isUnix := strings.CutPrefix(addr, "unix://"); isUnix {
		if err := removeStale(ctx, path); err != nil {
			return nil, err
		}
		// The socket must never be open to others, not even for a moment.
		umask := syscall.Umask(0o777 &^ socketMode)
		listener, err = (&net.ListenConfig{}).Listen(ctx, "unix", path)
		syscall.Umask(umask)
	} else {
		listener, err = listenTCP(ctx, addr, (&net.ListenConfig{}).Listen)
	}
	var noAddr *net.AddrError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %w", addr, ErrInUse)
	case errors.As(err, &noAddr):
		return nil, errors.New("cannot listen: it is no host:port; use one such as localhost:8080")
	case err != nil:
		return nil, cannotListen(err)
	}
	return listener, nil
}

// CheckAddr reports what would keep [Listen] from opening addr, and changes nothing: a socket file may belong to a
// running sidecar.
func CheckAddr(ctx context.Context, addr string) error {
	path, isUnix := strings.CutPrefix(addr, "unix://")
	if !isUnix {
		listener, err := Listen(ctx, addr)
		if err != nil {
			return err
		}
		return listener.Close()
	}
	if _, err := isStale(path, dialer(ctx)); err != nil {
		return err
	}
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return cannotListen(err)
	}
	return nil
}

func cannotListen(err error) error {
	return fmt.Errorf("cannot listen: %s; use an address of this machine, and a path that may be written", reason.Of(err))
}

// dialer returns a function that connects to a socket file.
func dialer(ctx context.Context) func(path string) error {
	return func(path string) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
}

// isStale reports whether path is the socket file of a process that has ended. Its error says why path cannot be
// listened on.
func isStale(path string, dial func(path string) error) (bool, error) {
	if len(path) > longestSocket {
		return false, fmt.Errorf("cannot listen: the path is longer than the %d bytes that a socket may have; choose a shorter one", longestSocket)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the path cannot be looked at: %s; choose another", reason.Of(err))
	}
	if info.Mode()&os.ModeSocket == 0 {
		return false, fmt.Errorf("%s exists and is not a socket; remove it, or choose another path", path)
	}
	switch err := dial(path); {
	case errors.Is(err, syscall.ECONNREFUSED): // the only error that tells that nobody listens
		return true, nil
	case errors.Is(err, syscall.ENOENT):
		return false, nil // removed meanwhile
	case errors.Is(err, os.ErrPermission):
		return false, fmt.Errorf("%s is the socket of another user, whose program may still listen there; "+
			"run as that user, or choose another path", path)
	default: // someone listens, even if too busy to accept
		return false, fmt.Errorf("%s %w", path, ErrInUse)
	}
}

// removeStale removes the socket file of a process that has ended.
func removeStale(ctx context.Context, path string) error {
	stale, err := isStale(path, dialer(ctx))
	if err != nil || !stale {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("the socket that nobody listens on cannot be removed: %s; let user %d write to its folder",
			reason.Of(err), os.Getuid())
	}
	return nil
}

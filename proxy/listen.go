package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"token-sidecar/internal/reason"
)

// socketMode admits the containers of the pod that share the group, and nobody else.
const socketMode = 0o660

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
	case strings.HasPrefix(addr, "unix://") && errors.Is(err, syscall.EINVAL):
		return nil, errors.New("cannot listen: the path is longer than the 107 bytes that a socket may have; choose a shorter one")
	case err != nil:
		return nil, fmt.Errorf("cannot listen: %s; use an address of this machine, and a path that may be written",
			reason.Of(err))
	}
	return listener, nil
}

// removeStale removes the socket file of a process that died.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the path cannot be looked at: %s; choose another", reason.Of(err))
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket; remove it, or choose another path", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s %w", path, ErrInUse)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("the socket that nobody listens on cannot be removed: %s; let user %d write to its folder",
			reason.Of(err), os.Getuid())
	}
	return nil
}

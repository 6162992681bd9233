package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// socketMode lets the containers of the pod that share the group in, and nobody else.
const socketMode = 0o660

// Listen opens addr: host:port, or unix:///path. A socket file that nobody listens on any more is replaced.
// The error tells the remedy.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(addr, "unix://")
	network, where := "tcp", addr
	if isUnix {
		network, where = "unix", path
		if err := removeStale(ctx, path); err != nil {
			return nil, err
		}
	}
	// The socket must not be open to others for a moment either.
	umask := syscall.Umask(0o777 &^ socketMode)
	listener, err := (&net.ListenConfig{}).Listen(ctx, network, where)
	syscall.Umask(umask)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; stop that, or choose another address", addr)
	case err != nil:
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return listener, nil
}

// removeStale removes a socket file that was left behind by a process that died.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is there and no socket; remove it, or choose another path", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%s is in use by another program; stop that, or choose another path", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the stale socket: %w", err)
	}
	return nil
}

// NewServer returns a server for h, to be started by [Serve]. Whoever sends slowly, much, or nothing is cut off; longest
// is how long an answer may take. When h is a [Handler] itself, and nothing that wants to see each request, most hits
// are answered on a fast path.
func NewServer(h http.Handler, longest time.Duration, log *slog.Logger) *http.Server {
	server := &http.Server{
		Handler:                      h,
		ReadTimeout:                  10 * time.Second, // of the header too; a limit of its own would cost each request a timer
		WriteTimeout:                 longest + 15*time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               16 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if handler, ok := h.(*Handler); ok {
		server.ConnState = (&fastPath{handler: handler, idle: server.IdleTimeout, write: server.WriteTimeout}).follow
	}
	return server
}

// Serve serves what listener accepts until server is shut down.
func Serve(server *http.Server, listener net.Listener) error {
	return server.Serve(fastListener{listener})
}

// Longest is how long a request may take at most, once it was read.
func (h *Handler) Longest() time.Duration { return h.broker.Longest() }

// Shutdown ends server in the order a pod needs: what comes is refused while what is in progress is answered,
// within the limit of ctx; then the listener closes.
func (h *Handler) Shutdown(ctx context.Context, server *http.Server) error {
	h.Drain()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for h.InProgress() > 0 && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close()
	}
	h.Close()
	return err
}

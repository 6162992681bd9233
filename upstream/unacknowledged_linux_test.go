package upstream

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAConnectionWhosePacketsVanish: it is ended and replaced long before UPSTREAM_TIMEOUT.
func TestAConnectionWhosePacketsVanish(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(anyToken))
	}))
	conns := make(chan net.Conn, 2)
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		conns <- conn
		return ctx
	}
	server.Start()
	defer server.Close()
	transport := NewTransport(TransportOptions{Dial: dialer(300 * time.Millisecond).DialContext})
	defer transport.CloseIdleConnections()
	c := newClient(t, server.URL, func(o *Options) {
		o.Transport, o.Timeout, o.MaxAttempts = transport, 20*time.Second, 2
	})
	if _, err := c.Token(t.Context(), user(0)); err != nil {
		t.Fatal(err)
	}
	dropAll(t, <-conns)
	began := time.Now()
	if _, err := c.Token(t.Context(), user(1)); err != nil || time.Since(began) > 19*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if n := len(conns); n != 1 {
		t.Errorf("%d more connections, want 1", n)
	}
}

// dropAll makes the kernel drop every packet that arrives for conn.
func dropAll(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	none := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: 0}}
	var unset error
	err = raw.Control(func(fd uintptr) {
		unset = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &none)
	})
	if err != nil || unset != nil {
		t.Fatal(err, unset)
	}
}

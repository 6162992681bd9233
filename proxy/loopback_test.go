package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestLocalhostIsBothLoopbacks(t *testing.T) {
	listener, err := Listen(t.Context(), "LocalHost:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, both := listener.(*pair); !both {
		t.Skip("this machine has no IPv6, so localhost is only 127.0.0.1")
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			_, _ = io.WriteString(conn, conn.LocalAddr().String())
			_ = conn.Close()
		}
	})
	for _, host := range []string{"127.0.0.1", "::1", "127.0.0.1"} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		if said, _ := io.ReadAll(conn); string(said) != net.JoinHostPort(host, port) {
			t.Errorf("%s: %q", host, said)
		}
		_ = conn.Close()
	}
	if _, err := Listen(t.Context(), "localhost:"+port); err == nil || !strings.Contains(err.Error(),
		"is in use by another program") {
		t.Errorf("a second one: %v", err)
	}
	// These are never accepted.
	for _, host := range []string{"127.0.0.1", "::1"} {
		if conn, err := net.Dial("tcp", net.JoinHostPort(host, port)); err == nil {
			defer func() { _ = conn.Close() }()
		}
	}
	_, _ = listener.Close(), listener.Close()
	serving.Wait()
	for _, host := range []string{"127.0.0.1", "::1"} {
		if conn, err := net.Dial("tcp", net.JoinHostPort(host, port)); err == nil {
			_ = conn.Close()
			t.Errorf("%s is open still", host)
		}
	}
}

// listening is a network in which some addresses are unavailable.
func listening(errs map[string]error, opened *[]string) func(context.Context, string, string) (net.Listener, error) {
	return func(_ context.Context, network, addr string) (net.Listener, error) {
		host, _, _ := net.SplitHostPort(addr)
		if err := errs[host]; err != nil {
			return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", err)}
		}
		*opened = append(*opened, network+" "+addr)
		return silent{make(chan struct{})}, nil
	}
}

type silent struct{ closed chan struct{} }

func (s silent) Accept() (net.Conn, error) { <-s.closed; return nil, net.ErrClosed }
func (s silent) Close() error              { close(s.closed); return nil }
func (silent) Addr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711} }

func TestLoopbacksThatCannotBeHad(t *testing.T) {
	for name, c := range map[string]struct {
		where string
		errs  map[string]error
		want  string // the open addresses; empty: an error
	}{
		"both":                  {"localhost:1", nil, "tcp4 127.0.0.1:1, tcp6 [::1]:1"},
		"a port that is chosen": {"localhost:0", nil, "tcp4 127.0.0.1:0, tcp6 [::1]:4711"},
		"no address ::1":        {"localhost:1", map[string]error{"::1": syscall.EADDRNOTAVAIL}, "tcp4 127.0.0.1:1"},
		"no IPv6":               {"localhost:1", map[string]error{"::1": syscall.EAFNOSUPPORT}, "tcp4 127.0.0.1:1"},
		"::1 taken":             {"localhost:1", map[string]error{"::1": syscall.EADDRINUSE}, ""},
		"::1 forbidden":         {"localhost:1", map[string]error{"::1": syscall.EACCES}, ""},
		"127.0.0.1 taken":       {"localhost:1", map[string]error{"127.0.0.1": syscall.EADDRINUSE}, ""},
		"another address":       {"127.0.0.1:1", nil, "tcp 127.0.0.1:1"},
		"all addresses":         {":1", nil, "tcp :1"},
	} {
		t.Run(name, func(t *testing.T) {
			var opened []string
			listener, err := listenTCP(t.Context(), c.where, listening(c.errs, &opened))
			if (err == nil) != (c.want != "") {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			defer func() { _ = listener.Close() }()
			if got := strings.Join(opened, ", "); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

package testbed

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestWhatIsWrongWithAConnection: each fault affects existing connections and new ones, and can be ended.
func TestWhatIsWrongWithAConnection(t *testing.T) {
	type test struct {
		name  string
		fault func(*Proxy)
		seen  func(*testing.T, *Proxy, *net.TCPConn)
	}
	for _, tc := range []test{
		{"none", func(*Proxy) {}, func(t *testing.T, _ *Proxy, c *net.TCPConn) { echoed(t, c, "hello") }},
		{"slow", func(p *Proxy) { p.Slow(60) }, func(t *testing.T, _ *Proxy, c *net.TCPConn) {
			began := time.Now()
			echoed(t, c, "hello")
			if took := time.Since(began); took < 60*time.Millisecond {
				t.Errorf("took %v", took)
			}
		}},
		{"slow, and healed", func(p *Proxy) { p.Slow(3_600_000) }, func(t *testing.T, p *Proxy, c *net.TCPConn) {
			write(t, c, "hello")
			silent(t, c)
			p.Heal()
			expect(t, c, "hello")
			p.Slow(3_600_000)
		}},
		{"black hole", (*Proxy).BlackHole, func(t *testing.T, p *Proxy, c *net.TCPConn) {
			write(t, c, "hello")
			Until(t, "the answer is lost", func() bool { return p.swallowedFor(c) })
			silent(t, c)
			p.Heal()
			ended(t, c, io.EOF)
			p.BlackHole()
		}},
		{"reset", (*Proxy).Reset, func(t *testing.T, _ *Proxy, c *net.TCPConn) {
			write(t, c, "hello")
			ended(t, c, syscall.ECONNRESET)
		}},
		{"cut", func(p *Proxy) { p.CutAfter(8) }, func(t *testing.T, _ *Proxy, c *net.TCPConn) {
			echoed(t, c, "hello")
			write(t, c, "hello")
			expect(t, c, "hel")
			ended(t, c, io.EOF)
		}},
		{"frozen", (*Proxy).Freeze, func(t *testing.T, p *Proxy, c *net.TCPConn) {
			write(t, c, "hello")
			silent(t, c)
			p.Heal() // heals other faults
			silent(t, c)
			p.Thaw()
			expect(t, c, "hello")
			p.Freeze()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := StartProxy(t, startEcho(t))
			existing := dial(t, p.Addr)
			echoed(t, existing, "before")
			tc.fault(p)
			tc.seen(t, p, existing)
			tc.seen(t, p, dial(t, p.Addr))
			p.Heal()
			p.Thaw()
			echoed(t, dial(t, p.Addr), "after")
		})
	}
}

// swallowedFor reports whether something that was for client is lost.
func (p *Proxy) swallowedFor(client *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.client.RemoteAddr().String() == client.LocalAddr().String() {
			return l.swallowed.Load()
		}
	}
	return false
}

func TestDownEndsAndRefusesConnections(t *testing.T) {
	p := StartProxy(t, startEcho(t))
	existing := dial(t, p.Addr)
	echoed(t, existing, "before")
	p.Down()
	p.Down()
	ended(t, existing, io.EOF)
	if conn, err := net.Dial("tcp", p.Addr); err == nil {
		_ = conn.Close()
		t.Error("a connection was accepted")
	}
	p.Up()
	p.Up()
	echoed(t, dial(t, p.Addr), "after")
}

// TestUpWaitsForItsPort: a process that is being started may hold a listener that was closed here for a moment longer.
func TestUpWaitsForItsPort(t *testing.T) {
	p := StartProxy(t, startEcho(t))
	p.Down()
	other, err := net.Listen("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = other.Close() })
	p.Up()
	echoed(t, dial(t, p.Addr), "hello")
}

func TestAClosedConnectionIsClosedOnTheOtherSide(t *testing.T) {
	p := StartProxy(t, startEcho(t))
	conn := dial(t, p.Addr)
	write(t, conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, conn, "hello")
	ended(t, conn, io.EOF)
	Until(t, "nothing is left of it", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.links) == 0
	})
	nobody := StartProxy(t, FreeAddr(t))
	ended(t, dial(t, nobody.Addr), io.EOF)
}

// TestFrozenMeansBothDirections: meanwhile the server receives nothing.
func TestFrozenMeansBothDirections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p := StartProxy(t, listener.Addr().String())
	client := dial(t, p.Addr)
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p.Freeze()
	write(t, client, "request")
	write(t, server.(*net.TCPConn), "reply")
	silent(t, client)
	silent(t, server.(*net.TCPConn))
	_ = client.CloseWrite()
	p.Thaw()
	expect(t, server.(*net.TCPConn), "request")
	ended(t, server.(*net.TCPConn), io.EOF)
	expect(t, client, "reply")
}

// startEcho starts a server that sends back what it receives.
func startEcho(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.TCPConn)
}

func write(t *testing.T, conn *net.TCPConn, data string) {
	t.Helper()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn *net.TCPConn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

func echoed(t *testing.T, conn *net.TCPConn, data string) {
	t.Helper()
	write(t, conn, data)
	expect(t, conn, data)
}

// silent fails the test if something arrives within a short while.
func silent(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer func() { _ = conn.SetReadDeadline(time.Now().Add(20 * time.Second)) }()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came, %v", n, err)
	}
}

func ended(t *testing.T, conn *net.TCPConn, want error) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, want) {
		t.Fatalf("%d bytes came, %v; want %v", n, err, want)
	}
}

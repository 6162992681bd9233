package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// useOfConn is one thing that is done with a connection.
type useOfConn struct {
	kind string
	wait time.Duration
	size int
}

func usesOfConn() *rapid.Generator[[]useOfConn] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) useOfConn {
		return useOfConn{
			kind: rapid.SampledFrom([]string{"read", "write", "send", "take", "limit reads", "limit writes", "limit both", "unlimit", "stop", "wait"}).Draw(t, "kind"),
			wait: rapid.SampledFrom([]time.Duration{-time.Second, time.Millisecond, time.Second, 3 * time.Second, time.Minute}).Draw(t, "wait"),
			size: rapid.IntRange(1, 4).Draw(t, "size"),
		}
	}), 1, 40)
}

// one returns a listener that accepts only conn.
type one struct {
	net.Listener
	conn net.Conn
}

func (l one) Accept() (net.Conn, error) { return l.conn, nil }

// TestDeadlines: a connection whose deadlines are put off is no different from any other.
func TestDeadlines(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := usesOfConn().Draw(rt, "uses")
		var want, got string
		synctest.Test(t, func(*testing.T) {
			plain, peer := net.Pipe()
			want = use(plain, peer, script)
		})
		synctest.Test(t, func(*testing.T) {
			plain, peer := net.Pipe()
			conn, err := putOffDeadlines{one{conn: plain}}.Accept()
			if err != nil {
				rt.Fatal(err)
			}
			got = use(conn, peer, script)
		})
		if got != want {
			rt.Fatalf("seen\n%s\nin place of\n%s", got, want)
		}
	})
}

// use plays script on conn, and returns what came of each read and write, and when.
func use(conn, peer net.Conn, script []useOfConn) string {
	const reads, writes = 0, 1
	var outcomes [2]string
	turns := [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	var running sync.WaitGroup
	began := time.Now()
	do := func(direction, size int, act func([]byte) (int, error)) {
		running.Go(func() {
			turns[direction] <- struct{}{} // one at a time
			defer func() { <-turns[direction] }()
			n, err := act(make([]byte, size))
			outcomes[direction] += fmt.Sprintf("%v: %d bytes, late %t, closed %t\n", time.Since(began), n, errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.ErrClosedPipe))
		})
		synctest.Wait()
	}
	for _, u := range script {
		at := time.Now().Add(u.wait)
		switch u.kind {
		case "read":
			do(reads, 4, conn.Read)
		case "write":
			do(writes, u.size, conn.Write)
		case "send":
			_ = peer.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = peer.Write(make([]byte, u.size))
		case "take":
			_ = peer.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, _ = peer.Read(make([]byte, u.size))
		case "limit reads":
			_ = conn.SetReadDeadline(at)
		case "limit writes":
			_ = conn.SetWriteDeadline(at)
		case "limit both":
			_ = conn.SetDeadline(at)
		case "unlimit":
			_ = conn.SetDeadline(time.Time{})
		case "stop": // as net/http does
			_ = conn.SetReadDeadline(time.Unix(1, 0))
		case "wait":
			time.Sleep(max(u.wait, 0))
		}
		synctest.Wait()
	}
	_ = conn.Close()
	_ = peer.Close()
	running.Wait()
	return outcomes[reads] + outcomes[writes]
}

// TestDeadlinesArePutOff: the limits that net/http sets for each request are not the runtime's business.
func TestDeadlinesArePutOff(t *testing.T) {
	told := 0
	d := deadline{tell: func(time.Time) error { told++; return nil }}
	began := time.Now()
	for i := range 1000 {
		now := began.Add(time.Duration(i) * time.Millisecond)
		for _, at := range []time.Time{now.Add(10 * time.Second), time.Unix(1, 0), {}, now.Add(2 * time.Minute), {}} {
			if err := d.set(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if told != 1 {
		t.Errorf("the runtime was told %d times", told)
	}
}

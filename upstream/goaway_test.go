package upstream

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// goAway is what a server of HTTP/2 says that deals with no request (RFC 9113, sections 6.5 and 6.8): an empty SETTINGS
// frame, and a GOAWAY after which nothing up from the first stream was dealt with.
const goAway = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" +
	"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// TestAServerThatGoesAway: net/http's own retries are in the budget too.
func TestAServerThatGoesAway(t *testing.T) {
	cert, roots := certificate(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	var serving sync.WaitGroup
	goneAway := func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		if _, err := conn.Read(make([]byte, 1<<10)); err != nil {
			return
		}
		requests.Add(1)
		_, _ = io.WriteString(conn, goAway)
		_, _ = io.Copy(io.Discard, conn) // until the client closes
	}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { goneAway(conn) })
		}
	})
	transport := NewTransport(TransportOptions{Roots: roots})
	defer serving.Wait()
	defer func() { _ = listener.Close() }()
	defer transport.CloseIdleConnections()
	c := newClient(t, "https://"+listener.Addr().String(), func(o *Options) {
		o.Transport, o.MaxAttempts, o.Timeout = transport, 3, time.Minute
	})
	for i := range 4 {
		var e *Error
		if _, err := c.Token(t.Context(), user(i)); !errors.As(err, &e) || e.Cause() != "connection closed" {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if n := requests.Load(); n > 4+freeRetries+1 {
		t.Errorf("%d requests for 4 calls", n)
	}
	if testutil.ToFloat64(c.metrics.retriesForgone) == 0 {
		t.Error("nothing is counted")
	}
}

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
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

// A leaving listener says goAway on its first connections.
type leaving struct {
	net.Listener
	tls      *tls.Config
	first    int64
	end      context.Context //nolint:containedctx // closes them
	accepted atomic.Int64
	going    sync.WaitGroup
}

// Accept implements [net.Listener].
func (l *leaving) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.accepted.Add(1) > l.first {
			return conn, err
		}
		l.going.Go(func() { goneAway(l.end, tls.Server(conn, l.tls)) })
	}
}

func goneAway(end context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(end, func() { _ = conn.Close() })()
	if _, err := conn.Read(make([]byte, 1<<10)); err != nil {
		return
	}
	_, _ = io.WriteString(conn, goAway)
	_, _ = io.Copy(io.Discard, conn) // until the client closes
}

// TestAServerThatGoesAway: net/http's own retries are in the budget too. A call for which one of them is enough notices
// nothing.
func TestAServerThatGoesAway(t *testing.T) {
	for name, first := range map[string]int64{"once": 1, "always": math.MaxInt64} {
		t.Run(name, func(t *testing.T) {
			cert, roots := certificate(t)
			tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			end, cancel := context.WithCancel(t.Context())
			listener := &leaving{
				Listener: tcp, first: first, end: end,
				tls: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}},
			}
			server := &http.Server{Handler: http.HandlerFunc(healthy), TLSConfig: listener.tls, ErrorLog: silent()}
			listener.going.Go(func() { _ = server.ServeTLS(listener, "", "") })
			transport := NewTransport(TransportOptions{Roots: roots})
			defer listener.going.Wait()
			defer func() { _ = server.Close() }()
			defer cancel()
			defer transport.CloseIdleConnections()
			c := newClient(t, "https://"+tcp.Addr().String(), func(o *Options) {
				o.Transport, o.MaxAttempts, o.Timeout = transport, 1, time.Minute
			})
			for i := range 4 {
				_, err := c.Token(t.Context(), user(i))
				var e *Error
				if gone := errors.As(err, &e) && e.Cause() == "connection closed"; gone != (name == "always") {
					t.Errorf("call %d: %v", i, err)
				}
			}
			if n := listener.accepted.Load(); n < 2 || n > 4*(1+freeRetries) { // net/http may make one too many
				t.Errorf("%d connections for 4 calls", n)
			}
			if forgone := testutil.ToFloat64(c.metrics.retriesForgone); (forgone > 0) != (name == "always") {
				t.Errorf("%v retries were forgone", forgone)
			}
		})
	}
}

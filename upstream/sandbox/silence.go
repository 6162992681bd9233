package sandbox

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Listen makes the connections that server accepts from listener able to fall silent, and returns what server must
// serve.
func Listen(server *http.Server, listener net.Listener) net.Listener {
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if secured, ok := c.(*tls.Conn); ok {
			c = secured.NetConn()
		}
		if mutable, ok := c.(*mutableConn); ok {
			ctx = context.WithValue(ctx, connKey{}, mutable)
		}
		return ctx
	}
	return mutableListener{listener}
}

type connKey struct{}

type mutableListener struct{ net.Listener }

func (l mutableListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &mutableConn{Conn: c}, nil
}

// A mutableConn is a connection that can fall silent: from then on it accepts data but sends nothing back, not even a
// reply to an HTTP/2 ping.
type mutableConn struct {
	net.Conn
	silent atomic.Bool
}

func (c *mutableConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// silent makes the connection of r fall silent for good, as if its packets were lost. If the connection cannot do that,
// see [Listen], only this call stays unanswered.
func silent(_ http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*mutableConn); ok {
		c.silent.Store(true)
	}
	wait(r, time.Hour)
	panic(http.ErrAbortHandler)
}

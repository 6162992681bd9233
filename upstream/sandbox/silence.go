package sandbox

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Listen makes the connections that server accepts of listener able to fall silent, and returns what it is to serve.
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

// A mutableConn is a connection that, once it is silent, takes what it is sent and gives nothing back, not even an
// answer to a ping of HTTP/2.
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

// silent makes the connection of r fall silent for good, as one does whose way is lost. Where connections cannot, see
// [Listen], the call alone is not answered.
func silent(_ http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*mutableConn); ok {
		c.silent.Store(true)
	}
	wait(r, time.Hour)
	panic(http.ErrAbortHandler)
}

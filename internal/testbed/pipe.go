package testbed

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
)

// A Pipe is an in-memory network, so that whole servers run on virtual time.
type Pipe struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Serve serves h and returns a transport that always connects to it. Both end with the test.
func Serve(t testing.TB, h http.Handler) *http.Transport {
	p := NewPipe()
	server := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(p) })
	transport := &http.Transport{DialContext: p.Dial, MaxIdleConnsPerHost: 100}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return transport
}

// NewPipe returns a pipe without a listener.
func NewPipe() *Pipe { return &Pipe{conns: make(chan net.Conn), done: make(chan struct{})} }

// Dial connects to the listener, whatever the address.
func (p *Pipe) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (p *Pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (p *Pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements [net.Listener].
func (p *Pipe) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

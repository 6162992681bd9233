package proxy

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
)

// listenTCP listens on where, a host:port. Localhost means both loopback addresses: some clients try [::1] first, or
// use nothing else.
func listenTCP(ctx context.Context, where string, listen func(ctx context.Context, network, addr string) (net.Listener,
	error),
) (net.Listener, error) {
	host, port, err := net.SplitHostPort(where)
	if err != nil || !strings.EqualFold(host, "localhost") {
		return listen(ctx, "tcp", where)
	}
	v4, err := listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	if addr, ok := v4.Addr().(*net.TCPAddr); ok && port == "0" {
		_, port, _ = net.SplitHostPort(addr.String()) // the port that was chosen
	}
	v6, err := listen(ctx, "tcp6", net.JoinHostPort("::1", port))
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return v4, nil // there is no IPv6
	case err != nil:
		_ = v4.Close()
		return nil, err
	}
	return newPair(v4, v6), nil
}

// A pair accepts the connections of two listeners.
type pair struct {
	net.Listener // the first listener, whose address is that of the pair
	second       net.Listener

	accepted  chan accepted
	done      chan struct{}
	close     sync.Once
	accepting sync.WaitGroup
}

type accepted struct {
	conn net.Conn
	err  error
}

func newPair(first, second net.Listener) *pair {
	p := &pair{Listener: first, second: second, accepted: make(chan accepted), done: make(chan struct{})}
	p.accepting.Go(func() { p.accept(first) })
	p.accepting.Go(func() { p.accept(second) })
	return p
}

// accept passes on what listener accepts until it is closed.
func (p *pair) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		select {
		case p.accepted <- accepted{conn, err}:
		case <-p.done:
			if err == nil {
				_ = conn.Close()
			}
			return
		}
	}
}

// Accept implements [net.Listener].
func (p *pair) Accept() (net.Conn, error) {
	select {
	case a := <-p.accepted:
		return a.conn, a.err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (p *pair) Close() (err error) {
	p.close.Do(func() {
		close(p.done)
		err = errors.Join(p.Listener.Close(), p.second.Close())
		p.accepting.Wait()
	})
	return err
}

package proxy

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
)

// A framing determines where the requests on a connection begin and end (RFC 9112, section 6), from the bytes that
// net/http is given. net/http does so too, but does not report what an attacker writes to make two parsers disagree
// (section 11.2): it drops a Content-Length beside a Transfer-Encoding, a repeated Content-Length, and the
// Transfer-Encoding of an HTTP/1.0 request. After anything that is not certain, no further request on the connection is
// trusted.
type framing struct {
	part part
	skip int64  // bytes of content, up to the next line
	line []byte // the beginning of an incomplete line
	lost bool

	// Of the head that is being read:
	old              bool // not HTTP/1.1
	lengths, codings int  // how many Content-Length and Transfer-Encoding lines there are
	length           int64

	// clean is how many unambiguous heads were read. The handler reads it in another goroutine.
	clean atomic.Int64
}

// A part says to what the next line belongs.
type part int

const (
	beforeHead part = iota
	inHead
	chunkSize
	chunkEnd
	inTrailer
)

// maxLine bounds a line. It is larger than the largest head that net/http reads.
const maxLine = 32 << 10

// follow processes bytes that net/http is given.
func (f *framing) follow(b []byte) {
	for len(b) > 0 && !f.lost {
		if n := min(f.skip, int64(len(b))); n > 0 {
			f.skip -= n
			b = b[n:]
			continue
		}
		line, rest, complete := bytes.Cut(b, []byte("\n"))
		b = rest
		if !complete || len(f.line) > 0 {
			f.line = append(f.line, line...)
			line = f.line
		}
		switch {
		case len(line) > maxLine:
			f.lost = true
		case complete:
			f.take(bytes.TrimSuffix(line, []byte("\r")))
			f.line = f.line[:0]
		}
	}
}

// take processes one line.
func (f *framing) take(line []byte) {
	switch f.part {
	case beforeHead:
		if len(bytes.Trim(line, "\r")) == 0 {
			return // some clients end a body with an extra line (section 2.2)
		}
		f.part, f.old = inHead, !bytes.HasSuffix(line, []byte(" HTTP/1.1"))
		f.lengths, f.codings, f.length = 0, 0, 0
	case inHead:
		if len(line) > 0 {
			f.takeField(line)
		} else {
			f.endHead()
		}
	case chunkSize:
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 31)
		f.skip, f.part, f.lost = int64(n), chunkEnd, err != nil
		if n == 0 {
			f.part = inTrailer
		}
	case chunkEnd:
		f.part, f.lost = chunkSize, len(line) > 0
	case inTrailer:
		if len(line) == 0 {
			f.part = beforeHead
		}
	}
}

// takeField processes one line of a head. A folded line, which begins with white space, matches none of these names; if
// it would continue one of their values, net/http refuses the resulting value.
func (f *framing) takeField(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.Trim(value, " \t")
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseUint(string(value), 10, 63)
		f.lengths, f.length, f.lost = f.lengths+1, int64(n), err != nil
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		f.codings++
		f.lost = !bytes.EqualFold(value, []byte("chunked"))
	}
}

func (f *framing) endHead() {
	switch {
	case f.lengths+f.codings > 1, f.codings > 0 && f.old:
		f.lost = true
		return
	case f.codings > 0:
		f.part = chunkSize
	default:
		f.part, f.skip = beforeHead, f.length
	}
	f.clean.Add(1)
}

// A framedListener follows the requests on its connections, of which at most as many are open as its channel has room
// for. One more may be accepted, and waits.
type framedListener struct {
	net.Listener
	open    chan struct{}
	closing <-chan struct{}
}

// Accept implements [net.Listener].
func (l framedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case l.open <- struct{}{}:
		return &framedConn{Conn: conn, closed: sync.OnceFunc(func() { <-l.open })}, nil
	case <-l.closing:
		_ = conn.Close()
		return nil, net.ErrClosed
	}
}

// A framedConn is a connection that net/http reads from.
type framedConn struct {
	net.Conn
	framing framing
	handled int64 // how many requests have reached the handler
	closed  func()
}

// Read implements [net.Conn].
func (c *framedConn) Read(b []byte) (n int, err error) {
	n, err = c.Conn.Read(b)
	c.framing.follow(b[:n])
	return n, err
}

// Close implements [net.Conn].
func (c *framedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// A connKey is the key of the *framedConn in the context of a request.
type connKey struct{}

// withConn is a server's [http.Server.ConnContext].
func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// wellFramed reports whether the end of r is certain. Call it once for each request, in the order of their heads:
// net/http reads requests one after the other, and closes the connection when it cannot read one.
func wellFramed(r *http.Request) bool {
	conn, ok := r.Context().Value(connKey{}).(*framedConn)
	if !ok { // from a server that is not ours
		return r.TransferEncoding == nil && r.ContentLength >= 0
	}
	conn.handled++
	return conn.handled <= conn.framing.clean.Load()
}

package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
	"token-sidecar/proxy/vend"
)

// Nearly all requests are plain ones for a token that memory holds, and what net/http does for each, beginning with a
// goroutine, would be most of what they cost. So they are answered below it, on a connection that it believes to be idle,
// and with the same bytes. Whatever else comes, from an unusual header to a token that is not there, is given to net/http
// as it came; nothing waits here.

// fastListener gives the connections of a listener the fast path.
type fastListener struct{ net.Listener }

// Accept implements [net.Listener].
func (l fastListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &fastConn{Conn: conn, atStart: true}, nil
}

// A fastPath answers on the connections of one server.
type fastPath struct {
	handler *Handler
	// idle and write are that server's limits.
	idle, write time.Duration
	date        dateline
}

// follow is the server's [http.Server.ConnState].
func (p *fastPath) follow(conn net.Conn, state http.ConnState) {
	if c, ok := conn.(*fastConn); ok && state == http.StateIdle {
		c.becomeIdle(p)
	}
}

// A fastConn is a connection that net/http reads from. It must know where requests begin: what is taken for one that
// is part of another would be answered in its place.
type fastConn struct {
	net.Conn
	path    *fastPath // nil until net/http has answered the first request
	atStart bool      // net/http waits for a request, of which it has no more than ahead
	post    bool      // net/http's last request was a POST: it then ignores an empty line before the next
	missing int       // how much net/http is yet to be given of the request it has at hand; negative: it has more
	ahead   []byte    // the first byte of the next request, which net/http reads to see whether the caller leaves
	limited time.Time // when the limits of time were last put off here
}

// becomeIdle is called when net/http has done with a request. What it has of the next is known if it was given that one
// whole and then no more than a byte. If not, the connection stays with it for good.
func (c *fastConn) becomeIdle(path *fastPath) {
	c.path, c.atStart, c.limited = path, c.missing+len(c.ahead) == 0, time.Time{}
}

// Read implements [net.Conn] for net/http.
func (c *fastConn) Read(b []byte) (n int, err error) {
	n, err = c.Conn.Read(b)
	for c.atStart && n > 0 && err == nil {
		var used int
		if used, err = c.begin(b[:n]); err != nil {
			return 0, err
		}
		if n = copy(b, b[used:n]); n == 0 {
			n, err = c.Conn.Read(b)
		}
	}
	if c.missing -= n; c.missing == -1 && n > 0 {
		c.ahead = []byte{b[n-1]}
	}
	return n, err
}

// begin answers the request that b begins with and returns its size; 0 when it is for net/http.
func (c *fastConn) begin(b []byte) (size int, err error) {
	whole := b
	if c.ahead != nil {
		whole = slices.Concat(c.ahead, b)
	}
	r, size, plain := readPlain(whole)
	// Only the method that net/http saw last, so that what it remembers of that request is true of those answered here too.
	if c.path != nil && plain && c.ahead == nil && r.post == c.post {
		if answered, err := c.path.answer(c, &r); answered {
			return size, err
		}
	}
	c.atStart, c.post, c.missing, c.ahead = false, r.post, size-len(c.ahead), nil
	return 0, nil
}

// answer answers r if it is for a token that memory holds and nothing speaks against that. It never waits for anything
// but the caller to read.
func (p *fastPath) answer(c *fastConn, r *plainRequest) (answered bool, err error) {
	h, now := p.handler, time.Now()
	defer h.inUse.Add(-1)
	if h.inUse.Add(1) > int64(h.opts.MaxConcurrent) || h.Draining() || !h.guard.admits(r) {
		return false, nil
	}
	t, ok := h.known(r, now)
	if !ok {
		return false, nil
	}
	if err := c.putOffLimits(now); err != nil {
		return true, err
	}
	buffer, _ := buffers.Get().(*[]byte)
	defer release(buffer)
	_, err = c.Write(p.appendAnswer(buffer, t))
	h.done(context.Background(), hitMemory, now)
	return true, err
}

// putOffLimits puts the limits of time off as net/http would, but no more than once a second: each time costs as much as
// a look-up. They come a second later instead.
func (c *fastConn) putOffLimits(now time.Time) error {
	if now.Sub(c.limited) < time.Second {
		return nil
	}
	c.limited = now
	return errors.Join(c.SetReadDeadline(now.Add(c.path.idle+time.Second)), c.SetWriteDeadline(now.Add(c.path.write+time.Second)))
}

// known returns the token that r asks for, if memory holds it.
func (h *Handler) known(r *plainRequest, now time.Time) (t vend.Token, ok bool) {
	path, f, ok := h.call(string(r.path))
	var err error
	switch {
	case ok && r.post && len(r.query) == 0:
		err = f.parseJSON(string(r.body))
	case ok && !r.post && !f.dropIn:
		err = f.parseQuery(string(r.query))
	default:
		return vend.Token{}, false
	}
	if err != nil {
		return vend.Token{}, false
	}
	req, err := h.request(&f, path)
	if err != nil {
		return vend.Token{}, false
	}
	return h.broker.Known(now, req)
}

// appendAnswer makes the whole of an answer in buffer, as net/http would write it.
func (p *fastPath) appendAnswer(buffer *[]byte, t vend.Token) []byte {
	age := t.Age()
	b := render((*buffer)[:0], t.Entry, age)
	size := len(b) // the head tells it, and so is made behind the body
	b = append(append(b, "HTTP/1.1 200 OK\r\nCache-Control: "...), noStore[0]...)
	b = appendCacheStatus(append(b, "\r\nCache-Status: "...), t, vend.SecondsLeft(t.Entry.Life, age))
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(size), 10)
	b = append(append(b, "\r\nContent-Type: "...), jsonType[0]...)
	b = append(append(b, "\r\nDate: "...), p.date.at(t.At)...)
	b = append(b, "\r\n\r\n"...)
	b = append(b, b[:size]...)
	*buffer = b
	return b[size:]
}

// A dateline is the Date header (RFC 9110, section 6.6.1), written anew once a second.
type dateline struct{ last atomic.Pointer[datedSecond] }

type datedSecond struct {
	unix int64
	text string
}

func (d *dateline) at(now time.Time) string {
	last := d.last.Load()
	if unix := now.Unix(); last == nil || last.unix != unix {
		last = &datedSecond{unix, now.UTC().Format(http.TimeFormat)}
		d.last.Store(last)
	}
	return last.text
}

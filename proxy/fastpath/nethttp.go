package fastpath

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// This file contains everything that the package relies on in net/http. Each point is a row in docs/fastpath.md.

// follow makes the server tell each connection when it has finished a request. The server calls ConnState in the
// goroutine that will read the next request, before it reads, and while no other goroutine reads.
func (p *Path) follow(server *http.Server) {
	next := server.ConnState
	server.ConnState = func(nc net.Conn, state http.ConnState) {
		if c, ok := nc.(*conn); ok && state == http.StateIdle {
			c.becomeIdle()
		}
		if next != nil {
			next(nc, state)
		}
	}
}

// A conn is a connection that net/http reads from. It must know where requests begin: the middle of a request, taken
// for the beginning of one, would be answered instead of it.
type conn struct {
	net.Conn
	path   *Path
	socket *socket // nil: there is only Conn

	waiting bool   // net/http waits for a request, and has no more of it than ahead
	lost    bool   // the beginning of the next request is unknown, so net/http keeps the connection
	unread  int    // how much of its request net/http has yet to read; negative if it has read beyond it
	ahead   []byte // the first byte of the next request, which net/http reads to notice when the caller leaves
	// method is that of the last request that net/http read. net/http also remembers it, and ignores an empty line
	// after a POST; no other method is answered here.
	method   string
	extended time.Time // when the fast path last extended the deadlines
}

// becomeIdle is called when net/http has finished a request. Everything that it was given beyond that request is still
// in its buffers.
func (c *conn) becomeIdle() {
	c.lost = c.lost || c.unread > 0
	c.waiting, c.extended = !c.lost, time.Time{}
}

// Read implements [net.Conn] for net/http, which does not see the requests that are answered here.
func (c *conn) Read(b []byte) (n int, err error) {
	if c.waiting && len(b) > 0 {
		n, err = c.readRequests(b)
	} else {
		n, err = c.Conn.Read(b)
	}
	c.handed(b[:n])
	return n, err
}

// readRequests answers requests, and returns how much of b is for net/http.
func (c *conn) readRequests(b []byte) (n int, err error) {
	readErr := c.each(b, func(received int) (more bool) {
		n = received
		for c.waiting && n > 0 && err == nil {
			var answered int
			if answered, err = c.begin(b[:n]); err != nil {
				answered = n
			}
			n = copy(b, b[answered:n])
		}
		return n == 0 && err == nil
	})
	return n, cmp.Or(err, readErr)
}

// each reads into b repeatedly, and calls do with how much arrived, until do returns false.
func (c *conn) each(b []byte, do func(n int) (more bool)) error {
	if c.socket != nil {
		return c.socket.each(b, do)
	}
	for {
		n, err := c.Conn.Read(b)
		if n > 0 && !do(n) {
			return nil // Read will return the error again
		}
		if err != nil {
			return err
		}
	}
}

// begin answers the request at the beginning of b and returns its size, or 0 to leave it to net/http.
func (c *conn) begin(b []byte) (answered int, err error) {
	received := b
	if c.ahead != nil {
		received = slices.Concat(c.ahead, b)
	}
	r, size, plain := readRequest(received)
	if plain && c.ahead == nil && r.Method == c.method {
		r.Received = time.Now()
		if answered, err := c.path.answer(c, r); answered {
			return size, err
		}
	}
	c.waiting, c.lost, c.method = false, size == 0, r.Method
	c.unread, c.ahead = size-len(c.ahead), nil
	return 0, nil
}

// handed counts what net/http is given.
func (c *conn) handed(b []byte) {
	if len(b) == 0 {
		return
	}
	switch c.unread -= len(b); {
	case c.unread == -1:
		c.ahead = []byte{b[len(b)-1]}
	case c.unread < -1:
		c.lost = true
	}
}

// send writes the answer to a request that was received at that time.
func (c *conn) send(answer []byte, received time.Time) error {
	if err := c.extend(received); err != nil {
		return err
	}
	if c.socket != nil {
		if answer = answer[c.socket.send(answer):]; len(answer) == 0 {
			return nil
		}
	}
	if _, err := c.Write(answer); err != nil {
		return err
	}
	if time.Since(received) > time.Second { // the caller was slow to read, and is idle from here on
		return c.extend(time.Now())
	}
	return nil
}

// extend extends the deadlines as net/http would, but no more than once a second, because that costs as much as a
// lookup in the cache. In return they are one second later.
func (c *conn) extend(now time.Time) error {
	if now.Sub(c.extended) < time.Second {
		return nil
	}
	c.extended = now
	return errors.Join(
		c.SetReadDeadline(now.Add(c.path.idle+time.Second)),
		c.SetWriteDeadline(now.Add(c.path.write+time.Second)))
}

// An Answer is an answer with status 200, formatted as by net/http: first the header fields that a handler sets,
// including Content-Length, in the order of their names, then Date.
type Answer struct {
	// Body must be complete before the first call of Set.
	Body []byte

	head   []byte
	length bool // Content-Length is in head
}

// Set adds a header field, other than Content-Length and Date. Call it in the order of the names. The value must not
// contain a line break.
func (a *Answer) Set(name string, value []byte) {
	if name > "Content-Length" {
		a.setLength()
	}
	a.head = append(append(append(append(a.head, name...), ": "...), value...), "\r\n"...)
}

func (a *Answer) setLength() {
	if !a.length {
		a.length = true
		a.head = append(strconv.AppendInt(append(a.head, "Content-Length: "...), int64(len(a.Body)), 10), "\r\n"...)
	}
}

// finish returns the whole answer.
func (a *Answer) finish(date string) []byte {
	a.setLength()
	a.head = append(append(append(a.head, "Date: "...), date...), "\r\n\r\n"...)
	a.head = append(a.head, a.Body...)
	return a.head
}

// begin resets a, which may have been used before.
func (a *Answer) begin() {
	*a = Answer{Body: a.Body[:0], head: append(a.head[:0], "HTTP/1.1 200 OK\r\n"...)}
}

// clear removes the secrets from a.
func (a *Answer) clear() {
	clear(a.Body)
	clear(a.head)
}

// A dateline is the Date header (RFC 9110, section 6.6.1), formatted once a second.
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

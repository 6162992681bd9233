package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// net/http puts off the deadlines of a connection several times for each request, and hardly ever lets one come. To the
// runtime each time is a timer moved, which adds up to a twentieth of what a token from memory costs. Here a deadline
// is a number, and the runtime is told again only when the one it knows of has come.

// putOffDeadlines gives the connections of a listener deadlines that are cheap to put off.
type putOffDeadlines struct{ net.Listener }

// Accept implements [net.Listener].
func (l putOffDeadlines) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &patientConn{Conn: conn}
	c.read.tell, c.write.tell = conn.SetReadDeadline, conn.SetWriteDeadline
	return c, nil
}

// patientConn is a [net.Conn] with such deadlines. One goroutine may read at a time, and one write.
type patientConn struct {
	net.Conn
	read, write deadline
}

// Read implements [net.Conn].
func (c *patientConn) Read(b []byte) (n int, err error) {
	for c.read.enter() {
		n, err = c.Conn.Read(b)
		if again := c.read.leave(err); !again || n > 0 {
			return n, err
		}
	}
	return 0, os.ErrDeadlineExceeded
}

// Write implements [net.Conn].
func (c *patientConn) Write(b []byte) (written int, err error) {
	for c.write.enter() {
		n, err := c.Conn.Write(b[written:])
		written += n
		if again := c.write.leave(err); !again {
			return written, err
		}
	}
	return written, os.ErrDeadlineExceeded
}

// SetReadDeadline implements [net.Conn].
func (c *patientConn) SetReadDeadline(t time.Time) error { return c.read.set(t) }

// SetWriteDeadline implements [net.Conn].
func (c *patientConn) SetWriteDeadline(t time.Time) error { return c.write.set(t) }

// SetDeadline implements [net.Conn].
func (c *patientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.read.set(t), c.write.set(t))
}

// A deadline is that of one direction of a connection.
type deadline struct {
	tell func(time.Time) error // the runtime

	mu   sync.Mutex
	at   time.Time // zero: none
	told time.Time // what the runtime knows, at or before at; zero: nothing
	busy bool      // somebody reads or writes, and has to be woken when at comes before told
}

// longAgo is before any deadline but those that mean at once, which net/http sets to end a read.
var longAgo = time.Unix(1<<20, 0)

func (d *deadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	switch {
	case t.IsZero(), !d.told.IsZero() && !t.Before(d.told):
		return nil // leave looks again when told comes
	case t.Before(longAgo) && !d.busy:
		return nil // enter looks
	default:
		return d.tellLocked()
	}
}

func (d *deadline) tellLocked() error {
	d.told = d.at
	return d.tell(d.at)
}

// enter is false when nothing may be read or written any more.
func (d *deadline) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at.IsZero() && d.at.Before(longAgo) {
		return false
	}
	d.busy = true
	return true
}

// leave reports whether err is only a deadline that was put off meanwhile, or is not.
func (d *deadline) leave(err error) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = false
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !d.at.IsZero() && !d.at.After(time.Now()) {
		return false
	}
	return d.tellLocked() == nil
}

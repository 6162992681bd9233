// Package fastpath answers plain requests on the connections of an [http.Server], below it.
//
// Most of the cost of a small request is net/http's. Between two requests on a connection, this package therefore reads
// first. If it gets one whole request in the form that most clients use, and a [Responder] has the answer at hand, it
// sends the bytes that net/http would have sent. Everything else is passed to net/http unchanged, including anything
// that may not be the beginning of a request.
//
// It promises: a caller cannot tell which of the two answered; nothing that connections share is held while an answer
// is being written, so that a caller who does not read delays nobody else; and the server's time limits apply, at most
// a second late.
//
// nethttp.go and docs/fastpath.md list what it relies on in net/http; the latter says how to check a Go upgrade.
package fastpath

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A Responder provides the answers. It is called for every request that the fast path could answer.
type Responder interface {
	// Respond fills in the answer to r, or returns false to leave r to net/http. It must not wait for anything, nor
	// keep r or a.
	Respond(r Request, a *Answer) bool
}

// A Path is the fast path of one server.
type Path struct {
	responder   Responder
	idle, write time.Duration // the server's time limits
	answers     sync.Pool     // of *Answer
	inProgress  atomic.Int64
	date        dateline
}

// New gives server a fast path, which is taken on the connections of [Path.Listener]. The server must not be serving
// yet, and needs an IdleTimeout and a WriteTimeout.
func New(server *http.Server, r Responder) *Path {
	p := &Path{responder: r, idle: server.IdleTimeout, write: server.WriteTimeout}
	p.answers.New = func() any { return new(Answer) }
	p.follow(server)
	return p
}

// Listener returns l for the server to serve.
func (p *Path) Listener(l net.Listener) net.Listener { return listener{l, p} }

// InProgress is how many answers are being written. The server does not know about them and would close their
// connections as idle, so wait for them before shutting it down.
func (p *Path) InProgress() int { return int(p.inProgress.Load()) }

// answer answers r, if the Responder does.
func (p *Path) answer(c *conn, r Request) (answered bool, err error) {
	p.inProgress.Add(1)
	defer p.inProgress.Add(-1)
	a, _ := p.answers.Get().(*Answer)
	a.begin()
	defer func() {
		a.clear()
		p.answers.Put(a)
	}()
	if !p.responder.Respond(r, a) {
		return false, nil
	}
	return true, c.send(a.finish(p.date.at(r.Received)), r.Received)
}

// A listener accepts connections with a fast path.
type listener struct {
	net.Listener
	path *Path
}

// Accept implements [net.Listener].
func (l listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: accepted, path: l.path, socket: newSocket(accepted), waiting: true}, nil
}

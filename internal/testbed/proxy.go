package testbed

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Proxy is a TCP proxy that can be told to break traffic. Its faults affect existing connections and new ones.
type Proxy struct {
	Addr string
	// Late is the delay of a reply with [ReplyLate].
	Late time.Duration
	// Counts reports which commands are steps.
	Counts func(args []string) bool

	t       testing.TB
	target  string
	resp    bool
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while down
	links    map[*link]bool
	faults   faults
	changed  chan struct{} // closed when faults changes
	steps    []Step
	before   func(Step) Fault
	after    func(Step)
}

// faults are the current faults of a proxy.
type faults struct {
	latency          time.Duration
	blackHole, reset bool
	cut              *int // each CutAfter has its own, so that connections count from it
	frozen           bool
	readOnly         bool
}

// StartProxy starts a proxy in front of target. It ends with the test.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	return start(&Proxy{t: t, target: target})
}

func start(p *Proxy) *Proxy {
	p.t.Helper()
	p.Addr = FreeAddr(p.t)
	p.links = map[*link]bool{}
	p.changed = make(chan struct{})
	p.Up()
	p.t.Cleanup(func() {
		p.Down()
		p.running.Wait()
	})
	return p
}

// Slow delays data from the server by ms milliseconds.
func (p *Proxy) Slow(ms int) {
	p.change(func(f *faults) { f.latency = time.Duration(ms) * time.Millisecond })
}

// BlackHole drops data from the server, without a reset. Heal closes the connections that lost something.
func (p *Proxy) BlackHole() { p.change(func(f *faults) { f.blackHole = true }) }

// Reset resets connections as soon as the server sends something.
func (p *Proxy) Reset() { p.change(func(f *faults) { f.reset = true }) }

// CutAfter closes connections after that many bytes from the server.
func (p *Proxy) CutAfter(bytes int) { p.change(func(f *faults) { f.cut = &bytes }) }

// ReadOnly answers all scripts as a replica does that may not write, also those that are no steps. The proxy must be
// one of [StartRESPProxy].
func (p *Proxy) ReadOnly() { p.change(func(f *faults) { f.readOnly = true }) }

// Heal undoes Slow, BlackHole, Reset, CutAfter and ReadOnly.
func (p *Proxy) Heal() { p.change(func(f *faults) { *f = faults{frozen: f.frozen} }) }

// Freeze holds all data on all connections, in both directions, as if the process at one end were stopped. New
// connections are accepted, as a kernel does for a stopped process, but get no further.
func (p *Proxy) Freeze() { p.change(func(f *faults) { f.frozen = true }) }

// Thaw undoes Freeze: held data is passed on, even if its sender has closed the connection meanwhile.
func (p *Proxy) Thaw() { p.change(func(f *faults) { f.frozen = false }) }

// Down refuses new connections and closes existing ones.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return
	}
	_ = p.listener.Close()
	p.listener = nil
	for l := range p.links {
		l.end()
	}
}

// Up undoes Down.
func (p *Proxy) Up() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	// A process that is being started has the sockets of this one for a moment, closed listeners included.
	var listener net.Listener
	Eventually(p.t, "the proxy listens", func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.Addr)
		return err
	})
	p.listener = listener
	p.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.connect(listener, client.(*net.TCPConn)) })
		}
	})
}

func (p *Proxy) change(f func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

// now returns the current faults, and a channel that is closed when they change.
func (p *Proxy) now() (faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

// connect serves one connection until it ends.
func (p *Proxy) connect(listener net.Listener, client *net.TCPConn) {
	defer client.Close()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	l := &link{proxy: p, client: client, done: ctx.Done(), end: end, out: make(chan chunk, 1024)}
	p.mu.Lock()
	accepted := p.listener == listener
	if accepted {
		p.links[l] = true
	}
	p.mu.Unlock()
	if !accepted {
		return
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	}()
	if !l.thawed() {
		return
	}
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	l.server = server.(*net.TCPConn)

	up, down := l.bytesUp, l.bytesDown
	if p.resp {
		up, down = l.commands, l.replies
	}
	var pumps sync.WaitGroup
	pumps.Go(up)
	pumps.Go(down)
	pumps.Go(l.deliver)
	<-l.done
	_, _ = client.Close(), server.Close()
	pumps.Wait()
}

// A link is one connection through the proxy. One goroutine passes on what the client sends, one reads what the server
// sends, and a third delivers that to the client, each piece when it is due.
type link struct {
	proxy          *Proxy
	client, server *net.TCPConn
	done           <-chan struct{}
	end            context.CancelFunc // closes both connections
	out            chan chunk

	swallowed atomic.Bool // whether the client did not get something

	// Only deliver uses these.
	gone   bool
	cut    *int
	passed int // bytes, since cut was set

	// Only a link that parses RESP uses these.
	mu         sync.Mutex
	queue      []*expected
	lost       bool // the client gets no more replies
	subscribed bool
}

// A chunk is the next item for the client.
type chunk struct {
	data   []byte
	at     time.Time // when it arrived
	notYet time.Time // the earliest time of its delivery
	reset  bool      // instead of data: the connection is reset
	end    bool      // instead of data: the server closed the connection
}

// emit hands c to deliver.
func (l *link) emit(c chunk) {
	c.at = time.Now()
	select {
	case l.out <- c:
	case <-l.done:
	}
}

// thawed waits while the proxy is frozen; it returns false if the connection has ended.
func (l *link) thawed() bool {
	for {
		f, changed := l.proxy.now()
		if !f.frozen {
			return true
		}
		select {
		case <-changed:
		case <-l.done:
			return false
		}
	}
}

// send passes data on to the server.
func (l *link) send(data []byte) bool {
	if !l.thawed() {
		return false
	}
	_, err := l.server.Write(data)
	return err == nil
}

// clientEnded passes on that the client has stopped sending. The connection ends when the server has closed it too, so
// that the server executes everything that it received, even if nobody reads the answer.
func (l *link) clientEnded() {
	if l.thawed() {
		_ = l.server.CloseWrite()
	}
}

func (l *link) bytesUp() {
	buffer := make([]byte, 32<<10)
	for {
		n, err := l.client.Read(buffer)
		if n > 0 && !l.send(buffer[:n]) {
			return
		}
		if err != nil {
			l.clientEnded()
			return
		}
	}
}

func (l *link) bytesDown() {
	for {
		buffer := make([]byte, 32<<10)
		n, err := l.server.Read(buffer)
		if n > 0 {
			l.emit(chunk{data: buffer[:n]})
		}
		if err != nil {
			l.emit(chunk{end: true})
			return
		}
	}
}

// deliver writes to the client, and applies the faults.
func (l *link) deliver() {
	defer l.end()
	for {
		f, changed := l.proxy.now()
		if l.swallowed.Load() && !f.blackHole {
			return // a stream with missing data cannot continue
		}
		select {
		case <-l.done:
			return
		case <-changed:
		case c := <-l.out:
			if f, ok := l.due(c); !ok || !l.pass(c, f) {
				return
			}
		}
	}
}

// due waits until c may be delivered, and returns the faults at that time.
func (l *link) due(c chunk) (faults, bool) {
	for {
		f, changed := l.proxy.now()
		wait := max(time.Until(c.at.Add(f.latency)), time.Until(c.notYet))
		if wait <= 0 && !f.frozen {
			return f, true
		}
		var timer <-chan time.Time
		if !f.frozen {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-l.done:
			return f, false
		}
	}
}

// pass delivers c, and reports whether the connection continues.
func (l *link) pass(c chunk, f faults) bool {
	if f.cut != l.cut {
		l.cut, l.passed = f.cut, 0
	}
	data := c.data
	switch {
	case c.reset, f.reset:
		_ = l.client.SetLinger(0)
		return false
	case c.end:
		return false
	case f.blackHole:
		l.swallowed.Store(true)
		return true
	case f.cut != nil:
		data = data[:min(len(data), *f.cut-l.passed)]
		l.passed += len(data)
	}
	if !l.gone {
		_, err := l.client.Write(data)
		l.gone = err != nil // what it sent before it left is still executed
	}
	return f.cut == nil || l.passed < *f.cut
}

// Package bench compares the sidecar with what one would use instead and with the limit of the machine, in interleaved
// runs, and writes docs/performance.md. See make bench.
package bench

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Load is what the generator sends to one server.
//
// The generator is one thread over epoll, so that it takes as little as possible of a machine it shares with the
// server: with a goroutine for each connection, it would itself be half of what is measured.
type Load struct {
	// Addr is host:port on loopback.
	Addr string
	// Conns is the number of connections. They are opened before the first request is sent.
	Conns int
	// Requests are whole HTTP/1.1 requests; each time, a random one is sent.
	Requests [][]byte
	// For is how long requests are sent. 0: each connection sends one, all at once, and the generator checks for
	// answers every millisecond: being woken for each would be a tenth of the server's work.
	For time.Duration
	// Once sends each of the requests once, in order.
	Once bool
	// Rate is how many requests arrive per second (open loop, at random intervals). A request that finds no free
	// connection waits, and its waiting time counts. 0: a connection sends the next request when it has its answer.
	Rate float64
}

func (l Load) atOnce() bool { return l.For == 0 && !l.Once }

// A Result is what the generator observed.
type Result struct {
	// Failures counts answers other than 200; Sample is one of them.
	Failures int
	Sample   string
	// Elapsed is from the first request sent to the last answer received.
	Elapsed time.Duration
	// Latencies are sorted. With a Rate they count from when the request was due.
	Latencies []time.Duration
}

// Throughput is answers in a second.
func (r Result) Throughput() float64 { return float64(len(r.Latencies)) / r.Elapsed.Seconds() }

// Quantile is the latency that the share q of requests did not exceed.
func (r Result) Quantile(q float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[min(int(q*float64(len(r.Latencies))), len(r.Latencies)-1)]
}

// conn is one connection.
type conn struct {
	fd   int
	due  time.Time // of the request in progress
	busy bool
	in   []byte
}

type generator struct {
	load  Load
	epoll int
	conns []conn
	free  []int       // indices of idle connections
	queue []time.Time // due times of requests that found none
	rest  int         // requests in progress
	sent  int
	res   Result
}

// Run sends the load, from the first processor. The error is about the machine or means that the server closed a
// connection; wrong answers are in the Result.
func (l Load) Run() (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	allowed, all, err := processors()
	if err != nil {
		return Result{}, err
	}
	var first unix.CPUSet
	first.Set(all[0])
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		return Result{}, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &allowed) }() // the thread will be used again
	return l.run()
}

// processors are those that this thread may use, at least one, also in the system's format.
func processors() (allowed unix.CPUSet, all []int, err error) {
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return allowed, nil, fmt.Errorf("bench: %w", err)
	}
	for i := range 8 * int(unsafe.Sizeof(allowed)) {
		if allowed.IsSet(i) {
			all = append(all, i)
		}
	}
	return allowed, all, nil
}

func (l Load) run() (Result, error) {
	g := &generator{load: l, conns: make([]conn, l.Conns)}
	defer g.close()
	if err := g.open(); err != nil {
		return Result{}, err
	}
	began := time.Now()
	if err := g.loop(began); err != nil {
		return Result{}, err
	}
	g.res.Elapsed = time.Since(began)
	slices.Sort(g.res.Latencies)
	return g.res, nil
}

func (g *generator) open() (err error) {
	addr, err := netip.ParseAddrPort(g.load.Addr)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if g.epoll, err = unix.EpollCreate1(0); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for i := range g.conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return fmt.Errorf("bench: connection %d: %w", i, err)
		}
		g.conns[i] = conn{fd: fd, in: make([]byte, 0, 2048)}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
			return fmt.Errorf("bench: connection %d: %w", i, err)
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetNonblock(fd, true)
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		g.free = append(g.free, i)
	}
	return nil
}

func (g *generator) close() {
	for _, c := range g.conns {
		if c.fd > 0 {
			_ = unix.Close(c.fd)
		}
	}
	_ = unix.Close(g.epoll)
}

func (g *generator) loop(began time.Time) error {
	events := make([]unix.EpollEvent, 1024)
	end, next := began.Add(g.load.For), began
	if g.load.Rate == 0 {
		for len(g.free) > 0 {
			if err := g.send(time.Now()); err != nil {
				return err
			}
		}
	}
	for {
		now := time.Now()
		timeout := -1
		if g.load.Rate > 0 {
			for !next.After(now) && next.Before(end) {
				g.queue = append(g.queue, next)
				next = next.Add(time.Duration(rand.ExpFloat64() / g.load.Rate * float64(time.Second))) //nolint:gosec // when somebody asks
			}
			if next.Before(end) {
				timeout = int(max(0, time.Until(next)) / time.Millisecond) // the rest of a millisecond is spent spinning
			}
		}
		for len(g.queue) > 0 && len(g.free) > 0 {
			if err := g.send(g.queue[0]); err != nil {
				return err
			}
			g.queue = g.queue[1:]
		}
		if g.rest == 0 && !next.Before(end) {
			return nil
		}
		if g.load.atOnce() {
			time.Sleep(time.Millisecond)
		}
		n, err := unix.EpollWait(g.epoll, events, timeout)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("bench: %w", err)
		}
		for _, event := range events[:max(n, 0)] {
			if err := g.receive(int(event.Fd), end); err != nil {
				return err
			}
		}
		if g.load.Rate == 0 {
			next = end // nothing arrives on its own
		}
	}
}

// send sends a request that was due at that time on a free connection.
func (g *generator) send(due time.Time) error {
	i := g.free[len(g.free)-1]
	g.free = g.free[:len(g.free)-1]
	c := &g.conns[i]
	c.due, c.busy = due, true
	g.rest++
	request := g.load.Requests[rand.IntN(len(g.load.Requests))] //nolint:gosec // which user asks
	if g.load.Once {
		request = g.load.Requests[g.sent]
	}
	g.sent++
	if n, err := unix.Write(c.fd, request); err != nil || n != len(request) {
		return fmt.Errorf("bench: a request was not sent: %w", cmp.Or(err, errors.New("the socket is full")))
	}
	return nil
}

// receive reads what arrived on a connection. When the answer is complete, it frees the connection, or sends the next
// request.
func (g *generator) receive(i int, end time.Time) error {
	c := &g.conns[i]
	n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err != nil || n == 0 || !c.busy {
		return fmt.Errorf("bench: the server closed a connection: %w", cmp.Or(err, errors.New("after "+string(c.in))))
	}
	c.in = c.in[:len(c.in)+n]
	size, complete := answerSize(c.in)
	if !complete {
		if len(c.in) == cap(c.in) {
			c.in = slices.Grow(c.in, cap(c.in))
		}
		return nil
	}
	if !bytes.HasPrefix(c.in, []byte("HTTP/1.1 200 ")) || size != len(c.in) {
		g.res.Failures++
		g.res.Sample = string(c.in)
	}
	now := time.Now()
	g.res.Latencies = append(g.res.Latencies, now.Sub(c.due))
	c.in, c.busy = c.in[:0], false
	g.rest--
	g.free = append(g.free, i)
	if g.load.Rate == 0 && (now.Before(end) || g.load.Once && g.sent < len(g.load.Requests)) {
		return g.send(now)
	}
	return nil
}

var (
	headEnd = []byte("\r\n\r\n")
	// lengthName is spelled as most servers do, and as HAProxy does.
	lengthName, lengthNameLower = []byte("Content-Length: "), []byte("content-length: ")
)

// answerSize is the size of the HTTP answer at the beginning of b, and whether b contains all of it.
func answerSize(b []byte) (size int, complete bool) {
	head := bytes.Index(b, headEnd)
	if head < 0 {
		return 0, false
	}
	size = head + len(headEnd)
	at := bytes.Index(b[:head], lengthName)
	if at < 0 {
		at = bytes.Index(b[:head], lengthNameLower)
	}
	if at >= 0 {
		digits := b[at+len(lengthName) : head]
		if end := bytes.IndexByte(digits, '\r'); end >= 0 {
			digits = digits[:end]
		}
		length, err := strconv.Atoi(string(digits))
		if err != nil {
			return 0, false
		}
		size += length
	}
	return size, len(b) >= size
}

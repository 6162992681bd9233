package fastpath

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"token-sidecar/internal/testbed"
)

// patience is how long a test waits for what comes at once. It is less than any time limit of the servers here.
const patience = 20 * time.Second

// A handler answers in both ways.
type handler interface {
	Responder
	http.Handler
}

// A host serves on a socket.
type host struct {
	addr  net.Addr
	path  *Path
	idle  atomic.Int64  // how many requests net/http has finished
	ended chan struct{} // has an element for each connection that the server has closed
	stop  func()
}

// serveOn serves h on a socket until the test ends.
func serveOn(t *testing.T, network string, fast bool, idle time.Duration, h handler) *host {
	t.Helper()
	where := "127.0.0.1:0"
	if network == "unix" {
		where = filepath.Join(t.TempDir(), "s")
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), network, where)
	if err != nil {
		t.Fatal(err)
	}
	served := &host{addr: listener.Addr(), ended: make(chan struct{}, 10)}
	server := &http.Server{
		Handler: h, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: idle,
		ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateIdle:
				served.idle.Add(1)
			case http.StateClosed:
				served.ended <- struct{}{}
			}
		},
	}
	served.path = New(server, h)
	serving := listener
	if fast {
		serving = served.path.Listener(listener)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(serving) })
	served.stop = func() {
		_ = server.Close()
		running.Wait()
	}
	t.Cleanup(served.stop)
	return served
}

// connect returns a connection whose next request the fast path reads: net/http has finished one. It fails after
// patience.
func (h *host) connect(t *testing.T) *caller {
	t.Helper()
	c, before := dial(t, h.addr), h.idle.Load()
	c.send(t, get("/echo?first"))
	if err := c.read(1); err != nil {
		t.Fatal(err)
	}
	testbed.Until(t, "net/http has finished", func() bool { return h.idle.Load() > before })
	return c
}

// A caller sends requests on one connection.
type caller struct {
	net.Conn
	answers bytes.Buffer
	reader  *bufio.Reader // of what the server sends, which goes to answers
}

// dial connects to addr. The connection fails after patience.
func dial(t *testing.T, addr net.Addr) *caller {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &caller{Conn: conn}
	c.reader = bufio.NewReader(io.TeeReader(conn, &c.answers))
	return c
}

func (c *caller) send(t *testing.T, request string) {
	t.Helper()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
}

// read reads n answers.
func (c *caller) read(n int) error {
	for range n {
		answer, err := http.ReadResponse(c.reader, nil)
		if err != nil {
			return err
		}
		if _, err = io.Copy(io.Discard, answer.Body); err != nil {
			return err
		}
	}
	return nil
}

var date = regexp.MustCompile("Date: .*\r\n")

// A dialogue is what a caller does.
type dialogue struct {
	pieces []string
	waits  bool // for the answers to each piece
	reset  bool // rather than ending the requests and reading the rest of the answers
}

// play returns the answers of h, without what is left to chance. It fails if the server does not
// notice the end.
func (d dialogue) play(t *testing.T, h *host) (string, error) {
	t.Helper()
	c := dial(t, h.addr)
	defer c.Close()
	for _, piece := range d.pieces {
		if _, err := c.Write([]byte(piece)); err != nil {
			return "", err
		}
		if d.waits {
			if err := c.read(strings.Count(piece, " HTTP/1.1\r\n")); err != nil {
				return "", err
			}
		}
	}
	if tcp, ok := c.Conn.(*net.TCPConn); ok && d.reset {
		_ = tcp.SetLinger(0)
		_ = c.Close()
	} else if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		if _, err := io.Copy(io.Discard, c.reader); err != nil {
			return "", fmt.Errorf("the end of the requests was not noticed: %w", err)
		}
	}
	select {
	case <-h.ended:
	case <-time.After(patience):
		return "", errors.New("the end of the connection was not noticed")
	}
	if d.reset && !d.waits {
		return "", nil
	}
	return date.ReplaceAllString(c.answers.String(), ""), nil
}

// TestSockets: on sockets too, a caller cannot distinguish servers with and without the fast path, however the
// connection ends, and the end is noticed at once.
func TestSockets(t *testing.T) {
	requests := []string{
		get("/echo?1"), get("/echo?2"), get("/echo?3"), post("/echo", "a"), post("/echo", "b"), get("/other"),
		post("/unread", "c"), strings.Repeat(get("/echo?4"), 40), get("/echo?" + strings.Repeat("x", 5000)),
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			e := &echo{}
			with, without := serveOn(t, network, true, time.Minute, e), serveOn(t, network, false, time.Minute, &echo{})
			rapid.Check(t, func(r *rapid.T) {
				d := dialogue{
					pieces: rapid.SliceOfN(rapid.SampledFrom(requests), 1, 6).Draw(r, "pieces"),
					waits:  rapid.Bool().Draw(r, "waits"), reset: rapid.Bool().Draw(r, "reset"),
				}
				if !d.waits && rapid.Bool().Draw(r, "cut") {
					d.pieces = append(d.pieces, get("/echo?5")[:20])
				}
				got, err := d.play(t, with)
				if err != nil {
					r.Fatal(err)
				}
				want, err := d.play(t, without)
				if err != nil || got != want {
					r.Fatalf("answered\n%s\nin place of\n%s %v", got, want, err)
				}
			})
			if e.here.Load() == 0 {
				t.Error("nothing was answered on the fast path")
			}
		})
	}
}

// A slow echo waits, in Respond, for a query of "wait".
type slow struct {
	*echo
	waiting, proceed chan struct{}
}

// Respond implements [Responder].
func (s slow) Respond(r Request, a *Answer) bool {
	if string(r.Query) == "wait" {
		s.waiting <- struct{}{}
		<-s.proceed
	}
	return s.echo.Respond(r, a)
}

// TestARequestAndTheEndTogether: the end is noticed though it came before the last request was read, and will not be
// reported again.
func TestARequestAndTheEndTogether(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s := slow{&echo{}, make(chan struct{}), make(chan struct{})}
			c := serveOn(t, network, true, time.Minute, s).connect(t)
			defer c.Close()
			c.send(t, get("/echo?wait"))
			select {
			case <-s.waiting:
			case <-time.After(patience):
				t.Fatal("it was not answered on the fast path")
			}
			c.send(t, get("/echo?2"))
			if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			s.proceed <- struct{}{}
			if _, err := io.Copy(io.Discard, c.reader); err != nil {
				t.Errorf("the end was not noticed: %v", err)
			}
			if here, answers := s.here.Load(), strings.Count(c.answers.String(), " 200 OK\r\n"); here != 2 || answers != 3 {
				t.Errorf("%d answers, %d of them on the fast path", answers, here)
			}
		})
	}
}

// TestTheWaitEnds: while the fast path waits for a request, the idle timeout and the end of the server end it.
func TestTheWaitEnds(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for name, idle := range map[string]time.Duration{"idle": 2 * time.Second, "closed": time.Minute} {
			t.Run(network+" "+name, func(t *testing.T) {
				t.Parallel()
				e := &echo{}
				h := serveOn(t, network, true, idle, e)
				c := h.connect(t)
				defer c.Close()
				c.send(t, get("/echo"))
				if err := c.read(1); err != nil || e.here.Load() != 1 {
					t.Fatalf("not answered on the fast path: %v", err)
				}
				if name == "closed" {
					h.stop()
				}
				if n, err := io.Copy(io.Discard, c.reader); n > 0 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
	}
}

// TestFilesAreRefused: what a caller on a Unix socket sends along (SCM_RIGHTS in unix(7)) is not opened here.
func TestFilesAreRefused(t *testing.T) {
	e := &echo{}
	c := serveOn(t, "unix", true, time.Minute, e).connect(t)
	defer c.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := open()
	const requests = 10
	for range requests {
		_, _, err := c.Conn.(*net.UnixConn).WriteMsgUnix([]byte(get("/echo")), unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.read(1); err != nil {
			t.Fatal(err)
		}
	}
	if here, after := e.here.Load(), open(); here != requests || after >= before+requests {
		t.Errorf("%d files were open before, %d after %d requests on the fast path", before, after, here)
	}
}

// A large answer is its own Responder and handler.
type large []byte

// Respond implements [Responder].
func (l large) Respond(_ Request, a *Answer) bool {
	a.Body = append(a.Body, l...)
	return true
}

// ServeHTTP implements [http.Handler].
func (l large) ServeHTTP(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(l) }

// TestAnAnswerThatDoesNotFit: a caller who reads late receives the whole answer, though the connection did not take it
// at once.
func TestAnAnswerThatDoesNotFit(t *testing.T) {
	want := make(large, 0, 16<<20) // more than any connection takes at once
	for i := uint64(0); len(want) < cap(want); i++ {
		want = binary.BigEndian.AppendUint64(want, i)
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			h := serveOn(t, network, true, time.Minute, want)
			c := h.connect(t)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute)) // it is much to read
			for range 2 {
				c.send(t, get("/"))
				testbed.Until(t, "the answer waits", func() bool { return h.path.InProgress() > 0 })
				answer, err := http.ReadResponse(c.reader, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(answer.Body); err != nil || !bytes.Equal(body, want) {
					t.Fatalf("of %d bytes, %d came, or others: %v", len(want), len(body), err)
				}
			}
		})
	}
}

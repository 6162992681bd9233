package admin

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A town is an in-memory network of several addresses, with one server.
type town struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

// A visit is a connection from an address.
type visit struct {
	net.Conn
	from string
}

func (v visit) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(v.from), Port: 1} }

// dial returns nil after the end of the server.
func (n *town) dial(from string) net.Conn {
	ours, theirs := net.Pipe()
	select {
	case n.conns <- visit{theirs, from}:
		return ours
	case <-n.done:
		return nil
	}
}

func (n *town) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *town) Close() error {
	n.close.Do(func() { close(n.done) })
	return nil
}

func (n *town) Addr() net.Addr { return &net.TCPAddr{} }

// populate starts a server in a network, and returns a function that ends it.
func populate(h http.Handler) (*town, func()) {
	n := &town{conns: make(chan net.Conn), done: make(chan struct{})}
	server := NewServer(h, slog.New(slog.DiscardHandler))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(n) })
	return n, func() {
		_ = server.Close()
		serving.Wait()
		time.Sleep(time.Minute) // for the requests that wait for their turn
	}
}

// A hostile client sends requests without a pause, over connections that it opens again when they are closed.
type hostile struct {
	from     string
	conns    int
	request  string
	answered atomic.Int64
}

// attack goes on until the server ends.
func (h *hostile) attack(n *town, all *sync.WaitGroup) {
	for range h.conns {
		all.Go(func() {
			for conn := n.dial(h.from); conn != nil; conn = n.dial(h.from) {
				all.Go(func() {
					for {
						if _, err := io.WriteString(conn, h.request); err != nil {
							return
						}
					}
				})
				for answers := bufio.NewReader(conn); ; {
					res, err := http.ReadResponse(answers, nil)
					if err != nil {
						break
					}
					_, _ = io.Copy(io.Discard, res.Body)
					h.answered.Add(1)
				}
				_ = conn.Close()
				time.Sleep(300 * time.Millisecond)
			}
		})
	}
}

func get(path string, lines ...string) string {
	return "GET " + path + " HTTP/1.1\r\n" + strings.Join(append(lines, "Host: 10.0.0.1"), "\r\n") + "\r\n\r\n"
}

// TestAFloodTakesABoundedShare: however many connections send requests without a pause, and for what, a limited number
// is answered; probes are answered in time, and so is a scraper.
func TestAFloodTakesABoundedShare(t *testing.T) {
	const length = 5 * time.Second
	for name, request := range map[string]string{
		"metrics":   get("/metrics"),
		"status":    get("/status.json"),
		"page":      get("/"),
		"unknown":   get("/unknown"),
		"refused":   get("/metrics", "Origin: http://evil.example"),
		"probes":    get("/livez"),
		"readiness": get("/readyz?x=y"),
		"post":      "POST /livez HTTP/1.1\r\nHost: 10.0.0.1\r\nContent-Length: 1\r\n\r\nx",
		"pipelined": strings.Repeat(get("/metrics")+get("/livez"), 10),
		"closing":   get("/livez", "Connection: close"),
	} {
		for attackers, conns := range map[int]int{1: maxConns, 4: 2 * maxConns} {
			t.Run(fmt.Sprintf("%s, %d from %d", name, conns, attackers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, end := populate(newHandler(true))
					var attacking sync.WaitGroup
					var flood []*hostile
					for i := range attackers {
						h := &hostile{from: fmt.Sprint("10.0.0.", i+1), conns: conns / attackers, request: request}
						h.attack(n, &attacking)
						flood = append(flood, h)
					}
					began := time.Now()
					asked := 0
					for time.Since(began) < length {
						for path, limit := range map[string]time.Duration{
							"/livez": time.Second, "/readyz": time.Second, "/metrics": 10 * time.Second,
						} {
							asked++
							asking := time.Now()
							conn := n.dial("10.0.1.1")
							if status := ask(t, conn, path, "Host: 10.0.0.2"); status != 200 || time.Since(asking) >= limit {
								t.Errorf("%s: %d after %v", path, status, time.Since(asking))
							}
							_ = conn.Close()
						}
						time.Sleep(time.Second)
					}
					var answered int
					for _, h := range flood {
						answered += int(h.answered.Load())
					}
					took := int(time.Since(began) / time.Second)
					if most := (pageRate+probeRate)*(took+1) + pageBurst + probeBurst; answered+asked > most {
						t.Errorf("%d requests were answered, more than %d", answered+asked, most)
					}
					end()
					attacking.Wait()
				})
			})
		}
	}
}

// TestNobodyElseWaits: pages are made anew for each request, at once, for whoever keeps to the rate.
func TestNobodyElseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0.0
		n, end := populate(New(Options{
			Ready: func() bool { return true }, Status: func() Status { return Status{} },
			Metrics: prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
				made++
				name, kind := "made", dto.MetricType_GAUGE
				return []*dto.MetricFamily{{
					Name: &name, Type: &kind, Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &made}}},
				}}, nil
			}),
		}))
		began := time.Now()
		for i := range 10 * pageBurst {
			conn := n.dial("10.0.0.1")
			go func() { _, _ = io.WriteString(conn, get("/metrics")) }()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			if want := fmt.Sprint("made ", i+1, "\n"); !strings.HasSuffix(string(body), want) {
				t.Fatalf("%s instead of %s", body, want)
			}
			_ = conn.Close()
			if i >= pageBurst/2 { // at first a burst, then the rate
				time.Sleep(time.Second / pageRate)
			}
		}
		if took, want := time.Since(began), (10*pageBurst-pageBurst/2)*time.Second/pageRate; took != want {
			t.Errorf("it took %v instead of %v", took, want)
		}
		end()
	})
}

// TestWhoeverHasLeftTakesNoTurn: a flood that is over delays nobody.
func TestWhoeverHasLeftTakesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, end := populate(newHandler(true))
		for range 20 * pageBurst {
			conn := n.dial("10.0.0.1")
			_, _ = io.WriteString(conn, get("/metrics"))
			_ = conn.Close()
		}
		synctest.Wait()
		began := time.Now()
		conn := n.dial("10.0.0.1")
		if status := ask(t, conn, "/metrics", "Host: 10.0.0.2"); status != 200 || time.Since(began) > time.Second/pageRate {
			t.Errorf("%d after %v", status, time.Since(began))
		}
		_ = conn.Close()
		end()
	})
}

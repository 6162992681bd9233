package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/testbed"
)

// A tlsWorld is a TLS server, on virtual time, behind a proxy whose connections can be made to fall silent.
type tlsWorld struct {
	transport *Transport
	protocols sync.Map // of the requests so far
	requests  atomic.Int32

	mu    sync.Mutex
	conns []*proxied
}

// proxied is a connection through the proxy. Once silent, it accepts data but sends nothing back.
type proxied struct {
	net.Conn
	silent chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (c *proxied) isSilent() bool {
	select {
	case <-c.silent:
		return true
	default:
		return false
	}
}

func (c *proxied) Write(b []byte) (int, error) {
	if c.isSilent() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *proxied) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.isSilent() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *proxied) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// silence makes existing connections silent; new ones work.
func (w *tlsWorld) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		if !c.isSilent() {
			close(c.silent)
		}
	}
}

func (w *tlsWorld) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	certFile, keyFile := testbed.Certificate(t)
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(content)
	return certificate, roots
}

// newTLSWorld starts the server, and a transport that trusts it. It must be called in a bubble.
func newTLSWorld(t *testing.T, http2 bool, answer http.HandlerFunc) *tlsWorld {
	w := &tlsWorld{}
	cert, roots := certificate(t)
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.protocols.Store(r.Proto, true)
			w.requests.Add(1)
			answer(rw, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ErrorLog: silent(), Protocols: &http.Protocols{},
	}
	server.Protocols.SetHTTP1(!http2)
	server.Protocols.SetHTTP2(http2)
	pipe := testbed.NewPipe()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(pipe, "", "") })
	w.transport = NewTransport(TransportOptions{
		Roots: roots,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := pipe.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			c := &proxied{Conn: conn, silent: make(chan struct{}), closed: make(chan struct{})}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns = append(w.conns, c)
			return c, nil
		},
	})
	t.Cleanup(func() {
		w.transport.CloseIdleConnections()
		for _, c := range w.conns {
			_ = c.Close()
		}
		_ = server.Close()
		serving.Wait()
	})
	return w
}

const anyToken = `{"access_token":"x","expires_in":60}`

func healthy(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, anyToken) }

// inTLSWorld runs test for HTTP/1.1 and HTTP/2.
func inTLSWorld(t *testing.T, answer http.HandlerFunc, test func(t *testing.T, w *tlsWorld)) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTLSWorld(t, http2, answer)
				test(t, w)
				if _, ok := w.protocols.Load(name); !ok {
					t.Errorf("%s was not spoken", name)
				}
			})
		})
	}
}

func user(i int) Request {
	return Request{Path: ConnectPath, Type: "access", UserID: hidden(fmt.Sprint(i))}
}

// TestASilentConnectionIsReplaced: an attempt on a silent connection times out; the next one is made on another
// connection, for each of many users.
func TestASilentConnectionIsReplaced(t *testing.T) {
	inTLSWorld(t, healthy, func(t *testing.T, w *tlsWorld) {
		c := newClient(t, "https://127.0.0.1", func(o *Options) {
			o.Transport, o.Timeout, o.MaxAttempts = w.transport,
				2*time.Second, 2
		})
		if _, err := c.Token(t.Context(), user(0)); err != nil {
			t.Fatal(err)
		}
		w.silence()
		for i := range 5 {
			began := time.Now()
			_, err := c.Token(t.Context(), user(i))
			if took := time.Since(began); err != nil || (i > 0 && took > 0) || took > 2200*time.Millisecond {
				t.Errorf("user %d: %v after %v", i, err, took)
			}
		}
		if n := w.dialled(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		if n := testutil.ToFloat64(w.transport.replaced.WithLabelValues(replacedTimeout)); n != 1 {
			t.Errorf("%v replacements were counted", n)
		}
	})
}

// TestPingsFindASilentConnection: with HTTP/2, sooner than UPSTREAM_TIMEOUT, in use or idle.
func TestPingsFindASilentConnection(t *testing.T) {
	for _, idle := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint("idle for ", idle), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTLSWorld(t, true, healthy)
				c := newClient(t, "https://127.0.0.1", func(o *Options) {
					o.Transport, o.Timeout, o.MaxAttempts = w.transport,
						time.Minute, 2
				})
				if _, err := c.Token(t.Context(), user(0)); err != nil {
					t.Fatal(err)
				}
				w.silence()
				time.Sleep(idle)
				began := time.Now()
				_, err := c.Token(t.Context(), user(1))
				if took := time.Since(began); err != nil || took > 10*time.Second || (idle > 0 && took > 0) {
					t.Errorf("%v after %v", err, took)
				}
				if n := w.dialled(); n != 2 {
					t.Errorf("%d connections, want 2", n)
				}
			})
		})
	}
}

// TestOneSlowRequestEndsNoOther: the pool is replaced, but requests in progress on the old connection continue.
func TestOneSlowRequestEndsNoOther(t *testing.T) {
	inTLSWorld(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d := 3 * time.Second
		if contains(body, `"client_user_id":"1"`) {
			d = time.Hour
		}
		select {
		case <-time.After(d):
			healthy(w, r)
		case <-r.Context().Done():
		}
	}, func(t *testing.T, w *tlsWorld) {
		c := newClient(t, "https://127.0.0.1", func(o *Options) {
			o.Transport, o.Timeout, o.MaxAttempts = w.transport,
				5*time.Second, 1
		})
		var callers sync.WaitGroup
		for i := range 6 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				if _, err := c.Token(t.Context(), user(i)); (err != nil) != (i == 1) {
					t.Errorf("user %d: %v", i, err)
				}
			})
		}
		callers.Wait()
		if n := w.requests.Load(); n != 6 {
			t.Errorf("%d requests", n)
		}
		synctest.Wait()
		select {
		case <-w.conns[0].closed:
		default:
			t.Error("the former connection is still open")
		}
	})
}

// TestNewRoots: connections made before trust the old roots, so they are not used again.
func TestNewRoots(t *testing.T) {
	inTLSWorld(t, healthy, func(t *testing.T, w *tlsWorld) {
		c := newClient(t, "https://127.0.0.1", func(o *Options) { o.Transport, o.MaxAttempts = w.transport, 1 })
		if _, err := c.Token(t.Context(), user(0)); err != nil {
			t.Fatal(err)
		}
		right := w.transport.roots
		_, wrong := certificate(t)
		w.transport.SetRoots(wrong)
		if _, err := c.Token(t.Context(), user(1)); err == nil {
			t.Error("a server that is not trusted any more was asked")
		}
		w.transport.SetRoots(right)
		if _, err := c.Token(t.Context(), user(2)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case <-w.conns[0].closed:
		default:
			t.Error("the first connection is still open")
		}
		if n := testutil.ToFloat64(w.transport.replaced.WithLabelValues(replacedRoots)); n != 2 {
			t.Errorf("%v replacements were counted", n)
		}
	})
}

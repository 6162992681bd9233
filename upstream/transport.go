package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A silent connection is noticed after pingAfter and pingTimeout together: by an HTTP/2 ping (RFC 9113, section 6.7),
// by TCP keep-alive probes while it is idle, and by data that is not acknowledged. During an attempt UPSTREAM_TIMEOUT
// applies too, if it is shorter; with HTTP/1.1 it is all that notices a server whose kernel still acknowledges.
const (
	pingAfter   = 4 * time.Second // without a frame
	pingTimeout = 4 * time.Second // for the reply to a ping
	dialTimeout = 10 * time.Second
)

// TransportOptions configure a [Transport]. All are optional.
type TransportOptions struct {
	// Roots are the certificates to trust. Default: the system's.
	Roots *x509.CertPool
	// Dial connects. Default: as a [net.Dialer] does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
}

// A Transport is an [http.RoundTripper] for the auth service: TLS 1.2 or newer, HTTP/2 where supported, HTTPS_PROXY
// (but not HTTP_PROXY) respected, connections reused. A connection is not used for another request after one has timed
// out on it, or after the trusted certificates have changed; requests in progress on it continue.
//
// net/http cannot retire a single HTTP/2 connection, so the whole pool is replaced. That costs the next request a
// handshake.
type Transport struct {
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	replaced *prometheus.CounterVec

	mu    sync.Mutex
	roots *x509.CertPool
	pool  *http.Transport
}

// Why connections are replaced, as named in a metric.
const (
	replacedTimeout = "timeout"
	replacedRoots   = "certificates"
)

// NewTransport returns a transport without connections.
func NewTransport(opts TransportOptions) *Transport {
	t := &Transport{dial: opts.Dial, roots: opts.Roots}
	if t.dial == nil {
		t.dial = dialer(pingAfter + pingTimeout).DialContext
	}
	t.replaced = promauto.With(opts.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "token_sidecar_upstream_connections_replaced_total",
		Help: "How often the connections to the auth service were replaced, by reason: timeout (a request timed out), certificates (HUMANAPI_CA_FILE changed).",
	}, []string{"reason"})
	t.replaced.WithLabelValues(replacedTimeout)
	t.replaced.WithLabelValues(replacedRoots)
	t.pool = t.newPool()
	return t
}

// dialer connects with TCP that gives a connection up when its data is not acknowledged within that limit.
func dialer(unacknowledged time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: pingAfter, Interval: pingTimeout / 4, Count: 4},
		Control: func(_, _ string, conn syscall.RawConn) error {
			return endUnacknowledged(conn, unacknowledged)
		},
	}
}

func (t *Transport) newPool() *http.Transport {
	return &http.Transport{
		Proxy:                  proxyFor,
		DialContext:            t.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.roots},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// proxyFor returns the proxy for r. Plain http goes to loopback only, and never through a proxy, which would read the
// client secret; ProxyFromEnvironment does not take every spelling of loopback for it.
func proxyFor(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme == "http" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// SetRoots replaces the certificates to trust; nil means the system's.
func (t *Transport) SetRoots(roots *x509.CertPool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.roots = roots
	t.replace(replacedRoots)
}

// replace retires the pool. Its idle connections are closed at once, the others when they become idle. t.mu is held.
func (t *Transport) replace(reason string) {
	retired := t.pool
	t.pool = t.newPool()
	retired.CloseIdleConnections()
	t.replaced.WithLabelValues(reason).Inc()
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	t.mu.Lock()
	pool := t.pool
	t.mu.Unlock()
	res, err := pool.RoundTrip(r)
	if err != nil {
		t.ended(ctx, pool)
		return nil, err
	}
	res.Body = &watchedBody{ReadCloser: res.Body, ended: func() { t.ended(ctx, pool) }}
	return res, nil
}

// ended is called when a request on that pool has ended. If it timed out, the pool is retired, unless it is already.
func (t *Transport) ended(ctx context.Context, pool *http.Transport) {
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case pool != t.pool:
		pool.CloseIdleConnections() // the last request of the pool may have been this one
	case timedOut:
		t.replace(replacedTimeout)
	}
}

// CloseIdleConnections closes the connections on which nothing is in progress.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pool.CloseIdleConnections()
}

// A watchedBody calls back when it is closed.
type watchedBody struct {
	io.ReadCloser
	once  sync.Once
	ended func()
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.ended)
	return err
}

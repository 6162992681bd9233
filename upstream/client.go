// Package upstream asks the auth service for tokens.
//
// It promises: every call ends within UPSTREAM_TIMEOUT × UPSTREAM_MAX_ATTEMPTS plus a second of backoff; the
// secret goes to AuthURL and nowhere else, redirects are never followed; at most 1 MiB of an answer is read;
// a Retry-After is obeyed by all calls; after BREAKER_FAILURES failed calls in a row no call goes out until
// one trial succeeds; an answer is a token with a lifetime, or an [*Error] that tells which way it failed.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
	"token-sidecar/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

// The auth service's calls.
const (
	ConnectPath = "/v1/connect/token"
	AdminPath   = "/v1/admin/token"
)

// backoffBudget is what all pauses between the attempts of one call may add up to.
const backoffBudget = time.Second

// Options configure a [Client]. URL, ClientID and Secret are required; zero durations and numbers mean the
// documented defaults.
type Options struct {
	// URL is the auth service: scheme, host and port.
	URL      string
	ClientID string
	Secret   *secret.File
	// Timeout limits one attempt. Default 5 s.
	Timeout time.Duration
	// MaxAttempts limits the attempts of one call. Default 3.
	MaxAttempts int
	// BreakerFailures is how many failed calls in a row open the breaker. Default 5.
	BreakerFailures int
	// BreakerOpenFor is how long it stays open before a trial. Default 30 s.
	BreakerOpenFor time.Duration
	// RefusalPause is how long all calls are held back after a refusal of our own credentials. 0 is not at all.
	RefusalPause time.Duration
	// Transport sends the requests. Default: [NewTransport] with the system's roots.
	Transport http.RoundTripper
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// A Request names the token to ask for.
type Request struct {
	Path   string // ConnectPath or AdminPath
	Type   string
	UserID secret.Text
	Email  secret.Text
	Scopes []string
}

// A Client asks one auth service with one client_id. Its methods may be called from many goroutines.
type Client struct {
	opts      Options
	http      *http.Client
	breaker   *gobreaker.CircuitBreaker[*Answer]
	openUntil atomic.Pointer[time.Time]
	pause     pause
	metrics   *metrics
}

// NewTransport returns a transport for the auth service: TLS 1.2 or newer, the certificates in roots or, when
// nil, the system's, HTTPS_PROXY obeyed, connections kept.
func NewTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// New returns a client. It does not connect.
func New(opts Options) *Client {
	setDefault(&opts.Timeout, 5*time.Second)
	setDefault(&opts.MaxAttempts, 3)
	setDefault(&opts.BreakerFailures, 5)
	setDefault(&opts.BreakerOpenFor, 30*time.Second)
	if opts.Transport == nil {
		opts.Transport = NewTransport(nil)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts}
	c.http = &http.Client{
		Transport:     opts.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.breaker = gobreaker.NewCircuitBreaker[*Answer](gobreaker.Settings{
		Timeout:       opts.BreakerOpenFor,
		ReadyToTrip:   func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= opts.BreakerFailures },
		IsSuccessful:  func(err error) bool { return !isFailure(err) },
		IsExcluded:    isNoVerdict,
		OnStateChange: c.onStateChange,
	})
	c.metrics = newMetrics(opts.Registerer, c)
	opts.Secret.OnChange(c.pause.lift)
	return c
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// CallLimit is how long one call may take at most, given the limit of an attempt and their number.
func CallLimit(timeout time.Duration, attempts int) time.Duration {
	return time.Duration(attempts)*timeout + backoffBudget
}

// Limit is how long a call of c may take at most.
func (c *Client) Limit() time.Duration { return CallLimit(c.opts.Timeout, c.opts.MaxAttempts) }

// Token asks for a token. The error is an [*Error], or wraps [context.Canceled] when ctx was cancelled.
func (c *Client) Token(ctx context.Context, req Request) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limit())
	defer cancel()
	answer, err := c.breaker.Execute(func() (*Answer, error) { return c.call(ctx, req) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = &Error{Kind: Unavailable, RetryAfter: c.untilTrial(), detail: "not asked, the circuit breaker is open", held: true}
	}
	c.metrics.call(err)
	return answer, err
}

// call makes the attempts of one call.
func (c *Client) call(ctx context.Context, req Request) (*Answer, error) {
	for attempt := 1; ; attempt++ {
		err := c.waitOut(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := c.attempt(ctx, req)
		if err == nil {
			return answer, nil
		}
		var failed *Error
		if !errors.As(err, &failed) || failed.final || attempt >= c.opts.MaxAttempts {
			return nil, err
		}
		if !sleep(ctx, c.backoff(attempt)) {
			return nil, ended(ctx, err)
		}
	}
}

// waitOut waits while calls are held back, when that is short enough to be worth it. Otherwise it returns why.
func (c *Client) waitOut(ctx context.Context) error {
	held := c.pause.check(time.Now())
	if held == nil {
		return nil
	}
	deadline, _ := ctx.Deadline()
	worthIt := held.Kind == Unavailable && held.RetryAfter <= c.opts.Timeout && held.RetryAfter < time.Until(deadline)
	if !worthIt {
		return held
	}
	if !sleep(ctx, held.RetryAfter) {
		return ended(ctx, held)
	}
	return nil
}

// ended returns the error of a call whose context ended while it waited: last, unless it was cancelled.
func ended(ctx context.Context, last error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return transportError(ctx, ctx.Err())
	}
	return last
}

// backoff returns the pause after the given attempt: doubling from 100 ms, half of it at random, and all of
// them together within backoffBudget.
func (c *Client) backoff(attempt int) time.Duration {
	most := backoffBudget / time.Duration(max(1, c.opts.MaxAttempts-1))
	d := min(100*time.Millisecond<<min(attempt-1, 10), most)
	return d/2 + rand.N(d/2) //nolint:gosec // jitter is no secret
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// isFailure reports whether err speaks against the auth service's health. A refusal does not.
func isFailure(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return err != nil
	}
	return e.Kind == Unavailable || e.Kind == Timeout || e.Kind == BadResponse
}

// isNoVerdict reports whether err says nothing about the auth service: given up by us, or never sent.
func isNoVerdict(err error) bool {
	var e *Error
	return errors.Is(err, context.Canceled) || (errors.As(err, &e) && e.held)
}

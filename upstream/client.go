// Package upstream asks the auth service for tokens.
//
// It promises: every call ends within UPSTREAM_TIMEOUT × UPSTREAM_MAX_ATTEMPTS plus a second of backoff; the secret
// goes to AuthURL and nowhere else, redirects are never followed, and no answer that contains the secret is passed on;
// at most 256 KiB of an answer are read; the result is a token with a lifetime, or an [*Error] that says how the call
// failed.
//
// Guards keep one failure from affecting everybody. A call passes them in this order:
//
// - backoff.go: a key whose calls fail backs off, and no other;
// - credentials.go: a refusal of our own credentials stops all calls for NEGATIVE_TTL;
// - breaker.go: a failing path gets no calls but one trial every BREAKER_OPEN_FOR;
// - permits.go: at most UPSTREAM_MAX_CONCURRENT attempts at once, callers before renewals;
// - gate.go, fleet.go: a Retry-After stops the whole fleet, and UPSTREAM_CALLS_PER_MINUTE limits it;
// - budget.go: at most one attempt in five is a retry;
// - transport.go: a connection that falls silent is replaced.
package upstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/health"
	"token-sidecar/internal/secret"
)

// The paths of the auth service's calls.
const (
	ConnectPath = "/v1/connect/token"
	AdminPath   = "/v1/admin/token"
)

// backoffBudget bounds the sum of all pauses between the attempts of one call.
const backoffBudget = time.Second

// Options configure a [Client]. URL, ClientID and Secret are required; zero durations and numbers mean the
// documented defaults.
type Options struct {
	// URL is scheme, host and port of the auth service.
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
	// RefusalPause is how long all calls are held back after a refusal of our own credentials. 0 means not at all.
	RefusalPause time.Duration
	// MaxConcurrent bounds the attempts in progress at once. Default 64.
	MaxConcurrent int
	// CallsPerMinute bounds the attempts of all clients that share Gate. 0 means no limit.
	CallsPerMinute int
	// Gate is shared by the fleet. Default: none, and each client limits only itself.
	Gate Gate
	// Transport sends the requests, each to one address: there is no client around it that would look at redirects.
	// Default: [NewTransport] with its defaults.
	Transport http.RoundTripper
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
}

// A Request names the token to ask for.
type Request struct {
	Path   string // ConnectPath or AdminPath
	Type   string
	UserID secret.Text
	Email  secret.Text
	Scopes []string
	// Key identifies the token, so that failures can be tracked per token. Zero: it is derived from the other fields.
	Key [32]byte
	// Background is set for a renewal, which yields to calls that have waiting callers.
	Background bool
}

func (r Request) key() tokenKey {
	if r.Key != (tokenKey{}) {
		return r.Key
	}
	hash := sha256.New()
	for _, field := range append([]string{r.Path, r.Type, r.UserID.Reveal(), r.Email.Reveal()}, r.Scopes...) {
		_, _ = fmt.Fprintf(hash, "%d:%s", len(field), field)
	}
	return tokenKey(hash.Sum(nil))
}

// A Client asks one auth service with one client_id. Its methods may be called concurrently.
type Client struct {
	opts        Options
	failing     *backoffs
	credentials *credentials
	paths       map[string]*path
	permits     *permits
	fleet       *fleet
	limited     health.Streak // calls delayed by UPSTREAM_CALLS_PER_MINUTE
	metrics     *metrics
}

// New returns a client. It does not connect.
func New(opts Options) *Client {
	setDefault(&opts.Timeout, 5*time.Second)
	setDefault(&opts.MaxAttempts, 3)
	setDefault(&opts.BreakerFailures, 5)
	setDefault(&opts.BreakerOpenFor, 30*time.Second)
	setDefault(&opts.MaxConcurrent, 64)
	if opts.Transport == nil {
		opts.Transport = NewTransport(TransportOptions{})
	}
	c := &Client{
		opts:        opts,
		failing:     newBackoffs(opts.BreakerOpenFor),
		credentials: &credentials{pause: opts.RefusalPause},
		paths:       map[string]*path{},
		permits:     newPermits(opts.MaxConcurrent),
		metrics:     newMetrics(opts.Registerer),
	}
	c.fleet = newFleet(opts.Gate, opts.BreakerOpenFor, c.metrics.gateFailures.Inc)
	for _, name := range []string{ConnectPath, AdminPath} {
		opened := c.metrics.opened.WithLabelValues(name).Inc
		c.paths[name] = &path{
			breaker: newBreaker(opts.BreakerFailures, opts.BreakerOpenFor, opened),
			retries: newBudget(),
		}
	}
	c.metrics.watch(opts.Registerer, c)
	opts.Secret.OnChange(c.secretChanged)
	return c
}

// Close closes idle connections.
func (c *Client) Close() { (&http.Client{Transport: c.opts.Transport}).CloseIdleConnections() }

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// CallLimit is the longest that a call may take, given the limit of an attempt and the number of attempts.
func CallLimit(timeout time.Duration, attempts int) time.Duration {
	return time.Duration(attempts)*timeout + backoffBudget
}

func (c *Client) rate(background bool) Rate { return RateOf(c.opts.CallsPerMinute, background) }

// Limit is the longest that a call of c may take.
func (c *Client) Limit() time.Duration { return CallLimit(c.opts.Timeout, c.opts.MaxAttempts) }

// isFailure reports whether err is a sign of an unhealthy auth service. A refusal is not.
func isFailure(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return err != nil
	}
	return e.Kind == Unavailable || e.Kind == Timeout || e.Kind == BadResponse
}

// isNoVerdict reports whether err says nothing about the auth service: the call was abandoned by us, or never sent, or
// its answer came while this process stood still.
func isNoVerdict(err error) bool {
	var e *Error
	return errors.Is(err, context.Canceled) || (errors.As(err, &e) && (e.notAsked || e.overslept))
}

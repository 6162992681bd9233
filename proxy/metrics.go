package proxy

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
	"token-sidecar/cache"
	"token-sidecar/upstream"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	dto "github.com/prometheus/client_model/go"
)

// outcome is how a request ended, as the metrics and the log name it.
type outcome int

const (
	hitMemory outcome = iota
	hitRedis
	miss
	collapsed
	forgotten
	refused   // by the auth service, or its remembered refusal
	failed    // no token though the request was right
	rejected  // a wrong request
	guarded   // by a guard
	shed      // overloaded or shutting down
	abandoned // the caller left
	outcomes
)

func (o outcome) String() string {
	return [outcomes]string{
		"hit_memory", "hit_redis", "miss", "collapsed", "forgotten", "refused", "failed", "rejected", "guarded", "shed", "abandoned",
	}[o]
}

func outcomeOf(s served) outcome {
	switch {
	case s.from == cache.FromMemory:
		return hitMemory
	case s.from == cache.FromRedis:
		return hitRedis
	case s.collapsed:
		return collapsed
	default:
		return miss
	}
}

func outcomeOfError(err error) outcome {
	var theirs *upstream.Error
	var own *refusal
	switch {
	case errors.As(err, &theirs) && (theirs.Kind == upstream.Refused || theirs.Kind == upstream.ClientRefused):
		return refused
	case !errors.As(err, &own):
		return failed
	case own == errOverload, own == errStopping:
		return shed
	case own.status >= http.StatusInternalServerError:
		return failed
	default:
		return rejected
	}
}

// codes are the errorCodes that are counted by name; others, which an auth service could invent without end,
// count as "other".
var codes = []string{
	codeInvalid, "INVALID_TOKEN_TYPE", codeTokenRequired, "CALLER_NOT_ALLOWED", "MISDIRECTED_HOST", "NOT_FOUND", "METHOD_NOT_ALLOWED",
	"BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "UPSTREAM_RATE_LIMITED", "UPSTREAM_BAD_RESPONSE", codeUnavailable, "UPSTREAM_TIMEOUT",
	"UPSTREAM_REFUSED", "SHUTTING_DOWN", "OVERLOADED", "INTERNAL_ERROR",
	"ACCESS_TOKEN_GENERATION_NOT_ALLOWED", "CLIENT_TOKEN_GENERATION_NOT_ALLOWED", "INVALID_CLIENT_ID", "INVALID_CLIENT_ID_OR_SECRET",
	"UNKNOWN_CLIENT_USER_ID", "NOT_AUTHORIZED", otherCode,
}

const otherCode = "other"

type metrics struct {
	requests     [outcomes]prometheus.Counter
	errors       map[string]*errorCount
	waits        prometheus.Histogram
	durations    [outcomes]prometheus.Observer
	renewals     *prometheus.CounterVec
	negativeHits prometheus.Counter
	panics       prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, h *Handler) *metrics {
	make := promauto.With(reg)
	requests := make.NewCounterVec(prometheus.CounterOpts{
		Name: "token_sidecar_requests_total",
		Help: "Requests on LISTEN_ADDR by outcome.",
	}, []string{"outcome"})
	durations := make.NewHistogramVec(prometheus.HistogramOpts{
		Name:                        "token_sidecar_request_duration_seconds",
		Help:                        "Duration of requests on LISTEN_ADDR by outcome.",
		Buckets:                     []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		NativeHistogramBucketFactor: 1.1,
	}, []string{"outcome"})
	errors := make.NewCounterVec(prometheus.CounterOpts{
		Name: "token_sidecar_errors_total",
		Help: "Errors that callers got by errorCode; other is one that the auth service's documentation does not name.",
	}, []string{"code"})
	m := &metrics{
		errors: map[string]*errorCount{},
		waits: make.NewHistogram(prometheus.HistogramOpts{
			Name:                        "token_sidecar_fetch_wait_seconds",
			Help:                        "Time that callers waited because neither memory nor a remembered refusal could answer.",
			Buckets:                     []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 20},
			NativeHistogramBucketFactor: 1.1,
		}),
		renewals: make.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_renewals_total",
			Help: "Renewals ahead of expiry by result; left_to_another is done by another sidecar.",
		}, []string{"result"}),
		negativeHits: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_negative_hits_total",
			Help: "Requests answered by a remembered refusal of the auth service.",
		}),
		panics: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_panics_total",
			Help: "Defects that were caught. Any is a reason to report it.",
		}),
	}
	for _, result := range []string{"ok", "failed", "left_to_another"} {
		m.renewals.WithLabelValues(result)
	}
	for _, code := range codes {
		m.errors[code] = &errorCount{counter: errors.WithLabelValues(code)}
	}
	for o := range outcomes {
		m.requests[o] = requests.WithLabelValues(o.String())
		m.durations[o] = durations.WithLabelValues(o.String())
	}
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_requests_in_progress",
		Help: "Requests on LISTEN_ADDR that are not answered yet.",
	}, func() float64 { return float64(h.InProgress()) })
	return m
}

// errorCount counts one errorCode and remembers when it was last seen.
type errorCount struct {
	counter prometheus.Counter
	seen    atomic.Int64
	last    atomic.Int64 // Unix seconds
}

func (m *metrics) failed(code string) {
	count := m.errors[code]
	if count == nil {
		count = m.errors[otherCode]
	}
	count.counter.Inc()
	count.seen.Add(1)
	count.last.Store(time.Now().Unix())
}

// A Failure is what a status page tells of one errorCode.
type Failure struct {
	Code  string    `json:"code"`
	Count int64     `json:"count"`
	Last  time.Time `json:"last"`
}

// Failures are the errors that callers got, by errorCode, the latest first.
func (h *Handler) Failures() []Failure {
	var all []Failure
	for code, count := range h.metrics.errors {
		if n := count.seen.Load(); n > 0 {
			all = append(all, Failure{Code: code, Count: n, Last: time.Unix(count.last.Load(), 0)})
		}
	}
	slices.SortFunc(all, func(a, b Failure) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Code, b.Code)) })
	return all
}

// Outcomes are how many requests ended in which way so far.
func (h *Handler) Outcomes() map[string]int64 {
	all := make(map[string]int64, outcomes)
	for o := range outcomes {
		var m dto.Metric
		if h.metrics.requests[o].Write(&m) == nil {
			all[o.String()] = int64(m.GetCounter().GetValue())
		}
	}
	return all
}

func (m *metrics) request(o outcome, took time.Duration) {
	m.requests[o].Inc()
	m.durations[o].Observe(took.Seconds())
}

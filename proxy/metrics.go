package proxy

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	dto "github.com/prometheus/client_model/go"

	"token-sidecar/cache"
	"token-sidecar/internal/health"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// outcome is how a request ended, as named in metrics and log.
type outcome int

const (
	hitMemory outcome = iota
	hitRedis
	miss
	collapsed
	forgotten
	refused   // by the auth service, or by its cached refusal
	failed    // no token for a valid request; also if our own credentials are refused
	rejected  // an invalid request
	guarded   // by a guard
	shed      // overloaded or shutting down
	abandoned // the caller left
	outcomes
)

func (o outcome) String() string {
	return [outcomes]string{
		"hit_memory", "hit_redis", "miss", "collapsed", "forgotten", "refused", "failed", "rejected", "guarded", "shed",
		"abandoned",
	}[o]
}

func outcomeOf(t vend.Token) outcome {
	switch {
	case t.From == cache.FromMemory:
		return hitMemory
	case t.From == cache.FromRedis:
		return hitRedis
	case t.Collapsed:
		return collapsed
	default:
		return miss
	}
}

func outcomeOfError(err error) outcome {
	var theirs *upstream.Error
	var own *apiError
	switch {
	case errors.As(err, &theirs) && (theirs.Kind == upstream.Refused || theirs.Kind == upstream.Unauthorized):
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

type metrics struct {
	requests [outcomes]prometheus.Counter
	errors   *prometheus.CounterVec
	// seen holds an *errorCount for each code that was counted.
	seen      sync.Map
	durations [outcomes]prometheus.Observer
	// failing tracks failed and shed requests by errorCode.
	failing health.Streak
}

func newMetrics(reg prometheus.Registerer, h *Handler) *metrics {
	factory := promauto.With(reg)
	requests := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "token_sidecar_requests_total",
		Help: "Requests on LISTEN_ADDR by outcome.",
	}, []string{"outcome"})
	durations := factory.NewHistogramVec(prometheus.HistogramOpts{
		Name: "token_sidecar_request_duration_seconds",
		Help: "Duration of requests on LISTEN_ADDR by outcome.",
		Buckets: []float64{
			.0001, .00025, .0005, .001, .0025, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10,
			20,
		},
		NativeHistogramBucketFactor: 1.1,
	}, []string{"outcome"})
	m := &metrics{errors: factory.NewCounterVec(prometheus.CounterOpts{
		Name: "token_sidecar_errors_total",
		Help: "Errors that callers got by errorCode; other: not in the auth service's documentation.",
	}, []string{"code"})}
	for o := range outcomes {
		m.requests[o] = requests.WithLabelValues(o.String())
		m.durations[o] = durations.WithLabelValues(o.String())
	}
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_requests_in_progress",
		Help: "Requests on LISTEN_ADDR that have not been answered yet.",
	}, func() float64 { return float64(h.InProgress()) })
	return m
}

// An errorCount counts one errorCode for the status page, and remembers when it last occurred.
type errorCount struct {
	times atomic.Int64
	last  atomic.Int64 // Unix seconds
}

func (m *metrics) countError(code string) {
	m.errors.WithLabelValues(code).Inc()
	found, _ := m.seen.LoadOrStore(code, &errorCount{})
	count, _ := found.(*errorCount)
	count.times.Add(1)
	count.last.Store(time.Now().Unix())
}

// A Failure is one errorCode on the status page.
type Failure struct {
	Code  string    `json:"code"`
	Count int64     `json:"count"`
	Last  time.Time `json:"last"`
}

// Failures returns the errors that callers got, by errorCode, the latest first.
func (h *Handler) Failures() []Failure {
	var all []Failure
	h.metrics.seen.Range(func(code, found any) bool {
		name, _ := code.(string)
		count, _ := found.(*errorCount)
		all = append(all, Failure{Code: name, Count: count.times.Load(), Last: time.Unix(count.last.Load(), 0)})
		return true
	})
	slices.SortFunc(all, func(a, b Failure) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Code, b.Code)) })
	return all
}

// Failing returns the recent requests that failed through a fault of ours or of the auth service, by errorCode.
func (h *Handler) Failing() health.Run { return h.metrics.failing.Run(time.Now()) }

// FailingRenewals returns the recent renewals that failed.
func (h *Handler) FailingRenewals() health.Run { return h.broker.FailingRenewals() }

// Outcomes returns how many requests ended in each way.
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

package proxy

import (
	"errors"
	"net/http"
	"time"
	"token-sidecar/cache"
	"token-sidecar/upstream"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
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

type metrics struct {
	requests     [outcomes]prometheus.Counter
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
	m := &metrics{
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

func (m *metrics) request(o outcome, took time.Duration) {
	m.requests[o].Inc()
	m.durations[o].Observe(took.Seconds())
}

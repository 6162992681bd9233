package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/sony/gobreaker/v2"
)

type metrics struct {
	calls          *prometheus.CounterVec
	attempts       *prometheus.HistogramVec
	clientRefusals prometheus.Counter
	opened         *prometheus.CounterVec
	retriesForgone prometheus.Counter
	rateWaits      prometheus.Counter
	gateFailures   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	make := promauto.With(reg)
	m := &metrics{
		calls: make.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_calls_total",
			Help: "Calls to the auth service by result; held_back ones did not go out.",
		}, []string{"result"}),
		attempts: make.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "token_sidecar_upstream_attempt_duration_seconds",
			Help:                        "Duration of single attempts at the auth service by result.",
			Buckets:                     []float64{.025, .05, .1, .2, .4, .8, 1.6, 3.2, 6.4},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"result"}),
		clientRefusals: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_client_refusals_total",
			Help: "Refusals of our own client_id or client_secret. Any is a reason to look.",
		}),
		opened: make.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_breaker_opened_total",
			Help: "How often the circuit breaker of the path opened.",
		}, []string{"path"}),
		retriesForgone: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_retries_forgone_total",
			Help: "Retries that were not made, because one attempt in five was one already.",
		}),
		rateWaits: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_rate_waits_total",
			Help: "How often UPSTREAM_CALLS_PER_MINUTE made a call wait or put it off.",
		}),
		gateFailures: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_gate_failures_total",
			Help: "Exchanges with the fleet about Retry-After and UPSTREAM_CALLS_PER_MINUTE that failed; each sidecar then keeps to them by itself.",
		}),
	}
	for _, result := range []string{"ok", "held_back", "cancelled"} {
		m.calls.WithLabelValues(result)
	}
	for kind := Unavailable; kind <= ClientRefused; kind++ {
		m.calls.WithLabelValues(kind.String())
	}
	return m
}

// watch registers the metrics that are read from the client's parts.
func (m *metrics) watch(reg prometheus.Registerer, c *Client) {
	make := promauto.With(reg)
	for name, path := range c.paths {
		for state := gobreaker.StateClosed; state <= gobreaker.StateOpen; state++ {
			make.NewGaugeFunc(prometheus.GaugeOpts{
				Name:        "token_sidecar_breaker_state",
				Help:        "1 for the state the circuit breaker of the path is in, else 0.",
				ConstLabels: prometheus.Labels{"path": name, "state": state.String()},
			}, func() float64 {
				current, _ := path.breaker.state(time.Now())
				return oneIf(current == state)
			})
		}
		make.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "token_sidecar_upstream_paused",
			Help:        "1 while calls to the path are held back by a Retry-After or a refusal of our credentials.",
			ConstLabels: prometheus.Labels{"path": name},
		}, func() float64 {
			now := time.Now()
			return oneIf(c.credentials.peek(now) != nil || c.fleet.last(name, now).Held > 0)
		})
	}
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_upstream_failing_keys",
		Help: "Tokens that are left alone for a while because their calls failed.",
	}, func() float64 { return float64(c.failing.count(time.Now())) })
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_upstream_waiting",
		Help: "Calls that wait because UPSTREAM_MAX_CONCURRENT are in progress.",
	}, func() float64 { return float64(c.permits.waiting.Load()) })
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) call(err error) { m.calls.WithLabelValues(result(err)).Inc() }

func (m *metrics) attempt(took time.Duration, err error) {
	m.attempts.WithLabelValues(result(err)).Observe(took.Seconds())
}

func result(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e) && e.notAsked:
		return "held_back"
	case errors.As(err, &e):
		return e.Kind.String()
	case errors.Is(err, context.Canceled):
		return "cancelled"
	default:
		return "unknown"
	}
}

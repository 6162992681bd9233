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
	factory := promauto.With(reg)
	m := &metrics{
		calls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_calls_total",
			Help: "Calls to the auth service by result; held_back ones did not go out.",
		}, []string{"result"}),
		attempts: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "token_sidecar_upstream_attempt_duration_seconds",
			Help:                        "Duration of single attempts at the auth service by result.",
			Buckets:                     []float64{.025, .05, .1, .2, .4, .8, 1.6, 3.2, 6.4},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"result"}),
		clientRefusals: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_client_refusals_total",
			Help: "Refusals of our own client_id or client_secret. Each needs attention.",
		}),
		opened: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_breaker_opened_total",
			Help: "How often the path's circuit breaker opened.",
		}, []string{"path"}),
		retriesForgone: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_retries_forgone_total",
			Help: "Retries that were not made, because at most one attempt in five may be a retry.",
		}),
		rateWaits: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_rate_waits_total",
			Help: "How often UPSTREAM_CALLS_PER_MINUTE delayed a call or put off a renewal.",
		}),
		gateFailures: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_upstream_gate_failures_total",
			Help: "Failed exchanges with Redis about Retry-After and UPSTREAM_CALLS_PER_MINUTE; the sidecar then observes them on its own.",
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
	factory := promauto.With(reg)
	for name, path := range c.paths {
		for state := gobreaker.StateClosed; state <= gobreaker.StateOpen; state++ {
			factory.NewGaugeFunc(prometheus.GaugeOpts{
				Name:        "token_sidecar_breaker_state",
				Help:        "1 for the current state of the path's circuit breaker, else 0.",
				ConstLabels: prometheus.Labels{"path": name, "state": state.String()},
			}, func() float64 {
				current, _ := path.breaker.state(time.Now())
				return oneIf(current == state)
			})
		}
		factory.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "token_sidecar_upstream_paused",
			Help:        "1 while calls to the path are held back by a Retry-After or a refusal of our credentials.",
			ConstLabels: prometheus.Labels{"path": name},
		}, func() float64 {
			now := time.Now()
			return oneIf(c.credentials.peek(now) != nil || c.fleet.last(name, now).Held > 0)
		})
	}
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_upstream_failing_keys",
		Help: "Tokens that are not asked for at present because their calls failed.",
	}, func() float64 { return float64(c.failing.count(time.Now())) })
	factory.NewGaugeFunc(prometheus.GaugeOpts{
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

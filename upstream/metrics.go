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
	opened         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Client) *metrics {
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
		opened: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_breaker_opened_total",
			Help: "How often the circuit breaker opened.",
		}),
	}
	for _, result := range []string{"ok", "held_back", "cancelled"} {
		m.calls.WithLabelValues(result)
	}
	for kind := Unavailable; kind <= ClientRefused; kind++ {
		m.calls.WithLabelValues(kind.String())
	}
	for state := gobreaker.StateClosed; state <= gobreaker.StateOpen; state++ {
		make.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "token_sidecar_breaker_state",
			Help:        "1 for the state the circuit breaker is in, else 0.",
			ConstLabels: prometheus.Labels{"state": state.String()},
		}, func() float64 { return oneIf(c.breaker.State() == state) })
	}
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_upstream_paused",
		Help: "1 while calls are held back by a Retry-After or a refusal of our credentials.",
	}, func() float64 { return oneIf(c.pause.check(time.Now()) != nil) })
	return m
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
	case errors.As(err, &e) && e.held:
		return "held_back"
	case errors.As(err, &e):
		return e.Kind.String()
	case errors.Is(err, context.Canceled):
		return "cancelled"
	default:
		return "unknown"
	}
}

package vend

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	waits        prometheus.Histogram
	renewals     *prometheus.CounterVec
	negativeHits prometheus.Counter
	panics       prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg)
	m := &metrics{
		waits: factory.NewHistogram(prometheus.HistogramOpts{
			Name:                        "token_sidecar_fetch_wait_seconds",
			Help:                        "Time that callers waited because neither memory nor a cached refusal could answer.",
			Buckets:                     []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 20},
			NativeHistogramBucketFactor: 1.1,
		}),
		renewals: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_renewals_total",
			Help: "Renewals ahead of expiry by result; left_to_another: another sidecar renews, put_off: callers or a pause had priority, same_token: the auth service returned the same token.",
		}, []string{"result"}),
		negativeHits: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_negative_hits_total",
			Help: "Requests answered by a cached refusal of the auth service.",
		}),
		panics: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_panics_total",
			Help: "Bugs that were caught. Please report each.",
		}),
	}
	for _, result := range []string{"ok", "failed", "left_to_another", "put_off", "same_token"} {
		m.renewals.WithLabelValues(result)
	}
	return m
}

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
			Help:                        "Time that callers waited because neither memory nor a remembered refusal could answer.",
			Buckets:                     []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 20},
			NativeHistogramBucketFactor: 1.1,
		}),
		renewals: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "token_sidecar_renewals_total",
			Help: "Renewals ahead of expiry by result; left_to_another is done by another sidecar, put_off gave way to callers or to a pause, same_token brought the same token again.",
		}, []string{"result"}),
		negativeHits: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_negative_hits_total",
			Help: "Requests answered by a remembered refusal of the auth service.",
		}),
		panics: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_panics_total",
			Help: "Defects that were caught. Any is a reason to report it.",
		}),
	}
	for _, result := range []string{"ok", "failed", "left_to_another", "put_off", "same_token"} {
		m.renewals.WithLabelValues(result)
	}
	return m
}

package cache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	steps       *prometheus.HistogramVec
	unreadable  prometheus.Counter
	waits       prometheus.Counter
	forgets     prometheus.Counter
	lostForgets prometheus.Counter
	lostRefresh prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Cache, shared bool) *metrics {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_memory_entries",
		Help: "Approximate number of tokens in memory.",
	}, func() float64 { return float64(c.memory.size()) })
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_memory_bytes",
		Help: "Approximate size of tokens and refusals in memory; MEMORY_CACHE_SIZE is the limit.",
	}, func() float64 { return float64(c.memory.bytes()) })
	if shared {
		factory.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "token_sidecar_redis_up",
			Help: "1 while Redis can be read and written, else 0. Absent without REDIS_URL.",
		}, func() float64 { return oneIf(c.shared.up.readable() && c.shared.up.writable()) })
		for operation, works := range map[string]func() bool{
			"read":  func() bool { return c.shared.up.readable() },
			"write": func() bool { return c.shared.up.writable() },
		} {
			factory.NewGaugeFunc(prometheus.GaugeOpts{
				Name:        "token_sidecar_redis_usable",
				Help:        "1 while Redis can be read, or written, else 0. Absent without REDIS_URL.",
				ConstLabels: prometheus.Labels{"operation": operation},
			}, func() float64 { return oneIf(works()) })
		}
		factory.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "token_sidecar_forgets_pending",
			Help: "Forgets that Redis could not be told yet. Until then other sidecars may serve those tokens.",
		}, func() float64 { return float64(c.pending.len()) })
	}
	if reg != nil {
		reg.MustRegister(newTokenCollector(c))
	}
	return &metrics{
		steps: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "token_sidecar_redis_step_duration_seconds",
			Help:                        "Duration of exchanges with Redis by step and result.",
			Buckets:                     []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"step", "result"}),
		unreadable: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_unreadable_values_total",
			Help: "Values in Redis that could not be opened: damaged, moved, foreign, or sealed with another key.",
		}),
		waits: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_fleet_waits_total",
			Help: "How often this sidecar waited while another one fetched the same token.",
		}),
		forgets: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_forget_news_total",
			Help: "Messages from other sidecars that a token was forgotten.",
		}),
		lostRefresh: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_refresh_tokens_lost_total",
			Help: "Refresh tokens that were not kept, because Redis was down for too long.",
		}),
		lostForgets: factory.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_forgets_lost_total",
			Help: "Tokens forgotten by this sidecar only, because too many other forgets were waiting for Redis.",
		}),
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) step(name string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.steps.WithLabelValues(name, result).Observe(took.Seconds())
}

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
	make := promauto.With(reg)
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_memory_entries",
		Help: "Tokens in memory, about.",
	}, func() float64 { return float64(c.memory.Len()) })
	if shared {
		make.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "token_sidecar_redis_up",
			Help: "1 while Redis is in use, 0 while it is down. Without REDIS_URL it is not there.",
		}, func() float64 {
			if c.redisUp() {
				return 1
			}
			return 0
		})
	}
	if reg != nil {
		reg.MustRegister(newTokenCollector(c))
	}
	return &metrics{
		steps: make.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "token_sidecar_redis_step_duration_seconds",
			Help:                        "Duration of exchanges with Redis by step and result.",
			Buckets:                     []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"step", "result"}),
		unreadable: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_unreadable_values_total",
			Help: "Values in Redis that could not be opened: damaged, moved, foreign, or sealed with another key.",
		}),
		waits: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_fleet_waits_total",
			Help: "How often this sidecar waited while another one fetched the same token.",
		}),
		forgets: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_forget_news_total",
			Help: "Messages of other sidecars that a token was forgotten.",
		}),
		lostRefresh: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_refresh_tokens_lost_total",
			Help: "Refresh tokens that were not kept, because Redis was down for too long.",
		}),
		lostForgets: make.NewCounter(prometheus.CounterOpts{
			Name: "token_sidecar_forgets_lost_total",
			Help: "Tokens forgotten here while Redis was down that it could not be told of afterwards.",
		}),
	}
}

func (m *metrics) step(name string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.steps.WithLabelValues(name, result).Observe(took.Seconds())
}

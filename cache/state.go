package cache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Band counts the tokens in memory that can be served for less than Below still, and not less than the
// former band.
type Band struct {
	Name   string        `json:"name"`
	Below  time.Duration `json:"-"`
	Tokens int           `json:"tokens"`
}

// bands returns them all, empty.
func bands() []Band {
	return []Band{
		{Name: "1m", Below: time.Minute},
		{Name: "10m", Below: 10 * time.Minute},
		{Name: "1h", Below: time.Hour},
		{Name: "6h", Below: 6 * time.Hour},
		{Name: "12h", Below: 12 * time.Hour},
		{Name: "24h", Below: 24 * time.Hour},
		{Name: "longer", Below: 1<<63 - 1},
	}
}

// State is what a status page tells of the caches.
type State struct {
	// Redis is up, down, or off when none is set.
	Redis string `json:"redis"`
	// DownFor is how long it has been down.
	DownFor time.Duration `json:"-"`
	// Tokens is how many there are in memory, Left how long they can be served still.
	Tokens int    `json:"tokens"`
	Left   []Band `json:"left"`
	// NextExpiry is when the first of them cannot be served any more; 0 when there is none.
	NextExpiry time.Duration `json:"-"`
}

// State returns the state of the caches.
func (c *Cache) State() State {
	s := State{Redis: "off", Left: bands()}
	if c.redis != nil {
		s.Redis = "up"
		if since := c.redis.health.since.Load(); c.redis.health.isDown() && since != nil {
			s.Redis, s.DownFor = "down", time.Since(*since)
		}
	}
	c.memory.each(func(left time.Duration) {
		s.Tokens++
		if s.NextExpiry == 0 || left < s.NextExpiry {
			s.NextExpiry = left
		}
		for i := range s.Left {
			if left < s.Left[i].Below {
				s.Left[i].Tokens++
				break
			}
		}
	})
	return s
}

// tokenCollector tells of the tokens in memory when it is asked, in one pass.
type tokenCollector struct {
	cache *Cache
	left  *prometheus.Desc
	next  *prometheus.Desc
}

func newTokenCollector(c *Cache) *tokenCollector {
	return &tokenCollector{
		cache: c,
		left: prometheus.NewDesc("token_sidecar_tokens",
			"Tokens in memory by how long they can be served still: less than the label says, and not less than the next smaller one.", []string{"left"}, nil),
		next: prometheus.NewDesc("token_sidecar_next_expiry_seconds",
			"Seconds until the first token in memory cannot be served any more; 0 without tokens.", nil, nil),
	}
}

// Describe implements [prometheus.Collector].
func (t *tokenCollector) Describe(out chan<- *prometheus.Desc) {
	out <- t.left
	out <- t.next
}

// Collect implements [prometheus.Collector].
func (t *tokenCollector) Collect(out chan<- prometheus.Metric) {
	state := t.cache.State()
	for _, band := range state.Left {
		out <- prometheus.MustNewConstMetric(t.left, prometheus.GaugeValue, float64(band.Tokens), band.Name)
	}
	out <- prometheus.MustNewConstMetric(t.next, prometheus.GaugeValue, state.NextExpiry.Seconds())
}

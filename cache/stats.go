package cache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Band counts the tokens in memory that can be served for less than Below, but not for less than the previous band's.
type Band struct {
	Name   string
	Below  time.Duration
	Tokens int
}

// bands returns all bands, empty.
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

// State is the state of the caches, for the status page.
type State struct {
	// PendingForgets is how many forgets Redis has not been told yet.
	PendingForgets int
	// Tokens is how many tokens are in memory, Left for how long they can be served, Bytes their size.
	Tokens int
	Left   []Band
	Bytes  uint64
	// NextExpiry is the time until the first of them is no longer served; 0 without tokens.
	NextExpiry time.Duration
}

// Redis returns the state of Redis.
func (c *Cache) Redis() RedisState {
	if c.shared == nil {
		return RedisState{State: RedisOff}
	}
	return c.shared.up.describe()
}

// PendingForgets returns how many forgets Redis has not been told yet.
func (c *Cache) PendingForgets() int { return c.pending.len() }

// State returns the state of the caches.
func (c *Cache) State() State {
	s := State{Left: bands(), PendingForgets: c.pending.len(), Bytes: c.memory.bytes()}
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

// tokenCollector collects the metrics of the tokens in memory on each scrape, in one pass.
type tokenCollector struct {
	cache *Cache
	left  *prometheus.Desc
	next  *prometheus.Desc
}

func newTokenCollector(c *Cache) *tokenCollector {
	return &tokenCollector{
		cache: c,
		left: prometheus.NewDesc("token_sidecar_tokens",
			"Tokens in memory by the time for which they can still be served: less than the label, and not less than the next smaller one.", []string{"left"}, nil),
		next: prometheus.NewDesc("token_sidecar_next_expiry_seconds",
			"Seconds until the first token in memory is no longer served; 0 without tokens.", nil, nil),
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

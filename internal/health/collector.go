package health

import "github.com/prometheus/client_golang/prometheus"

// A collector reports the conditions that are not good.
type collector struct {
	watcher *Watcher
	desc    *prometheus.Desc
}

// NewCollector returns the metric token_sidecar_degraded for the conditions of w.
func NewCollector(w *Watcher) prometheus.Collector {
	return collector{w, prometheus.NewDesc("token_sidecar_degraded",
		"1 for each part that is degraded, with its state and the cause; no series while all is well.",
		[]string{"part", "path", "state", "cause"}, nil)}
}

// Describe implements [prometheus.Collector].
func (c collector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements [prometheus.Collector].
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, condition := range c.watcher.Conditions() {
		if condition.Level.Degraded() {
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, 1,
				condition.Part, condition.Path, condition.State, condition.Cause)
		}
	}
}

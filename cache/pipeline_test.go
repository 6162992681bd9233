package cache

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/testbed"
)

// TestACrowdSharesExchanges: many who look at once cost Redis few exchanges, and each gets its own token.
func TestACrowdSharesExchanges(t *testing.T) {
	server := testbed.StartRedis(t)
	writer := newCache(t, server.URL(), nil)
	const crowd = 100
	var put [crowd]*Entry
	for i := range put {
		put[i] = newEntry(strconv.Itoa(i), time.Hour)
		publish(t, writer, NewKey(strconv.Itoa(i)), put[i])
	}
	proxy := testbed.StartProxy(t, server.Addr)
	proxy.Slow(100)
	registry := prometheus.NewRegistry()
	reader := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.Registerer, o.StepLimit = registry, 20*time.Second })
	var callers sync.WaitGroup
	for i := range put {
		callers.Go(func() {
			if e := get(t, reader, NewKey(strconv.Itoa(i))); e == nil || e.ID != put[i].ID {
				t.Errorf("%d got %v", i, e)
			}
		})
	}
	callers.Wait()
	if n := exchanges(t, registry, "get"); n == 0 || n > crowd/4 {
		t.Errorf("%d exchanges for %d", n, crowd)
	}
}

// exchanges counts those of one step.
func exchanges(t *testing.T, registry *prometheus.Registry, step string) (n uint64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "step" && label.GetValue() == step {
					n += metric.GetHistogram().GetSampleCount()
				}
			}
		}
	}
	return n
}

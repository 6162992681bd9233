package cache

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"token-sidecar/internal/testbed"
)

// TestACrowdSharesExchanges: many concurrent looks cost Redis few exchanges, and each gets its own token.
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

// TestASilentConnectionHoldsUpNobody: while a reply does not come, other commands are answered on another connection.
func TestASilentConnectionHoldsUpNobody(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.StepLimit = 10 * time.Second })
	silent := make(chan struct{})
	proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if strings.EqualFold(s.Args[0], "get") && strings.HasSuffix(s.Args[1], "silent") {
			close(silent)
			return testbed.ReplyLost
		}
		return testbed.None
	})
	p := c.shared.pipeline
	ctx, leave := context.WithCancel(t.Context())
	first := p.submit(ctx, []*command{{step: "get", keys: []string{keyPrefix + "silent"}}})
	<-silent
	for range 100 {
		if err := p.do(t.Context(), &command{step: "get", keys: []string{keyPrefix + "another"}}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-first.done:
		t.Error("the reply was not lost")
	default:
	}
	leave()
	proxy.OnStep(nil)
	proxy.Down() // otherwise Close would wait for it
}

func TestHeartbeatsOvertake(t *testing.T) {
	p := &pipeline{running: manyLanes, most: firstBatch}
	for _, c := range []*command{{step: "a"}, {step: "b"}, {step: "extend", first: true}, {step: "c"}} {
		p.submit(t.Context(), []*command{c})
	}
	var order []string
	for _, g := range p.take() {
		order = append(order, g.commands[0].step)
	}
	if !slices.Equal(order, []string{"extend", "a", "b", "c"}) {
		t.Error(order)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	p.submit(t.Context(), []*command{{step: "a"}})
	s := &shared{pipeline: p, up: newAvailability(time.Second, time.Second)}
	s.extend(gone, []*Lease{{fences: map[string]string{"name": "1"}}}, time.Second)
	if first := p.take()[0].commands[0].step; first != "extend" {
		t.Errorf("%s comes before heartbeats", first)
	}
}

// TestASetUpThatFailsFailsEachCommand: the library leaves those that were sent together without an error when AUTH or
// SELECT was refused; none may be taken for an answer.
func TestASetUpThatFailsFailsEachCommand(t *testing.T) {
	server := testbed.StartRedis(t, "--requirepass", "right")
	for url, cause := range map[string]string{
		"redis://:wrong@" + server.Addr:         "WRONGPASS",
		"redis://nobody:right@" + server.Addr:   "WRONGPASS",
		"redis://" + server.Addr:                "NOAUTH",
		"redis://:right@" + server.Addr + "/99": causeUnknown, // there is no such database
	} {
		t.Run(cause, func(t *testing.T) {
			c := newCache(t, url, nil)
			crowd := []*command{
				{step: "get", keys: []string{keyPrefix + "a"}},
				{step: "probe", script: probeScript, keys: []string{keyPrefix + "b"}, args: []any{1000}},
				{step: "get", keys: []string{keyPrefix + "c"}},
				{step: "probe", script: probeScript, keys: []string{keyPrefix + "d"}, args: []any{1000}},
			}
			_ = c.shared.pipeline.do(t.Context(), crowd...)
			for i, command := range crowd {
				if command.err == nil {
					t.Errorf("command %d is said to be answered: %v", i, command.reply)
				}
			}
			testbed.Until(t, "Redis is not used", c.redisGone)
			if got := c.Redis(); got.Cause != cause {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestBatchesGrowAndShrink: batches grow as long as larger ones take no longer.
func TestBatchesGrowAndShrink(t *testing.T) {
	const limit, far = 250 * time.Millisecond, 10 * time.Millisecond
	type exchange struct {
		sent, answered int
		took           time.Duration
	}
	for name, c := range map[string]struct {
		seen []exchange
		want int
	}{
		"quick":                         {[]exchange{{1, 1, far}, {16, 16, far}, {32, 32, far}}, 64},
		"few are asked":                 {[]exchange{{1, 1, far}, {2, 2, far}, {8, 8, far}}, 16},
		"no end":                        {slices.Repeat([]exchange{{largestBatch, largestBatch, far}}, 9), largestBatch},
		"each takes its time":           {[]exchange{{1, 1, far}, {16, 16, 16 * far}}, 6},
		"some were not answered":        {[]exchange{{1, 1, far}, {40, 25, limit}}, 25},
		"Redis far away":                {[]exchange{{1, 1, 70 * time.Millisecond}, {16, 16, 71 * time.Millisecond}}, 32},
		"the machine was busy":          {[]exchange{{1, 1, far / 100}, {16, 16, limit / 2}}, 16},
		"none was answered":             {[]exchange{{1, 1, far}, {16, 0, limit}}, 16},
		"the path is longer of late":    {[]exchange{{1, 1, far / 100}, {16, 3, limit}}, 3},
		"one at a time, and each takes": {slices.Repeat([]exchange{{1, 1, 70 * time.Millisecond}, {2, 1, limit}}, 3), 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pipeline{limit: limit, most: firstBatch}
			for _, e := range c.seen {
				p.adapt(e.sent, e.answered, e.took)
			}
			if p.most != c.want {
				t.Errorf("%d commands at once, want %d", p.most, c.want)
			}
		})
	}
}

// TestAnExchangeHasItsWholeTime, however long its commands waited in our own queue: late as they are, they tell nothing
// against Redis.
func TestAnExchangeHasItsWholeTime(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	look := &command{step: "get", keys: []string{keyPrefix + "late"}}
	g := newGroup(t.Context(), look)
	g.since = g.since.Add(-time.Minute)
	c.shared.pipeline.exchange([]*group{g})
	if look.err != nil {
		t.Error(look.err)
	}
}

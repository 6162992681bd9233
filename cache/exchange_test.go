package cache

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// withoutProbes makes probes be no steps: they come whenever they like.
func withoutProbes(proxy *testbed.Proxy) {
	counts := proxy.Counts
	proxy.Counts = func(args []string) bool {
		return counts(args) && !slices.ContainsFunc(args, func(arg string) bool { return strings.HasSuffix(arg, "{probe}") })
	}
}

// TestWhatWasAnsweredCounts: when a connection fails while replies are read, those read before are valid.
func TestWhatWasAnsweredCounts(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr, withoutProbes)
	c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.StepLimit = 400 * time.Millisecond })
	held := newEntry("held", time.Hour)
	publish(t, c, NewKey("held"), held)
	n := c.shared.keys.names(NewKey("held"))[0]
	script := func() *command {
		return &command{step: "claim", script: claimScript, keys: []string{n.text + renewSuffix}, args: []any{"me", 1, 1}}
	}
	look := func(name string) *command { return &command{step: "get", keys: []string{name}} }
	if err := c.shared.pipeline.do(t.Context(), script()); err != nil { // from here on Redis knows it
		t.Fatal(err)
	}
	// Each of the replies after the first may be the one that does not come.
	for _, lost := range []string{"GET", "PTTL", "EVALSHA"} {
		t.Run(lost, func(t *testing.T) {
			batch := []*command{
				script(), look(n.text), look(n.text + "none"), look(n.text), script(), look(n.text), look(n.text + "none"),
			}
			var seen atomic.Int32
			last := map[string]int32{"GET": 3, "PTTL": 3, "EVALSHA": 2}[lost]
			proxy.OnStep(func(s testbed.Step) testbed.Fault {
				if s.Args[0] == lost && seen.Add(1) == last {
					return testbed.ReplyLost
				}
				return testbed.None
			})
			defer proxy.OnStep(nil)
			<-c.shared.pipeline.submit(t.Context(), batch).done
			answered := map[string]int{"GET": 3, "PTTL": 3, "EVALSHA": 4}[lost]
			for i, c := range batch {
				if (c.err == nil) != (i < answered) {
					t.Errorf("command %d of %d that were answered: %v", i, answered, c.err)
				}
			}
			if raw, _ := batch[1].reply.(string); fenceIn(raw) == "" || batch[1].left == 0 {
				t.Errorf("the look's reply is %q for %v", raw, batch[1].left)
			}
		})
	}
}

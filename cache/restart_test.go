package cache

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/testbed"
)

// TestARedisThatLostAForgetIsToldAgain: it starts with an older copy of its data, as a replica that lagged has, in which
// the token is still there. What was fetched since the forget stays.
func TestARedisThatLostAForgetIsToldAgain(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), func(o *Options) { o.StepLimit = 200 * time.Millisecond })
	untilListening(t, c)
	rejected, all, anew := NewKey("rejected"), NewKey("all"), NewKey("fetched anew")
	forgotten := map[Key]*Entry{}
	for _, key := range []Key{rejected, all, anew} {
		forgotten[key] = fetchOnce(t, c, key, nil)
	}
	if err := server.Client().Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	c.Forget(t.Context(), rejected, &forgotten[rejected].Hashes()[0])
	c.Forget(t.Context(), all, nil)
	c.Forget(t.Context(), anew, nil)
	newer := fetchOnce(t, c, anew, nil)
	server.Kill()
	testbed.Until(t, "Redis is lost", c.redisGone)
	generation := c.generation.Load()
	server.Start()
	other := newCache(t, server.URL(), nil)
	testbed.Until(t, "it is listening again", func() bool { return c.generation.Load() >= generation+2 })
	testbed.Until(t, "Redis was told", func() bool { return c.redisUp() && c.PendingForgets() == 0 })
	for key, e := range forgotten {
		for _, sidecar := range []*Cache{c, other} {
			if got := get(t, sidecar, key); got != nil && got.ID == e.ID {
				t.Error("a forgotten token is served")
			}
		}
	}
	testbed.Until(t, "what was fetched since is shared", func() bool {
		mine, theirs := get(t, c, anew), get(t, other, anew)
		return mine != nil && theirs != nil && mine.ID == newer.ID && theirs.ID == newer.ID
	})
}

// TestAForgetToldAgainHarmsNothing that came since.
func TestAForgetToldAgainHarmsNothing(t *testing.T) {
	server := testbed.StartRedis(t)
	c, other := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	untilListening(t, c, other)
	key := NewKey("u")
	fetchOnce(t, c, key, nil)
	c.Forget(t.Context(), key, nil)
	testbed.Until(t, "the other one has heard", func() bool { return testutil.ToFloat64(other.metrics.forgets) > 0 })
	newer := fetchOnce(t, other, key, nil)
	if got := get(t, c, key); got == nil || got.ID != newer.ID {
		t.Fatalf("got %v", got)
	}
	for range 2 {
		c.distrust()
		if got := get(t, c, key); got == nil || got.ID != newer.ID {
			t.Errorf("while it is told again, %v is served", got)
		}
		testbed.Until(t, "Redis was told", func() bool { return c.PendingForgets() == 0 })
		for _, sidecar := range []*Cache{c, other, newCache(t, server.URL(), nil)} {
			if got := get(t, sidecar, key); got == nil || got.ID != newer.ID {
				t.Errorf("%v is served", got)
			}
		}
	}
}

// TestRedisLosesSomethingInTheMiddle of a fetch for which another sidecar waits: scripts, connections, all data. It
// costs one more fetch at most, and afterwards tokens are shared and forgotten as before.
func TestRedisLosesSomethingInTheMiddle(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, command := range map[string][]any{
		"scripts": {"SCRIPT", "FLUSH"}, "subscriptions": {"CLIENT", "KILL", "TYPE", "pubsub"},
		"connections": {"CLIENT", "KILL", "TYPE", "normal"}, "data": {"FLUSHALL"},
	} {
		t.Run(name, func(t *testing.T) {
			brief := func(o *Options) { o.LockLife = 400 * time.Millisecond }
			a, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
			untilListening(t, a, b)
			key, mine := NewKey(name), newEntry("mine", time.Hour)
			lease := acquire(t, a, key)
			done := make(chan bool)
			go func() {
				offer, err := b.Acquire(t.Context(), key, Want{})
				if err != nil {
					t.Error(err)
				}
				if offer.Lease != nil {
					offer.Lease.Publish(t.Context(), newEntry("theirs", time.Hour))
				}
				done <- offer.Lease == nil
			}()
			testbed.Until(t, "b waits", func() bool { return testutil.ToFloat64(b.metrics.waits) > 0 })
			if err := testbed.StartedClient(t, server.Addr).Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
			lease.Publish(t.Context(), mine)
			if shared := <-done; !shared && name != "data" {
				t.Error("it was fetched twice")
			}
			testbed.Until(t, "both serve one token", func() bool {
				a.distrust()
				b.distrust()
				one, other := get(t, a, key), get(t, b, key)
				return one != nil && other != nil && one.ID == other.ID
			})
			a.Forget(t.Context(), key, nil)
			testbed.Until(t, "both have forgotten", func() bool { return get(t, a, key) == nil && get(t, b, key) == nil })
		})
	}
}

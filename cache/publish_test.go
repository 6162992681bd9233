package cache

import (
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// TestPublishWithoutALock: whoever was not heard to be granted a lock publishes over what was there when it asked, and
// over nothing else.
func TestPublishWithoutALock(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, c := range map[string]struct {
		before, meanwhile func(c *Cache, key Key)
		stored            bool
	}{
		"over nothing":           {nil, nil, true},
		"over the same":          {func(c *Cache, key Key) { fetchOnce(t, c, key, nil) }, nil, true},
		"over another":           {nil, func(c *Cache, key Key) { fetchOnce(t, c, key, nil) }, false},
		"after a forget":         {nil, func(c *Cache, key Key) { c.Forget(t.Context(), key, nil) }, false},
		"over what came instead": {func(c *Cache, key Key) { fetchOnce(t, c, key, nil) }, func(c *Cache, key Key) { fetchOnce(t, c, key, get(t, c, key)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
			key := NewKey(name)
			if c.before != nil {
				c.before(b, key)
			}
			offer, err := a.Acquire(t.Context(), key, Want{Avoid: get(t, a, key)})
			if err != nil || offer.Lease == nil {
				t.Fatalf("%+v, %v", offer, err)
			}
			lease := offer.Lease
			a.mu.Lock()         // heartbeats read them
			clear(lease.fences) // the reply was lost,
			a.mu.Unlock()
			at := a.shared.keys.names(key)[0].text
			server.Client().Del(t.Context(), at+lockSuffix) // or Redis never got the command
			if c.meanwhile != nil {
				c.meanwhile(b, key)
			}
			e := newEntry("mine", time.Hour)
			lease.voided.Store(false) // the news were lost
			lease.Publish(t.Context(), e)
			got := get(t, newCache(t, server.URL(), nil), key)
			if stored := got != nil && got.ID == e.ID; stored != c.stored {
				t.Errorf("stored %v, want %v", stored, c.stored)
			}
		})
	}
}

// TestPublishOverWhatRedisDidNotTell: a token that was fetched in place of whatever Redis held replaces that, though
// Redis could not be asked what it was before the token came. Memory may have held another one.
func TestPublishOverWhatRedisDidNotTell(t *testing.T) {
	for name, avoid := range map[string]*Entry{
		"memory held none": nil, "memory held another": newEntry("rejected", time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			server := testbed.StartRedis(t)
			proxy := testbed.StartProxy(t, server.Addr)
			a, b := newCache(t, "redis://"+proxy.Addr, nil), newCache(t, server.URL(), nil)
			key := NewKey("u")
			if avoid != nil {
				a.memory.put(key, avoid, 0, func() bool { return true })
			}
			fetchOnce(t, b, key, nil)
			proxy.Down()
			offer, err := a.Acquire(t.Context(), key, Want{Avoid: avoid, AvoidFirst: true, Anyway: true})
			if err != nil || offer.Lease == nil {
				t.Fatalf("%+v, %v", offer, err)
			}
			proxy.Up()
			testbed.Until(t, "Redis is in use", func() bool { return a.Redis().State == RedisUp })
			e := newEntry("mine", time.Hour)
			offer.Lease.Publish(t.Context(), e)
			for name, c := range map[string]*Cache{"here": a, "elsewhere": newCache(t, server.URL(), nil)} {
				testbed.Until(t, "the new token is served "+name, func() bool {
					got := get(t, c, key)
					return got != nil && got.ID == e.ID
				})
			}
		})
	}
}

// TestPublishAfterTheLongestFetch: a process that was frozen for longer than any fetch takes has missed what is not
// remembered any more.
func TestPublishAfterTheLongestFetch(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), func(o *Options) { o.FetchLimit = time.Second })
	key := NewKey("u")
	lease := acquire(t, c, key)
	stops(c)
	name := c.shared.keys.names(key)[0].text
	c.mu.Lock()
	lease.fences[name] = formatFence(Fence(time.Now().Add(-time.Minute).UnixMicro())) // when it was granted
	c.mu.Unlock()
	server.Client().Del(t.Context(), name+lockSuffix)
	lease.over.Store(false)
	lease.Publish(t.Context(), newEntry("late", time.Hour))
	if e := get(t, c, key); e != nil {
		t.Error("it is kept")
	}
}

// TestPublishTwice: a lost reply makes a sidecar publish again what is there already.
func TestPublishTwice(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	lease := acquire(t, c, NewKey("u"))
	e := newEntry("x", time.Hour)
	var fences [2]Fence
	for i := range fences {
		stored, fence, err := c.shared.end(t.Context(), lease, ending{entry: e})
		if err != nil || stored != 1 {
			t.Errorf("time %d: %d, %v", i, stored, err)
		}
		fences[i] = fence
	}
	if fences[0] != fences[1] {
		t.Errorf("fences %v", fences)
	}
	lease.Release(t.Context())
}

// TestSeedOverWhatWasSeen: memory's token comes in the place of what the look saw, and of nothing that came since.
func TestSeedOverWhatWasSeen(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	key := NewKey("u")
	old := newEntry("old", time.Hour)
	there := fetchOnce(t, c, key, nil)
	for _, seen := range []string{"", formatFence(there.Fence - 1)} {
		if _, err := c.shared.seed(t.Context(), key, old, seen); err != nil {
			t.Fatal(err)
		}
		if e := get(t, newCache(t, server.URL(), nil), key); e == nil || e.ID != there.ID {
			t.Errorf("seen %q: Redis holds %v", seen, e)
		}
	}
	newer := newEntry("newer", time.Hour)
	if _, err := c.shared.seed(t.Context(), key, newer, formatFence(there.Fence)); err != nil {
		t.Fatal(err)
	}
	if e := get(t, newCache(t, server.URL(), nil), key); e == nil || e.ID != newer.ID || e.Fence <= there.Fence {
		t.Errorf("Redis holds %v", e)
	}
}

// TestFencesGrow although the clock of Redis does not.
func TestFencesGrow(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	key := NewKey("u")
	first := fetchOnce(t, c, key, nil)
	at := c.shared.keys.names(key)[0]
	// As if the clock had been an hour ahead when it was stored.
	ahead := Fence(time.Now().Add(time.Hour).UnixMicro())
	value := string(tokenKind) + formatFence(ahead) + formatToken(first, at, time.Now())
	server.Client().Set(t.Context(), at.text, value, time.Hour)
	second := fetchOnce(t, c, key, first)
	if e := get(t, newCache(t, server.URL(), nil), key); e == nil || e.ID != second.ID || e.Fence <= ahead {
		t.Errorf("Redis holds %v", e)
	}
}

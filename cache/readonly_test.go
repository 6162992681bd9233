package cache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// quick makes the cache find out soon that Redis takes writes again.
func quick(o *Options) { o.StepLimit, o.ProbeEvery = 500*time.Millisecond, 100*time.Millisecond }

// TestForgetAndReadOnly: a token was forgotten, before Redis stopped taking writes or after. What is fetched then is kept
// here, though Redis cannot be told of it, and is shared as soon as it can.
func TestForgetAndReadOnly(t *testing.T) {
	server := testbed.StartRedis(t)
	server.Client().ConfigSet(t.Context(), "maxmemory-policy", "noeviction")
	proxy := testbed.StartRESPProxy(t, server.Addr)
	set := func(t *testing.T, name, value string) {
		if err := server.Client().ConfigSet(context.WithoutCancel(t.Context()), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	type step func(t *testing.T)
	outages := map[string]struct{ begin, end step }{
		"READONLY": {func(*testing.T) { proxy.ReadOnly() }, func(*testing.T) { proxy.Heal() }},
		"OOM":      {func(t *testing.T) { set(t, "maxmemory", "1") }, func(t *testing.T) { set(t, "maxmemory", "0") }},
		"NOREPLICAS": {
			func(t *testing.T) { set(t, "min-replicas-to-write", "1") },
			func(t *testing.T) { set(t, "min-replicas-to-write", "0") },
		},
	}
	all := func(*Entry) *Hash { return nil }
	one := func(e *Entry) *Hash { return &e.Hashes()[0] }
	forgets := map[string]struct{ before, during func(*Entry) *Hash }{
		"never":            {nil, nil},
		"before":           {all, nil},
		"before, one":      {one, nil},
		"during":           {nil, all},
		"during, one":      {nil, one},
		"before and again": {all, all},
	}
	for outage, redis := range outages {
		for when, forgotten := range forgets {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/known %v", outage, when, known), func(t *testing.T) {
					c := newCache(t, "redis://"+proxy.Addr, quick)
					other := newCache(t, server.URL(), nil)
					untilListening(t, c, other)
					key := NewKey(t.Name())
					first := fetchOnce(t, c, key, nil)
					if forgotten.before != nil {
						c.Forget(t.Context(), key, forgotten.before(first))
					}
					redis.begin(t)
					t.Cleanup(func() { redis.end(t) })
					if known {
						testbed.Until(t, "Redis is read-only", func() bool { return !c.shared.up.writable() })
					}
					if forgotten.during != nil && c.Forget(t.Context(), key, forgotten.during(first)) {
						t.Error("Redis was told")
					}
					held, fetches := first, 0
					for range 10 {
						switch e := get(t, c, key); {
						case e == nil:
							held = fetchOnce(t, c, key, nil)
							fetches++
						case e.ID != held.ID:
							t.Errorf("%v is served", e)
						}
						if offer, err := c.Acquire(t.Context(), key, Want{}); err != nil || offer.Lease != nil {
							t.Fatal("whoever waited for it fetches again", err)
						}
						c.distrust()
					}
					if when != "never" && fetches != 1 {
						t.Errorf("10 calls cost %d fetches", fetches)
					}
					redis.end(t)
					testbed.Until(t, "it is shared", func() bool {
						e := get(t, other, key)
						return e != nil && e.ID == held.ID && c.PendingForgets() == 0
					})
					if e := get(t, c, key); e == nil || e.ID != held.ID {
						t.Errorf("%v is served", e)
					}
					other.Forget(t.Context(), key, nil)
					testbed.Until(t, "it is forgotten", func() bool { return c.memory.former(key) == nil })
					c.memory.put(key, held, 0, func() bool { return true }) // as if it had missed the message
					for _, sidecar := range []*Cache{c, other, newCache(t, server.URL(), nil)} {
						if get(t, sidecar, key) != nil {
							t.Error("a forgotten token is served")
						}
					}
				})
			}
		}
	}
}

// TestAForgetAfterTheFetchBegan wins, though the message about it is lost: the tombstone is newer than what the lease
// saw, or has the token's mark.
func TestAForgetAfterTheFetchBegan(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	for _, locked := range []bool{false, true} {
		for _, hashed := range []bool{false, true} {
			for _, published := range []bool{false, true} {
				t.Run(fmt.Sprintf("locked %v/by hash %v/published %v", locked, hashed, published), func(t *testing.T) {
					c := newCache(t, "redis://"+proxy.Addr, quick)
					other := newCache(t, server.URL(), nil)
					untilListening(t, c, other)
					key, e := NewKey(t.Name()), newEntry(t.Name(), time.Hour)
					c.Forget(t.Context(), key, nil)
					t.Cleanup(proxy.Heal)
					readOnly := func() {
						proxy.ReadOnly()
						testbed.Until(t, "Redis is read-only", func() bool { return !c.shared.up.writable() })
					}
					if !locked {
						readOnly()
					}
					lease := acquire(t, c, key)
					if locked {
						readOnly()
					}
					publish := func() {
						lease.Publish(t.Context(), e)
						if c.memory.former(key) != e {
							t.Error("it is not kept")
						}
					}
					if published {
						publish()
						c.distrust()
						if get(t, c, key) != e {
							t.Error("it is forgotten by what was forgotten before")
						}
					}
					var hash *Hash
					if hashed {
						hash = &e.Hashes()[0]
					}
					epoch := c.Epoch(key)
					other.Forget(t.Context(), key, hash)
					testbed.Until(t, "the message is there", func() bool { return c.Epoch(key) == epoch+2 })
					lease.voided.Store(false) // as if it were lost
					if published {
						c.memory.put(key, e, 0, func() bool { return true })
					} else {
						publish()
					}
					if get(t, c, key) != nil || c.memory.former(key) != nil {
						t.Error("a forgotten token is served")
					}
					proxy.Heal()
					testbed.Until(t, "Redis takes writes", c.redisUp)
					c.shareUnshared(t.Context())
					if get(t, c, key) != nil || get(t, other, key) != nil {
						t.Error("a forgotten token is served")
					}
				})
			}
		}
	}
}

// TestTooManyMarksForgetAllOfThem: the tombstone then has no marks any more, and its fence must tell.
func TestTooManyMarksForgetAllOfThem(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	c, other := newCache(t, "redis://"+proxy.Addr, nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	other.Forget(t.Context(), key, nil)
	proxy.ReadOnly()
	e := fetchOnce(t, c, key, nil)
	other.Forget(t.Context(), key, &e.Hashes()[0])
	for i := range maxMarks {
		other.Forget(t.Context(), key, &newEntry(fmt.Sprint(i), time.Hour).Hashes()[0])
	}
	seen, err := other.shared.look(t.Context(), key)
	if err != nil || !seen.forgets(e) {
		t.Error("a forgotten token is not remembered", err)
	}
}

package cache

import (
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestRefusalsAreShared: what one sidecar was refused, another one does not ask for, until that is over, or somebody
// says that it is.
func TestRefusalsAreShared(t *testing.T) {
	server := testbed.StartRedis(t)
	no := secret.Hide([]byte("no"))
	refused := func(c *Cache, key Key) bool {
		t.Helper()
		offer, err := c.Acquire(t.Context(), key, Want{})
		if err != nil {
			t.Fatal(err)
		}
		if offer.Lease != nil {
			offer.Lease.Release(t.Context())
		}
		return offer.Refusal != nil && string(offer.Refusal.Reveal()) == "no"
	}
	for name, c := range map[string]struct {
		since func(a *Cache, key Key)
		want  bool
	}{
		"":                    {func(*Cache, Key) {}, true},
		"forgotten":           {func(a *Cache, key Key) { a.Forget(t.Context(), key, nil) }, false},
		"one token forgotten": {func(a *Cache, key Key) { a.Forget(t.Context(), key, &Hash{1}) }, false},
		"fetched anyway, and rejected": {func(a *Cache, key Key) {
			offer, err := a.Acquire(t.Context(), key, Want{Anyway: true})
			if err != nil || offer.Lease == nil {
				t.Fatalf("%+v, %v", offer, err)
			}
			offer.Lease.Publish(t.Context(), newEntry("x", time.Hour))
			if err := server.Client().Del(t.Context(), a.shared.keys.names(key)[0].text).Err(); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run("refused, "+name, func(t *testing.T) {
			a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
			untilListening(t, b)
			key := NewKey(name)
			acquire(t, a, key).Refuse(t.Context(), no, time.Hour)
			if _, ok := a.Refusal(key); !ok {
				t.Error("it is not remembered here")
			}
			if !refused(b, key) {
				t.Error("it is not shared")
			}
			if _, ok := b.Refusal(key); !ok {
				t.Error("it is not remembered there")
			}
			c.since(a, key)
			if got := refused(newCache(t, server.URL(), nil), key); got != c.want {
				t.Errorf("refused %v", got)
			}
			if _, ok := a.Refusal(key); ok != c.want {
				t.Errorf("remembered here %v", ok)
			}
			if name != "fetched anyway, and rejected" { // nobody is told of that
				testbed.Until(t, "the other one has heard", func() bool { _, ok := b.Refusal(key); return ok == c.want })
			}
		})
	}
}

// TestARefusalHidesNoToken that Redis holds, nor is it anybody's but the holder's of the lock.
func TestARefusalHidesNoToken(t *testing.T) {
	server := testbed.StartRedis(t)
	no := secret.Hide([]byte("no"))
	for name, prepare := range map[string]func(c *Cache, key Key) *Lease{
		"renewed": func(c *Cache, key Key) *Lease {
			offer, err := c.Acquire(t.Context(), key, Want{Avoid: fetchOnce(t, c, key, nil)})
			if err != nil {
				t.Fatal(err)
			}
			return offer.Lease
		},
		"it came since": func(c *Cache, key Key) *Lease {
			lease := acquire(t, c, key)
			if _, err := c.shared.seed(t.Context(), key, newEntry("x", time.Hour), ""); err != nil {
				t.Fatal(err)
			}
			return lease
		},
		"the lock is another one's": func(c *Cache, key Key) *Lease {
			lease := acquire(t, c, key)
			stops(c)
			server.Client().Del(t.Context(), c.shared.keys.names(key)[0].text+lockSuffix)
			acquire(t, newCache(t, server.URL(), nil), key)
			lease.over.Store(false)
			return lease
		},
		"everything was forgotten since": func(c *Cache, key Key) *Lease {
			lease := acquire(t, c, key)
			c.Forget(t.Context(), key, nil)
			server.Client().Del(t.Context(), c.shared.keys.names(key)[0].text+lockSuffix)
			return lease
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, key := newCache(t, server.URL(), nil), NewKey(name)
			prepare(c, key).Refuse(t.Context(), no, time.Hour)
			if server.Client().Exists(t.Context(), c.shared.keys.names(key)[0].text+refusalSuffix).Val() != 0 {
				t.Error("the fleet is told of it")
			}
			if _, ok := c.Refusal(key); ok && (name == "renewed" || name == "everything was forgotten since") {
				t.Error("it is remembered")
			}
		})
	}
}

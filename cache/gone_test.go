package cache

import (
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// TestAForgottenTokenThatComesLate: what was on its way to Redis when the token was forgotten by its hash, on a silent
// connection perhaps, does not bring it back, whatever Redis held at that moment.
func TestAForgottenTokenThatComesLate(t *testing.T) {
	server := testbed.StartRedis(t)
	held := map[string]func(c *Cache, key Key, first *Entry){
		"another token": func(*Cache, Key, *Entry) {},
		"a tombstone":   func(c *Cache, key Key, first *Entry) { c.Forget(t.Context(), key, &first.Hashes()[0]) },
	}
	late := map[string]func(c *Cache, key Key, first, second *Entry) bool{
		"published with a lock": func(c *Cache, key Key, first, second *Entry) bool {
			offer, err := c.Acquire(t.Context(), key, Want{Avoid: first})
			if err != nil || offer.Lease == nil {
				t.Fatal(offer, err)
			}
			stored, _, err := c.shared.end(t.Context(), offer.Lease, ending{entry: second})
			offer.Lease.Release(t.Context())
			return err == nil && stored == -1
		},
		"published without a lock": func(c *Cache, key Key, first, second *Entry) bool {
			lease := &Lease{cache: c, key: key, owner: "me", replaces: formatID(first.ID), fences: map[string]string{}}
			stored, _, err := c.shared.end(t.Context(), lease, ending{entry: second})
			return err == nil && stored == -1
		},
		"shared from memory": func(c *Cache, key Key, _, second *Entry) bool {
			c.memory.put(key, second, 0, func() bool { return true })
			_, _, err := c.LookShared(t.Context(), key)
			return err == nil && c.memory.entry(key, time.Now()) != second
		},
	}
	for there, prepare := range held {
		for how, share := range late {
			t.Run(how+" over "+there, func(t *testing.T) {
				c, another := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
				key := NewKey(t.Name())
				first, second := fetchOnce(t, c, key, nil), newEntry("second", time.Hour)
				prepare(c, key, first)
				for range 2 { // a step may be carried out twice
					if !another.Forget(t.Context(), key, &second.Hashes()[0]) {
						t.Fatal("Redis was not told")
					}
				}
				if !share(c, key, first, second) {
					t.Error("it is not said to be forgotten")
				}
				if e := get(t, newCache(t, server.URL(), nil), key); e != nil && e.ID == second.ID {
					t.Error("it is back")
				}
			})
		}
	}
}

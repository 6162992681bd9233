package cache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// newEntry makes a token that may be kept for that long.
func newEntry(token string, keepFor time.Duration) *Entry {
	body := fmt.Sprintf(`{"access_token":%q,"expires_in":%d}`, token, 100)
	end := len(body) - 1
	e := &Entry{ID: NewID(), Body: secret.Hide([]byte(body)), Sent: time.Now(), Life: 2 * keepFor, KeepFor: keepFor}
	e.AddHole(Hole{Start: end - 3, End: end, Life: 2 * keepFor})
	e.AddHash(HashOf(secret.Hide(token)))
	return e
}

// newKeys returns a keyring of these secrets; the last one is in use.
func newKeys(t testing.TB, secrets ...string) *Keyring {
	t.Helper()
	keys := &Keyring{}
	rotate(t, keys, secrets...)
	return keys
}

// newCache returns a cache of one sidecar; url is empty for memory only.
func newCache(t testing.TB, url string, change func(*Options)) *Cache {
	t.Helper()
	opts := Options{
		MemorySize: 4 << 20, Trust: time.Minute, StepLimit: 2 * time.Second, LockLife: 2 * time.Second,
		FetchLimit: time.Minute,
		Keys:       newKeys(t, "s"),
	}
	if url != "" {
		client, err := Connect(Server{URL: secret.Hide(url), Mode: "single", Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		opts.Client = client
	}
	if change != nil {
		change(&opts)
	}
	c := New(opts)
	t.Cleanup(c.Close)
	return c
}

// caches are a cache in every state of Redis.
func caches(t *testing.T) map[string]*Cache {
	server := testbed.StartRedis(t)
	return map[string]*Cache{
		"memory only": newCache(t, "", nil),
		"Redis":       newCache(t, server.URL(), nil),
		"Redis behind memory that trusts itself never": newCache(t, server.URL(), func(o *Options) { o.Trust = 1 }),
		"dead Redis": newCache(t, "redis://"+testbed.FreeAddr(t), func(o *Options) { o.StepLimit = 50 * time.Millisecond }),
	}
}

// TestCacheInEveryStateOfRedis: the cache keeps its promises, whatever Redis does.
func TestCacheInEveryStateOfRedis(t *testing.T) {
	for name, c := range caches(t) {
		t.Run(name, func(t *testing.T) {
			t.Run("behaves like a map", func(t *testing.T) { cacheIsAMap(t, c) })
			t.Run("forgets by comparison", func(t *testing.T) { cacheForgetsByHash(t, c) })
			t.Run("keeps nothing beyond its time", func(t *testing.T) { cacheExpires(t, c) })
			t.Run("takes many callers", func(t *testing.T) { cacheIsConcurrent(t, c) })
		})
	}
}

// get looks a token up.
func get(t testing.TB, c *Cache, key Key) *Entry {
	t.Helper()
	e, _ := c.Look(context.Background(), key)
	return e
}

// publish fetches e in the place of the stored token.
func publish(t testing.TB, c *Cache, key Key, e *Entry) {
	t.Helper()
	avoid := get(t, c, key)
	offer, err := c.Acquire(context.Background(), key, Want{Avoid: avoid})
	if err != nil || offer.Lease == nil {
		t.Fatalf("Acquire: %+v, %v", offer, err)
	}
	offer.Lease.Publish(context.Background(), e)
}

// cacheIsAMap compares a cache with a map, over random calls.
func cacheIsAMap(t *testing.T, c *Cache) {
	run := NewID()
	rapid.Check(t, func(rt *rapid.T) {
		want := map[string]*Entry{}
		run++
		key := func(name string) Key { return NewKey(fmt.Sprint(run), name) }
		names := rapid.SampledFrom([]string{"a", "b", "", "c"})
		rt.Repeat(map[string]func(*rapid.T){
			"publish": func(rt *rapid.T) {
				name := names.Draw(rt, "name")
				e := newEntry(rapid.StringN(1, 20, 40).Draw(rt, "token"), time.Hour)
				want[name] = e
				publish(t, c, key(name), e)
			},
			"forget": func(rt *rapid.T) {
				name := names.Draw(rt, "name")
				delete(want, name)
				c.Forget(context.Background(), key(name), nil)
			},
			"": func(rt *rapid.T) {
				for _, name := range []string{"a", "b", "", "c"} {
					e, w := get(t, c, key(name)), want[name]
					if (e == nil) != (w == nil) || w != nil && (e.ID != w.ID || string(e.Body.Reveal()) != string(w.Body.Reveal()) ||
						e.Holes()[0] != w.Holes()[0]) {
						rt.Fatalf("%q: got %v, want %v", name, e, w)
					}
				}
			},
		})
	})
}

func cacheForgetsByHash(t *testing.T, c *Cache) {
	key := NewKey("hash", fmt.Sprint(NewID()))
	first, second := newEntry("first", time.Hour), newEntry("second", time.Hour)
	publish(t, c, key, second)
	c.Forget(t.Context(), key, &first.Hashes()[0])
	if e := get(t, c, key); e == nil || e.ID != second.ID {
		t.Fatalf("forgetting the first token took the second: %v", e)
	}
	c.Forget(t.Context(), key, &second.Hashes()[0])
	if e := get(t, c, key); e != nil {
		t.Fatal("a forgotten token is still there")
	}
	third := newEntry("third", time.Hour)
	publish(t, c, key, third)
	if e := get(t, c, key); e == nil || e.ID != third.ID {
		t.Fatal("a token fetched after a forget is not kept")
	}
}

func cacheExpires(t *testing.T, c *Cache) {
	key := NewKey("expires", fmt.Sprint(NewID()))
	e := newEntry("x", time.Hour)
	e.Sent = e.Sent.Add(-time.Hour - time.Millisecond)
	publish(t, c, key, e)
	if e := get(t, c, key); e != nil {
		t.Fatal("a token beyond its time is returned")
	}
	short := newEntry("y", 200*time.Millisecond)
	publish(t, c, key, short)
	testbed.Until(t, "the token is gone", func() bool {
		asked := time.Now()
		e := get(t, c, key)
		if e != nil && asked.Sub(short.Sent) > short.KeepFor+10*time.Millisecond { // Redis keeps whole milliseconds
			t.Fatal("a token beyond its time is returned")
		}
		return e == nil
	})
}

func cacheIsConcurrent(t *testing.T, c *Cache) {
	key := NewKey("many", fmt.Sprint(NewID()))
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			e := newEntry(fmt.Sprint(i), time.Hour)
			offer, err := c.Acquire(t.Context(), key, Want{})
			switch {
			case err != nil:
				t.Error(err)
			case offer.Lease != nil:
				offer.Lease.Publish(t.Context(), e)
			case offer.Entry == nil || offer.Entry.Life != e.Life:
				t.Errorf("got %+v", offer)
			}
			c.Forget(t.Context(), key, &e.Hashes()[0])
		})
	}
	callers.Wait()
}

package cache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"

	"pgregory.net/rapid"
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

func newKeys(t testing.TB, secrets ...string) *Keyring {
	t.Helper()
	texts := make([]secret.Text, len(secrets))
	for i, s := range secrets {
		texts[i] = secret.Hide(s)
	}
	keys := &Keyring{}
	if err := keys.UseSecrets(texts...); err != nil {
		t.Fatal(err)
	}
	return keys
}

// newCache returns a cache of one sidecar; url is empty for memory only.
func newCache(t testing.TB, url string, change func(*Options)) *Cache {
	t.Helper()
	opts := Options{Entries: 1000, Trust: time.Minute, StepLimit: 2 * time.Second, LockLife: 2 * time.Second, Keys: newKeys(t, "s")}
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

// stores are all implementations. Those that share do so with every store of the same name.
func stores(t *testing.T) map[string]func(testing.TB) Store {
	server := testbed.StartRedis(t)
	return map[string]func(testing.TB) Store{
		"memory": func(_ testing.TB) Store {
			m := NewMemory(1000)
			return m
		},
		"redis":          func(t testing.TB) Store { return newCache(t, server.URL(), nil).redis },
		"both":           func(t testing.TB) Store { return newCache(t, server.URL(), nil) },
		"both, no Redis": func(t testing.TB) Store { return newCache(t, "", nil) },
		"both, dead Redis": func(t testing.TB) Store {
			return newCache(t, "redis://"+testbed.FreeAddr(t), func(o *Options) { o.StepLimit = 50 * time.Millisecond })
		},
	}
}

// TestStores holds every implementation to the contract of [Store].
func TestStores(t *testing.T) {
	for name, open := range stores(t) {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			t.Run("behaves like a map", func(t *testing.T) { storeIsAMap(t, store) })
			t.Run("forgets by comparison", func(t *testing.T) { storeForgetsByHash(t, store) })
			t.Run("keeps nothing beyond its time", func(t *testing.T) { storeExpires(t, store) })
			t.Run("takes many callers", func(t *testing.T) { storeIsConcurrent(t, store) })
		})
	}
}

func get(t testing.TB, s Store, key Key) *Entry {
	t.Helper()
	e, err := s.Get(context.Background(), key)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	return e
}

// storeIsAMap compares a store with a map, over random calls.
func storeIsAMap(t *testing.T, store Store) {
	run := NewID()
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]*Entry{}
		run++
		key := func(name string) Key { return NewKey(fmt.Sprint(run), name) }
		names := rapid.SampledFrom([]string{"a", "b", "", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				name := names.Draw(t, "name")
				e := newEntry(rapid.StringN(1, 20, 40).Draw(t, "token"), time.Hour)
				want[name] = e
				if err := store.Put(context.Background(), key(name), e); err != nil {
					t.Logf("put: %v", err)
				}
			},
			"forget": func(t *rapid.T) {
				name := names.Draw(t, "name")
				delete(want, name)
				if err := store.Forget(context.Background(), key(name), nil); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				for _, name := range []string{"a", "b", "", "c"} {
					e, err := store.Get(context.Background(), key(name))
					if err != nil {
						t.Fatal(err)
					}
					w := want[name]
					if (e == nil) != (w == nil) || w != nil && (e.ID != w.ID || string(e.Body.Reveal()) != string(w.Body.Reveal()) || e.Holes()[0] != w.Holes()[0]) {
						t.Fatalf("%q: got %v, want %v", name, e, w)
					}
				}
			},
		})
	})
}

func storeForgetsByHash(t *testing.T, store Store) {
	key := NewKey("hash", fmt.Sprint(NewID()))
	first, second := newEntry("first", time.Hour), newEntry("second", time.Hour)
	put := func(e *Entry) { _ = store.Put(t.Context(), key, e) }
	put(second)
	if err := store.Forget(t.Context(), key, &first.Hashes()[0]); err != nil {
		t.Fatal(err)
	}
	if e := get(t, store, key); e == nil || e.ID != second.ID {
		t.Fatalf("forgetting the first token took the second: %v", e)
	}
	if err := store.Forget(t.Context(), key, &second.Hashes()[0]); err != nil {
		t.Fatal(err)
	}
	if e := get(t, store, key); e != nil {
		t.Fatal("a forgotten token is still there")
	}
	put(first)
	if e := get(t, store, key); e == nil || e.ID != first.ID {
		t.Fatal("a token put after a forget is not kept")
	}
}

func storeExpires(t *testing.T, store Store) {
	key := NewKey("expires", fmt.Sprint(NewID()))
	e := newEntry("x", time.Hour)
	e.Sent = e.Sent.Add(-time.Hour - time.Millisecond)
	_ = store.Put(t.Context(), key, e)
	if e := get(t, store, key); e != nil {
		t.Fatal("a token beyond its time is returned")
	}
	short := newEntry("y", 200*time.Millisecond)
	_ = store.Put(t.Context(), key, short)
	testbed.Until(t, "the token is gone", func() bool {
		e := get(t, store, key)
		if e != nil && time.Since(short.Sent) > e.KeepFor+10*time.Millisecond && time.Since(e.Sent) > e.KeepFor {
			t.Fatal("a token beyond its time is returned")
		}
		return e == nil
	})
}

func storeIsConcurrent(t *testing.T, store Store) {
	key := NewKey("many", fmt.Sprint(NewID()))
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			e := newEntry(fmt.Sprint(i), time.Hour)
			_ = store.Put(t.Context(), key, e)
			if got, err := store.Get(t.Context(), key); err != nil || got != nil && got.Life != e.Life {
				t.Errorf("got %v, %v", got, err)
			}
			_ = store.Forget(t.Context(), key, &e.Hashes()[0])
		})
	}
	callers.Wait()
}

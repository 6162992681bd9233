package cache

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestAFrozenHolderDoesNotUndoAForget: it wakes after everything was forgotten and fetched again, and publishes.
func TestAFrozenHolderDoesNotUndoAForget(t *testing.T) {
	server := testbed.StartRedis(t)
	brief := func(o *Options) { o.LockLife = 200 * time.Millisecond }
	for name, anew := range map[string]bool{"nothing fetched since": false, "fetched anew": true} {
		t.Run(name, func(t *testing.T) {
			frozen, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
			key := NewKey(name)
			lease := acquire(t, frozen, key)
			stops(frozen)
			b.Forget(t.Context(), key, nil)
			var newer *Entry
			if anew {
				newer = fetchOnce(t, b, key, nil)
			}
			lease.over.Store(false)
			lease.voided.Store(false) // as if it had missed the message
			lease.Publish(t.Context(), newEntry("from before the forget", time.Hour))
			for _, c := range []*Cache{frozen, b, newCache(t, server.URL(), nil)} {
				if e := get(t, c, key); (e == nil) != (newer == nil) || e != nil && e.ID != newer.ID {
					t.Errorf("%v is served", e)
				}
			}
		})
	}
}

// TestForgetFencesAFetchUnderWay: a token requested before everything was forgotten is not kept.
func TestForgetFencesAFetchUnderWay(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, urls := range map[string][2]string{
		"memory only": {}, "same sidecar": {server.URL()}, "another sidecar": {server.URL(), server.URL()},
	} {
		t.Run(name, func(t *testing.T) {
			fetching := newCache(t, urls[0], nil)
			forgetting := fetching
			if urls[1] != "" {
				forgetting = newCache(t, urls[1], nil)
			}
			key := NewKey("u", name)
			lease := acquire(t, fetching, key)
			forgetting.Forget(t.Context(), key, nil)
			lease.Publish(t.Context(), newEntry("stale", time.Hour))
			if e := get(t, fetching, key); e != nil {
				t.Error("kept here")
			}
			if e := get(t, forgetting, key); e != nil {
				t.Error("kept there")
			}
			fetchOnce(t, fetching, key, nil)
			if e := get(t, fetching, key); e == nil {
				t.Error("what is fetched after is not kept")
			}
		})
	}
}

// TestStaleSightsAreNotKept: a value read from Redis before a forget does not return to memory after it, nor does one
// that Redis still holds because it could not be told.
func TestStaleSightsAreNotKept(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	untilListening(t, c) // what is confirmed before that is not trusted after it
	key := NewKey("u")
	e := fetchOnce(t, c, key, nil)
	epoch := c.Epoch(key)
	c.Forget(t.Context(), key, nil)
	c.keep(key, e, epoch, c.generation.Load())
	if c.Peek(key, time.Now()) != nil {
		t.Error("what was read before a forget is served after it")
	}

	e = fetchOnce(t, c, key, nil)
	c.memory.forget(key, nil)
	c.pending.add(key, &e.Hashes()[0])
	if get(t, c, key) != nil {
		t.Error("Redis was believed though it is yet to be told of a forget")
	}
	fetchOnce(t, c, key, nil) // the lease is free again
}

// TestLostNews: if the message about a forget is lost, the tombstone in Redis tells once memory is no longer trusted.
func TestLostNews(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	untilListening(t, c)
	key := NewKey("u")
	e := fetchOnce(t, c, key, nil)
	c.Forget(t.Context(), key, nil)
	c.memory.put(key, e, c.generation.Load(), func() bool { return true })
	if c.Peek(key, time.Now()) == nil {
		t.Fatal("the test does not test anything")
	}
	c.distrust()
	if get(t, c, key) != nil || c.Peek(key, time.Now()) != nil {
		t.Error("a token that the fleet forgot is served")
	}
}

// TestForgettingAFormerTokenLeavesTheNewOne: forgetting the previous token while a new one is published does not lose
// the new one, even without Redis.
func TestForgettingAFormerTokenLeavesTheNewOne(t *testing.T) {
	c := newCache(t, "", nil)
	key, former := NewKey("u"), newEntry("former", time.Hour)
	stop := make(chan struct{})
	var forgetting sync.WaitGroup
	forgetting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.Forget(t.Context(), key, &former.Hashes()[0])
			}
		}
	})
	for range 20_000 {
		e := fetchOnce(t, c, key, c.Peek(key, time.Now()))
		if held := c.Peek(key, time.Now()); held != e {
			t.Errorf("what was published is not there, but %v", held)
			break
		}
	}
	close(stop)
	forgetting.Wait()
}

// TestAForgottenTokenIsNotSharedAgain: a sidecar that did not hear that a token was forgotten, because it was frozen,
// does not bring it back when the one that came after it is forgotten too.
func TestAForgottenTokenIsNotSharedAgain(t *testing.T) {
	server := testbed.StartRedis(t)
	a, frozen := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	first := fetchOnce(t, frozen, key, nil)
	a.Forget(t.Context(), key, &first.Hashes()[0])
	second := fetchOnce(t, a, key, nil)
	a.Forget(t.Context(), key, &second.Hashes()[0])
	frozen.memory.put(key, first, frozen.generation.Load(), func() bool { return true })
	frozen.distrust()
	for _, c := range []*Cache{frozen, a, newCache(t, server.URL(), nil)} {
		if e := get(t, c, key); e != nil {
			t.Error("a forgotten token is served")
		}
	}
}

// TestATombstoneOutlivesWhatItForgets: where no token is known, a fetch under way in another sidecar, and what another
// one trusts its memory with.
func TestATombstoneOutlivesWhatItForgets(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, c := range map[string]struct {
		change func(*Options)
		there  time.Duration // how long a token in Redis may be kept, 0 for none
		known  bool          // to the sidecar that forgets, but not to Redis
		want   time.Duration
	}{
		"by default":              {func(*Options) {}, 0, false, briefLife},
		"fetches may take long":   {func(o *Options) { o.FetchLimit = 10 * time.Minute }, 0, false, 10 * time.Minute},
		"memory may trust long":   {func(o *Options) { o.Trust = time.Hour }, 0, false, time.Hour},
		"a token is there":        {func(*Options) {}, time.Hour, false, tombstoneLife},
		"a token lives very long": {func(*Options) {}, 48 * time.Hour, false, 48 * time.Hour},
		"Redis has lost a token":  {func(*Options) {}, time.Hour, true, tombstoneLife},
	} {
		t.Run(name, func(t *testing.T) {
			forgetting, other := newCache(t, server.URL(), c.change), newCache(t, server.URL(), nil)
			key := NewKey(name)
			if c.there > 0 {
				publish(t, other, key, newEntry("x", c.there))
			}
			if c.known {
				get(t, forgetting, key)
				server.Client().Del(t.Context(), forgetting.shared.keys.names(key)[0].text)
			}
			forgetting.Forget(t.Context(), key, nil)
			left := server.Client().PTTL(t.Context(), forgetting.shared.keys.names(key)[0].text).Val()
			if left < c.want-time.Minute || left > c.want+time.Minute {
				t.Errorf("remembered for %v, want %v", left, c.want)
			}
		})
	}
}

// TestRejectedTokensAreRemembered where Redis has none: each of them, and when they are too many, all.
func TestRejectedTokensAreRemembered(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	key := NewKey("u")
	for i := range maxMarks + 1 {
		rejected := newEntry(fmt.Sprint(i), time.Hour)
		c.Forget(t.Context(), key, &rejected.Hashes()[0])
		seen, err := c.shared.look(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for j := range i + 1 {
			if !seen.forgets(newEntry(fmt.Sprint(j), time.Hour)) {
				t.Fatalf("token %d of %d is not remembered", j, i)
			}
		}
		if other := seen.forgets(newEntry("another", time.Hour)); other != (i == maxMarks) {
			t.Errorf("after %d another one is forgotten: %v", i, other)
		}
	}
}

// TestForgetsOfOneKeyWaitTogether: none takes the place of another one while Redis cannot be told.
func TestForgetsOfOneKeyWaitTogether(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	key := NewKey("u")
	first, second := newEntry("first", time.Hour), newEntry("second", time.Hour)
	proxy.Down()
	for i, e := range []*Entry{first, second, first} {
		if c.Forget(t.Context(), key, &e.Hashes()[0]) {
			t.Error("Redis was told")
		}
		if n := c.PendingForgets(); n != min(i+1, 2) {
			t.Errorf("%d wait", n)
		}
	}
	// What was told meanwhile is not what was forgotten since.
	c.pending.remove(pendingForget{key: key, token: first.Hashes()[0], number: 1}, "")
	if n := c.PendingForgets(); n != 2 {
		t.Errorf("%d wait", n)
	}
	proxy.Up()
	testbed.Until(t, "Redis is told", func() bool { return c.PendingForgets() == 0 })
	seen, err := newCache(t, server.URL(), nil).shared.look(t.Context(), key)
	if err != nil || !seen.forgets(first) || !seen.forgets(second) {
		t.Errorf("%+v, %v", seen, err)
	}
}

// TestWhatIsFetchedAfterAForgetThatWaits is not taken along when Redis is told.
func TestWhatIsFetchedAfterAForgetThatWaits(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	key := NewKey("u")
	proxy.Down()
	c.Forget(t.Context(), key, nil)
	e := fetchOnce(t, c, key, nil)
	proxy.Up()
	testbed.Until(t, "Redis is told", func() bool { return c.PendingForgets() == 0 })
	testbed.Until(t, "the token is shared", func() bool {
		got := get(t, newCache(t, server.URL(), nil), key)
		return got != nil && got.ID == e.ID
	})
}

// TestNewsOfAForget void the fetch under way, and end what is remembered of a refusal.
func TestNewsOfAForget(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	untilListening(t, b)
	key := NewKey("u")
	lease := acquire(t, b, key)
	b.memory.refuse(key, secret.Hide([]byte("no")), time.Hour)
	a.Forget(t.Context(), key, nil)
	testbed.Until(t, "the lease is void", lease.voided.Load)
	testbed.Until(t, "the refusal is over", func() bool { _, ok := b.Refusal(key); return !ok })
	// The tombstone was evicted: only the news tell.
	server.Client().Del(t.Context(), a.shared.keys.names(key)[0].text)
	lease.Publish(t.Context(), newEntry("from before the forget", time.Hour))
	if get(t, a, key) != nil || get(t, b, key) != nil {
		t.Error("what was asked for before the forget is kept after it")
	}
}

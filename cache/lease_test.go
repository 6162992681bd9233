package cache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"token-sidecar/internal/testbed"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestOneFetchPerKey: of many who want a token at once, over several sidecars, one gets the lease and all get
// its token.
func TestOneFetchPerKey(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, fleet := range map[string][]*Cache{
		"one sidecar without Redis": {newCache(t, "", nil)},
		"one sidecar":               {newCache(t, server.URL(), nil)},
		"five sidecars": {
			newCache(t, server.URL(), nil), newCache(t, server.URL(), nil), newCache(t, server.URL(), nil),
			newCache(t, server.URL(), nil), newCache(t, server.URL(), nil),
		},
	} {
		t.Run(name, func(t *testing.T) {
			key := NewKey(name)
			var held, fetches atomic.Int32
			var tokens sync.Map
			var callers sync.WaitGroup
			for i := range 50 {
				callers.Go(func() {
					lease, e, err := fleet[i%len(fleet)].Acquire(t.Context(), key, 0)
					if err != nil {
						t.Error(err)
						return
					}
					if lease != nil {
						if held.Add(1) != 1 {
							t.Error("two leases of one key at once")
						}
						fetches.Add(1)
						e = newEntry("x", time.Hour)
						held.Add(-1)
						lease.Publish(t.Context(), e)
						lease.Release(t.Context())
					}
					tokens.Store(e.ID, true)
				})
			}
			callers.Wait()
			if n := fetches.Load(); n != 1 {
				t.Errorf("%d fetches", n)
			}
			kinds := 0
			tokens.Range(func(any, any) bool { kinds++; return true })
			if kinds != 1 {
				t.Errorf("%d different tokens", kinds)
			}
		})
	}
}

// TestPublishWakesWaiters: a waiting sidecar hears of the end of a turn, it does not poll for it; and nobody else does,
// also when something else stands in the place where waiters are kept.
func TestPublishWakesWaiters(t *testing.T) {
	server := testbed.StartRedis(t)
	long := func(o *Options) { o.LockLife = time.Hour }
	a, b := newCache(t, server.URL(), long), newCache(t, server.URL(), long)
	testbed.Until(t, "b listens", func() bool { return b.distrusted.Load() != 0 })
	b.poll = time.Hour
	everything := server.Client().PSubscribe(t.Context(), newsChannel+"*")
	if _, err := everything.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for turn := range 2 {
		key := NewKey("u", strconv.Itoa(turn))
		lease, _, err := a.Acquire(t.Context(), key, 0)
		if err != nil {
			t.Fatal(err)
		}
		if turn == 1 {
			server.Client().HSet(t.Context(), a.redis.keys.all()[0].nameOf(key)+waitSuffix, "some", "thing")
		}
		result := make(chan *Entry, 1)
		go func() {
			_, e, _ := b.Acquire(t.Context(), key, 0)
			result <- e
		}()
		testbed.Until(t, "b waits", func() bool { return testutil.ToFloat64(b.metrics.waits) > float64(turn) })
		e := newEntry("x", time.Hour)
		lease.Publish(t.Context(), e)
		if got := <-result; got == nil || got.ID != e.ID {
			t.Fatalf("b got %v", got)
		}
		fetchOnce(t, a, key, e.ID) // nobody waits for this one
	}
	_ = a.Forget(t.Context(), NewKey("the last news"), nil)
	for _, want := range []string{b.redis.ownChannel(), b.redis.ownChannel(), newsChannel} {
		if m, err := everything.ReceiveMessage(t.Context()); err != nil || m.Channel != want {
			t.Errorf("news on %v, want %s: %v", m, want, err)
		}
	}
	_ = everything.Close()
}

func TestLeaseOfTheDeadEnds(t *testing.T) {
	server := testbed.StartRedis(t)
	brief := func(o *Options) { o.LockLife = 200 * time.Millisecond }
	dead, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
	key := NewKey("u")
	lease, _, _ := dead.Acquire(t.Context(), key, 0)
	lease.stop() // its heart stops
	other, e, err := b.Acquire(t.Context(), key, 0)
	if err != nil || e != nil || other == nil {
		t.Fatalf("%v, %v, %v", other, e, err)
	}
	// Back from the dead, its token is superseded in Redis, and does no harm.
	late := newEntry("late", time.Hour)
	lease.Publish(t.Context(), late)
	if f, _ := b.redis.look(t.Context(), key); f.entry != nil {
		t.Error("a superseded token was stored")
	}
	mine := newEntry("mine", time.Hour)
	other.Publish(t.Context(), mine)
	if f, _ := b.redis.look(t.Context(), key); f.entry == nil || f.entry.ID != mine.ID {
		t.Errorf("Redis holds %v", f.entry)
	}
}

func TestHeartbeatKeepsALongTurn(t *testing.T) {
	server := testbed.StartRedis(t)
	brief := func(o *Options) { o.LockLife = 300 * time.Millisecond }
	a, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
	key := NewKey("u")
	lease, _, _ := a.Acquire(t.Context(), key, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if other, _, err := b.Acquire(ctx, key, 0); other != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lease after several lock lives: %v, %v", other, err)
	}
	lease.Release(t.Context())
	fetchOnce(t, b, key, 0)
}

func TestWaitersMayLeave(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	key := NewKey("u")
	lease, _, _ := c.Acquire(t.Context(), key, 0)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := c.Acquire(ctx, key, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	lease.Release(t.Context())
	fetchOnce(t, c, key, 0)
}

func TestAvoidedTokenStaysUntilTheNewOneIsThere(t *testing.T) {
	server := testbed.StartRedis(t)
	for _, url := range []string{"", server.URL()} {
		c := newCache(t, url, nil)
		key := NewKey("u")
		first := fetchOnce(t, c, key, 0)
		lease, e, _ := c.Acquire(t.Context(), key, first.ID)
		if e != nil {
			t.Fatal("got the token to avoid")
		}
		if get(t, c, key) != first {
			t.Error("the good token is gone before the new one came")
		}
		lease.Release(t.Context())
		if get(t, c, key) != first {
			t.Error("a failed fetch lost a good token")
		}
		second := fetchOnce(t, c, key, first.ID)
		if _, e, _ := c.Acquire(t.Context(), key, first.ID); e == nil || e.ID != second.ID {
			t.Errorf("got %v", e)
		}
	}
}

// TestForgetFencesAFetchUnderWay: what was asked for before everything was forgotten is not kept after.
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
			lease, _, _ := fetching.Acquire(t.Context(), key, 0)
			_ = forgetting.Forget(t.Context(), key, nil)
			lease.Publish(t.Context(), newEntry("stale", time.Hour))
			if e := get(t, fetching, key); e != nil {
				t.Error("kept here")
			}
			if e := get(t, forgetting, key); e != nil {
				t.Error("kept there")
			}
			fetchOnce(t, fetching, key, 0)
			if e := get(t, fetching, key); e == nil {
				t.Error("what is fetched after is not kept")
			}
		})
	}
}

// TestRedisLostWhileWaiting: losing Redis turns waiting into fetching.
func TestRedisLostWhileWaiting(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	lease, _, _ := a.Acquire(t.Context(), key, 0)
	got := make(chan error, 1)
	go func() {
		lease, e, err := b.Acquire(t.Context(), key, 0)
		if err == nil && (lease == nil || e != nil) {
			err = fmt.Errorf("got %v, %v", lease, e)
		}
		if lease != nil {
			lease.Release(context.Background())
		}
		got <- err
	}()
	testbed.Until(t, "b waits", func() bool { return testutil.ToFloat64(b.metrics.waits) > 0 })
	server.Kill()
	if err := <-got; err != nil {
		t.Error(err)
	}
	lease.Publish(t.Context(), newEntry("x", time.Hour))
	if get(t, a, key) == nil {
		t.Error("a token that could not be shared is not kept")
	}
}

func TestRenewalIsClaimedOnce(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	e := fetchOnce(t, a, key, 0)
	theirs := get(t, b, key)
	if !a.Claim(t.Context(), key, e, time.Minute) {
		t.Fatal("the first claim failed")
	}
	if b.Claim(t.Context(), key, theirs, time.Minute) {
		t.Fatal("a second sidecar claimed the same renewal")
	}
	if theirs.Claim(time.Now(), time.Second) {
		t.Error("after a failed claim it is not put off")
	}
	renewed := fetchOnce(t, a, key, e.ID)
	if !b.Claim(t.Context(), key, renewed, time.Minute) {
		t.Error("a new token cannot be claimed: the old claim outlived it")
	}
}

// TestForgetComparesAgain: a value that changed since it was looked at is not buried.
func TestForgetComparesAgain(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	key := NewKey("u")
	e := fetchOnce(t, c, key, 0)
	name := c.redis.keys.all()[0].nameOf(key)
	buried, err := forgetScript.Run(t.Context(), c.redis.client, []string{name}, "what was seen", newTombstone(nil), 1000, newsChannel, "").Int()
	if err != nil || buried != 0 {
		t.Errorf("%d, %v", buried, err)
	}
	if f, _ := c.redis.look(t.Context(), key); f.entry == nil || f.entry.ID != e.ID {
		t.Error("it was buried")
	}
}

// TestStaleSightsAreNotKept: what was read from Redis before a forget does not come back to memory after it,
// nor what Redis still holds because it could not be told.
func TestStaleSightsAreNotKept(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	key := NewKey("u")
	e := fetchOnce(t, c, key, 0)
	epoch := c.epoch(key)
	_ = c.Forget(t.Context(), key, nil)
	c.keep(key, e, epoch)
	if c.Peek(key, time.Now()) != nil {
		t.Error("what was read before a forget is served after it")
	}

	e = fetchOnce(t, c, key, 0)
	c.memory.forget(key, nil)
	c.postpone(key, &e.Hashes()[0])
	if get(t, c, key) != nil {
		t.Error("Redis was believed though it is yet to be told of a forget")
	}
}

// TestLostNews: a tombstone in Redis tells what the news failed to, once memory is not trusted any more.
func TestLostNews(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	testbed.Until(t, "it listens", func() bool { return c.distrusted.Load() != 0 })
	key := NewKey("u")
	e := fetchOnce(t, c, key, 0)
	_ = c.Forget(t.Context(), key, nil)
	c.memory.put(key, e)
	if c.Peek(key, time.Now()) == nil {
		t.Fatal("the test does not test anything")
	}
	c.distrust()
	if get(t, c, key) != nil || c.Peek(key, time.Now()) != nil {
		t.Error("a token that the fleet forgot is served")
	}
}

// TestForgettingAFormerTokenLeavesTheNewOne: that the one before is forgotten while a token is published does not lose it,
// without Redis either.
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
				_ = c.Forget(t.Context(), key, &former.Hashes()[0])
			}
		}
	})
	for range 20_000 {
		e := fetchOnce(t, c, key, c.idOf(key))
		if held := c.Peek(key, time.Now()); held != e {
			t.Errorf("what was published is not there, but %v", held)
			break
		}
	}
	close(stop)
	forgetting.Wait()
}

// idOf is the ID of what is held of key, 0 when there is nothing.
func (c *Cache) idOf(key Key) uint64 {
	if e := c.Peek(key, time.Now()); e != nil {
		return e.ID
	}
	return 0
}

// TestFetchedKeysLeaveNothingBehind: what is kept of ever new keys is bounded by the entries, on all paths.
func TestFetchedKeysLeaveNothingBehind(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), func(o *Options) { o.Entries = 100 })
	fetch := func(from, to int) {
		for i := from; i < to; i++ {
			fetchOnce(t, c, NewKey("u", strconv.Itoa(i)), 0)
		}
	}
	fetch(0, 1000) // connections, pools and buffers are there
	before := liveHeap()
	fetch(1000, 6000)
	if after := liveHeap(); after > before+512<<10 {
		t.Errorf("5000 keys left %d KiB behind", (after-before)>>10)
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

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

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/testbed"
)

// TestOneFetchPerKey: of many concurrent callers at several sidecars, one gets the lease and all get its token.
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
					offer, err := fleet[i%len(fleet)].Acquire(t.Context(), key, Want{})
					lease, e := offer.Lease, offer.Entry
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

// TestPublishWakesWaiters: a waiting sidecar is told of the end of a lease rather than polling for it. Only waiting
// sidecars are told, and a foreign value in the place of their list does no harm.
func TestPublishWakesWaiters(t *testing.T) {
	server := testbed.StartRedis(t)
	long := func(o *Options) { o.LockLife = time.Hour }
	a, b := newCache(t, server.URL(), long), newCache(t, server.URL(), long)
	untilListening(t, b)
	b.poll = time.Hour
	everything := server.Client().PSubscribe(t.Context(), newsChannel+"*")
	if _, err := everything.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	for turn := range 2 {
		key := NewKey("u", strconv.Itoa(turn))
		lease := acquire(t, a, key)
		if turn == 1 {
			server.Client().HSet(t.Context(), a.shared.keys.all()[0].nameOf(key)+waitSuffix, "some", "thing")
		}
		result := make(chan *Entry, 1)
		go func() {
			offer, _ := b.Acquire(t.Context(), key, Want{})
			result <- offer.Entry
		}()
		testbed.Until(t, "b waits", func() bool { return testutil.ToFloat64(b.metrics.waits) > float64(turn) })
		e := newEntry("x", time.Hour)
		lease.Publish(t.Context(), e)
		if got := <-result; got == nil || got.ID != e.ID {
			t.Fatalf("b got %v", got)
		}
		fetchOnce(t, a, key, e) // no sidecar waits for this one
	}
	a.Forget(t.Context(), NewKey("the last news"), nil)
	for _, want := range []string{b.shared.ownChannel(), b.shared.ownChannel(), newsChannel} {
		if m, err := everything.ReceiveMessage(t.Context()); err != nil || m.Channel != want {
			t.Errorf("news on %v, want %s: %v", m, want, err)
		}
	}
	_ = everything.Close()
}

// acquire returns the lease of key, which must be free.
func acquire(t testing.TB, c *Cache, key Key) *Lease {
	t.Helper()
	offer, err := c.Acquire(t.Context(), key, Want{})
	if err != nil || offer.Lease == nil {
		t.Fatalf("Acquire: %+v, %v", offer, err)
	}
	return offer.Lease
}

// stops ends the heartbeats of c, as if its process were dead or frozen.
func stops(c *Cache) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.leases {
		l.over.Store(true)
	}
}

func untilListening(t testing.TB, caches ...*Cache) {
	t.Helper()
	for _, c := range caches {
		testbed.Until(t, "it listens", func() bool { return c.generation.Load() > 2 }) // both channels
	}
}

func TestLeaseOfTheDeadEnds(t *testing.T) {
	server := testbed.StartRedis(t)
	brief := func(o *Options) { o.LockLife = 200 * time.Millisecond }
	dead, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
	key := NewKey("u")
	lease := acquire(t, dead, key)
	stops(dead)
	other := acquire(t, b, key)
	mine := newEntry("mine", time.Hour)
	other.Publish(t.Context(), mine)
	// The token of the revived holder is superseded, and does no harm.
	lease.over.Store(false)
	lease.Publish(t.Context(), newEntry("late", time.Hour))
	for _, c := range []*Cache{dead, b} {
		if e := get(t, c, key); e == nil || e.ID != mine.ID {
			t.Errorf("%v is served", e)
		}
	}
}

func TestHeartbeatKeepsALongTurn(t *testing.T) {
	server := testbed.StartRedis(t)
	brief := func(o *Options) { o.LockLife = 1200 * time.Millisecond }
	a, b := newCache(t, server.URL(), brief), newCache(t, server.URL(), brief)
	key := NewKey("u")
	lease := acquire(t, a, key)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if offer, err := b.Acquire(ctx, key, Want{}); offer.Lease != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lease after several lock lives: %v, %v", offer, err)
	}
	lease.Release(t.Context())
	fetchOnce(t, b, key, nil)
}

func TestWaitersMayLeave(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	key := NewKey("u")
	lease := acquire(t, c, key)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := c.Acquire(ctx, key, Want{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	lease.Release(t.Context())
	fetchOnce(t, c, key, nil)
}

func TestAvoidedTokenStaysUntilTheNewOneIsThere(t *testing.T) {
	server := testbed.StartRedis(t)
	for _, url := range []string{"", server.URL()} {
		c := newCache(t, url, nil)
		key := NewKey("u")
		first := fetchOnce(t, c, key, nil)
		offer, _ := c.Acquire(t.Context(), key, Want{Avoid: first})
		lease := offer.Lease
		if lease == nil {
			t.Fatal("got the token to avoid")
		}
		if get(t, c, key) != first {
			t.Error("the good token is gone before the new one came")
		}
		lease.Release(t.Context())
		if get(t, c, key) != first {
			t.Error("a failed fetch lost a good token")
		}
		second := fetchOnce(t, c, key, first)
		if offer, _ := c.Acquire(t.Context(), key, Want{Avoid: first}); offer.Entry == nil || offer.Entry.ID != second.ID {
			t.Errorf("got %v", offer)
		}
	}
}

// TestRedisLostWhileWaiting: if Redis is lost, waiting turns into fetching.
func TestRedisLostWhileWaiting(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	lease := acquire(t, a, key)
	got := make(chan error, 1)
	go func() {
		offer, err := b.Acquire(t.Context(), key, Want{})
		if err == nil && offer.Lease == nil {
			err = fmt.Errorf("got %v", offer)
		}
		if offer.Lease != nil {
			offer.Lease.Release(context.Background())
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
	e := fetchOnce(t, a, key, nil)
	theirs := get(t, b, key)
	if !a.Claim(t.Context(), key, e, time.Minute, time.Hour) {
		t.Fatal("the first claim failed")
	}
	if b.Claim(t.Context(), key, theirs, time.Minute, time.Hour) {
		t.Fatal("a second sidecar claimed the same renewal")
	}
	if theirs.Claim(time.Now(), time.Second) {
		t.Error("after a failed claim it is not put off")
	}
	renewed := fetchOnce(t, a, key, e)
	if !b.Claim(t.Context(), key, renewed, time.Minute, time.Hour) {
		t.Error("a new token cannot be claimed: the old claim outlived it")
	}
}

// TestFetchedKeysLeaveNothingBehind: what is kept about ever new keys is bounded by the entries, on all paths.
func TestFetchedKeysLeaveNothingBehind(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), func(o *Options) { o.MemorySize = 100 << 10 })
	fetch := func(from, to int) {
		for i := from; i < to; i++ {
			fetchOnce(t, c, NewKey("u", strconv.Itoa(i)), nil)
		}
	}
	fetch(0, 1000) // creates connections, pools and buffers
	before := liveHeap()
	fetch(1000, 6000)
	if after := liveHeap(); after > before+512<<10 {
		t.Errorf("5000 keys left %d KiB behind", (after-before)>>10)
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools are emptied by the second collection
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestTheOwnerGetsItsLockAgain: the reply to the first try may have been lost.
func TestTheOwnerGetsItsLockAgain(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	lease := acquire(t, c, NewKey("u"))
	defer lease.Release(t.Context())
	n := c.shared.keys.names(lease.key)[0]
	if g, err := c.shared.acquire(t.Context(), n, lease); err != nil || !g.got || g.fence != lease.fences[n.text] {
		t.Errorf("%+v, %v, want the fence %s", g, err, lease.fences[n.text])
	}
}

// TestAForeignLockIsNobodys: a foreign value under the name of the lock, or a lock without expiry, does not block the
// key.
func TestAForeignLockIsNobodys(t *testing.T) {
	server := testbed.StartRedis(t)
	client := server.Client()
	now := formatFence(Fence(time.Now().UnixMicro()))
	for name, put := range map[string]func(lock string) error{
		"text":             func(lock string) error { return client.Set(t.Context(), lock, "hello", 0).Err() },
		"text with an end": func(lock string) error { return client.Set(t.Context(), lock, "hello", time.Hour).Err() },
		"empty":            func(lock string) error { return client.Set(t.Context(), lock, "", time.Hour).Err() },
		"a list":           func(lock string) error { return client.LPush(t.Context(), lock, "x").Err() },
		"a lock for ever":  func(lock string) error { return client.Set(t.Context(), lock, now+"owner", 0).Err() },
		"older than fetches": func(lock string) error {
			return client.Set(t.Context(), lock, formatFence(7)+"owner", time.Hour).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, key := newCache(t, server.URL(), nil), NewKey("foreign", name)
			at := c.shared.keys.names(key)[0].text
			if err := put(at + lockSuffix); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			offer, err := c.Acquire(ctx, key, Want{})
			if err != nil || offer.Lease == nil || len(offer.Lease.fences) != 1 {
				t.Fatalf("%+v, %v", offer, err)
			}
			offer.Lease.Publish(t.Context(), newEntry("x", time.Hour))
			if e := get(t, newCache(t, server.URL(), nil), key); e == nil {
				t.Error("the token is not shared")
			}
		})
	}
}

package cache

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// losing is a cache behind a proxy that loses the reply to the first step with that script, once.
func losing(t *testing.T, server *testbed.Redis, lost *script) (*Cache, *testbed.Proxy) {
	t.Helper()
	proxy := testbed.StartRESPProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	if err := server.Client().ScriptLoad(t.Context(), lost.source).Err(); err != nil { // or that would be asked for first
		t.Fatal(err)
	}
	var done atomic.Bool
	proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if strings.EqualFold(s.Args[0], "evalsha") && s.Args[1] == lost.hash && done.CompareAndSwap(false, true) {
			return testbed.ReplyLost
		}
		return testbed.None
	})
	t.Cleanup(proxy.Down) // or the end would wait for what was lost
	return c, proxy
}

// TestALostReplyIsAskedForAgain, so that it costs nothing but time: the lease is one of the fleet, the token is shared,
// the fleet is told of a forget, and a renewal is claimed.
func TestALostReplyIsAskedForAgain(t *testing.T) {
	server := testbed.StartRedis(t)
	t.Run("acquire", func(t *testing.T) {
		c, _ := losing(t, server, acquireScript)
		lease := acquire(t, c, NewKey("acquire"))
		if len(lease.fences) != 1 {
			t.Error("the lease holds in this process alone")
		}
		lease.Release(t.Context())
	})
	t.Run("publish", func(t *testing.T) {
		c, _ := losing(t, server, endScript)
		e := fetchOnce(t, c, NewKey("publish"), nil)
		if got := get(t, newCache(t, server.URL(), nil), NewKey("publish")); got == nil || got.ID != e.ID || e.Fence == 0 {
			t.Errorf("%v is shared, fence %d", got, e.Fence)
		}
	})
	t.Run("forget", func(t *testing.T) {
		c, _ := losing(t, server, forgetScript)
		if !c.Forget(t.Context(), NewKey("forget"), nil) {
			t.Error("the fleet is not told")
		}
	})
	t.Run("claim", func(t *testing.T) {
		c, _ := losing(t, server, claimScript)
		key := NewKey("claim")
		if !c.Claim(t.Context(), key, newEntry("x", time.Hour), time.Minute, time.Hour) {
			t.Error("not claimed")
		}
		if claims, _, _ := strings.Cut(claimOf(t, c, server, key), ":"); claims != "1" {
			t.Errorf("one claim counts as %s", claims)
		}
	})
	t.Run("refresh token", func(t *testing.T) {
		c, _ := losing(t, server, refreshScript)
		c.KeepRefreshToken(t.Context(), NewKey("r"), secret.Hide("atrt-x"), time.Now())
		if len(c.refreshTokens) != 0 {
			t.Error("it waits to be written")
		}
	})
}

func claimOf(t *testing.T, c *Cache, server *testbed.Redis, key Key) string {
	t.Helper()
	claim, err := server.Client().Get(t.Context(), c.shared.keys.names(key)[0].text+renewSuffix).Result()
	if err != nil {
		t.Fatal(err)
	}
	return claim
}

// TestTheFleetBacksOffFromRenewals: each claim that brought no token keeps others off for twice as long, up to a bound.
func TestTheFleetBacksOffFromRenewals(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	key := NewKey("u")
	name := c.shared.keys.names(key)[0].text + renewSuffix
	const first, longest = 5 * time.Second, time.Minute
	for _, want := range []time.Duration{first, 2 * first, 4 * first, 8 * first, longest, longest} {
		ok, _, err := c.shared.claim(t.Context(), key, first, longest)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		refused, left, err := c.shared.claim(t.Context(), key, first, longest)
		if err != nil || refused || left > want || left < want-4*time.Second {
			t.Errorf("another one: %v, %v, kept off for %v, want %v", refused, err, left, want)
		}
		// It is over, and brought nothing.
		claims, _, _ := strings.Cut(claimOf(t, c, server, key), ":")
		server.Client().Set(t.Context(), name, claims+":1:somebody", time.Hour)
	}
	fetchOnce(t, c, key, nil)
	if ok, _, err := c.shared.claim(t.Context(), key, first, longest); err != nil || !ok {
		t.Errorf("%v, %v", ok, err)
	}
	if claims, _, _ := strings.Cut(claimOf(t, c, server, key), ":"); claims != "1" {
		t.Errorf("after a token the next claim is number %s", claims)
	}
}

// TestALostLockIsTakenAgain by the heartbeats of the one who fetches, unless somebody else has it.
func TestALostLockIsTakenAgain(t *testing.T) {
	server := testbed.StartRedis(t)
	client := server.Client()
	brief := func(o *Options) { o.LockLife = 200 * time.Millisecond }
	c := newCache(t, server.URL(), brief)
	key := NewKey("u")
	lease := acquire(t, c, key)
	name := c.shared.keys.names(key)[0].text
	lock := lease.fences[name] + lease.owner
	client.Del(t.Context(), name+lockSuffix) // evicted, or gone with a master
	testbed.Until(t, "the lock is taken again",
		func() bool { return client.Get(t.Context(), name+lockSuffix).Val() == lock })
	stops(c)
	testbed.Until(t, "the lock has ended", func() bool { return client.Exists(t.Context(), name+lockSuffix).Val() == 0 })
	other := newCache(t, server.URL(), nil)
	theirs := acquire(t, other, key)
	want := theirs.fences[name] + theirs.owner
	c.shared.extend(t.Context(), []*Lease{lease}, time.Hour)
	if got := client.Get(t.Context(), name+lockSuffix).Val(); got != want {
		t.Error("a lock that somebody else has was taken from them")
	}
	lease.over.Store(false)
	lease.Release(t.Context())
	if got := client.Get(t.Context(), name+lockSuffix).Val(); got != want {
		t.Error("a lock that somebody else has was ended")
	}
	theirs.Release(t.Context())
	if client.Exists(t.Context(), name+lockSuffix).Val() != 0 {
		t.Error("the lock outlives its lease")
	}
}

// TestWhatCouldNotBeSharedIsSharedLater without anybody asking for it.
func TestWhatCouldNotBeSharedIsSharedLater(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.StepLimit = 200 * time.Millisecond })
	proxy.Down()
	e := fetchOnce(t, c, NewKey("u"), nil)
	newest, refresh := time.Now(), NewKey("refresh", "u")
	c.KeepRefreshToken(t.Context(), refresh, secret.Hide("atrt-newest"), newest)
	c.KeepRefreshToken(t.Context(), refresh, secret.Hide("atrt-older"), newest.Add(-time.Minute))
	testbed.Until(t, "Redis is lost", c.redisGone)
	proxy.Up()
	other := newCache(t, server.URL(), nil)
	testbed.Until(t, "the token is shared", func() bool {
		got := get(t, other, NewKey("u"))
		return got != nil && got.ID == e.ID
	})
	var kept secret.Text
	testbed.Until(t, "the refresh token is kept", func() bool {
		token, ok, err := other.RefreshToken(t.Context(), refresh)
		kept = token
		return ok && err == nil
	})
	// One that was asked for before comes late.
	other.KeepRefreshToken(t.Context(), refresh, secret.Hide("atrt-older"), newest.Add(-time.Second))
	token, _, err := other.RefreshToken(t.Context(), refresh)
	if err != nil || kept.Reveal() != "atrt-newest" || token.Reveal() != "atrt-newest" {
		t.Errorf("%v: an older refresh token replaced a newer one", err)
	}
}

// TestMemoryKeepsTheNewer of two tokens, by their fences where both have one.
func TestMemoryKeepsTheNewer(t *testing.T) {
	m := newMemory(1 << 20)
	defer m.close()
	now := time.Now()
	for name, c := range map[string]struct {
		there, comes           Fence
		thereLater, comesLater time.Duration
		replaced               bool
	}{
		"a greater fence":              {1, 2, time.Second, 0, true},
		"a smaller fence":              {2, 1, 0, time.Second, false},
		"later, without fences":        {0, 0, 0, time.Second, true},
		"earlier, without fences":      {0, 0, time.Second, 0, false},
		"later, one without a fence":   {2, 0, 0, time.Second, true},
		"earlier, one without a fence": {0, 2, time.Second, 0, false},
	} {
		key := NewKey(name)
		there, comes := newEntry("there", time.Hour), newEntry("comes", time.Hour)
		there.Fence, there.Sent = c.there, now.Add(c.thereLater)
		comes.Fence, comes.Sent = c.comes, now.Add(c.comesLater)
		good := func() bool { return true }
		m.put(key, there, 1, good)
		if kept := m.put(key, comes, 1, good); (kept == comes) != c.replaced || m.entry(key, now) != kept {
			t.Errorf("%s: replaced %v", name, kept == comes)
		}
	}
}

// TestARefreshTokenThatComesWhileAnOlderOneIsWritten is written next.
func TestARefreshTokenThatComesWhileAnOlderOneIsWritten(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	key := NewKey("refresh", "u")
	older, newer := refreshToken{secret.Hide("atrt-older"), 1}, refreshToken{secret.Hide("atrt-newer"), 2}
	c.refreshTokens[key] = older
	var once sync.Once
	proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if len(s.Args) > 3 && strings.HasSuffix(s.Args[3], refreshSuffix) {
			once.Do(func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.refreshTokens[key] = newer
			})
		}
		return testbed.None
	})
	c.flush()
	testbed.Until(t, "the newer one is kept", func() bool {
		token, ok, err := c.RefreshToken(t.Context(), key)
		return ok && err == nil && token.Reveal() == "atrt-newer"
	})
}

// TestWhateverIsThereAtFirstIsNotWanted, when Redis did not say what that is; what another sidecar fetches meanwhile is.
func TestWhateverIsThereAtFirstIsNotWanted(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	first := fetchOnce(t, a, key, nil)
	offer, err := b.Acquire(t.Context(), key, Want{AvoidFirst: true, Anyway: true})
	if err != nil || offer.Lease == nil {
		t.Fatalf("%+v, %v", offer, err)
	}
	offer.Lease.Release(t.Context())
	other, err := a.Acquire(t.Context(), key, Want{Avoid: first})
	if err != nil || other.Lease == nil {
		t.Fatalf("%+v, %v", other, err)
	}
	offered := make(chan Offer)
	go func() {
		offer, _ := b.Acquire(t.Context(), key, Want{AvoidFirst: true, Anyway: true})
		offered <- offer
	}()
	testbed.Until(t, "b waits", func() bool { return testutil.ToFloat64(b.metrics.waits) > 0 })
	second := newEntry("second", time.Hour)
	other.Lease.Publish(t.Context(), second)
	if offer := <-offered; offer.Entry == nil || offer.Entry.ID != second.ID {
		t.Errorf("offered %+v", offer)
	}
}

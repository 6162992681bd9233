package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestALookThatAForgetOvertakes: it has found the token before the tombstone was written, and is answered when Redis has
// been told. The token is not kept.
func TestALookThatAForgetOvertakes(t *testing.T) {
	server := testbed.StartRedis(t)
	if err := server.Client().ScriptLoad(t.Context(), forgetScript.source).Err(); err != nil { // or it is sent once more
		t.Fatal(err)
	}
	for _, hashed := range []bool{false, true} {
		t.Run(fmt.Sprint("by hash: ", hashed), func(t *testing.T) {
			proxy := testbed.StartRESPProxy(t, server.Addr)
			c, other := newCache(t, "redis://"+proxy.Addr, nil), newCache(t, server.URL(), nil)
			untilListening(t, c, other)
			key := NewKey("u", fmt.Sprint(hashed))
			e := fetchOnce(t, other, key, nil)
			var hash *Hash
			if hashed {
				hash = &e.Hashes()[0]
			}
			name := c.shared.keys.names(key)[0].text
			asked, found, told := make(chan struct{}), make(chan struct{}), make(chan struct{})
			var first, once sync.Once
			proxy.OnStep(func(s testbed.Step) testbed.Fault {
				if s.Args[0] == "EVALSHA" && s.Args[1] == forgetScript.hash {
					first.Do(func() { close(asked) })
					<-found
				}
				return testbed.None
			})
			proxy.AfterStep(func(s testbed.Step) {
				if s.Args[0] == "GET" && slices.Contains(s.Args, name) {
					once.Do(func() {
						close(found)
						<-told
					})
				}
			})
			var began atomic.Uint64
			var all sync.WaitGroup
			all.Go(func() {
				<-asked
				began.Store(c.Epoch(key))
				_, _, _ = c.LookShared(t.Context(), key)
			})
			if !c.Forget(t.Context(), key, hash) {
				t.Error("Redis was not told")
			}
			if c.Epoch(key) == began.Load() {
				t.Error("whoever comes now shares a look that began before")
			}
			close(told)
			all.Wait()
			if got := get(t, c, key); got != nil {
				t.Error("the forgotten token is served")
			}
		})
	}
}

// TestLooksBesideAForget: however they interleave.
func TestLooksBesideAForget(t *testing.T) {
	server := testbed.StartRedis(t)
	c, other := newCache(t, server.URL(), nil), newCache(t, server.URL(), func(o *Options) { o.Trust = 1 })
	untilListening(t, c, other)
	for round := range 1000 {
		key := NewKey(fmt.Sprint(round))
		fetchOnce(t, c, key, nil)
		var all sync.WaitGroup
		for range 30 {
			all.Go(func() { _, _, _ = c.LookShared(context.Background(), key) })
		}
		all.Go(func() { c.Forget(context.Background(), key, nil) })
		all.Wait()
		if c.memory.former(key) != nil || get(t, other, key) != nil {
			t.Fatalf("round %d: the forgotten token is back", round)
		}
	}
}

// TestARefusalThatAForgetOvertakes: a refusal from before a forget, here or elsewhere, is not shared after it.
func TestARefusalThatAForgetOvertakes(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	untilListening(t, a, b)
	for name, forgets := range map[string]*Cache{"here": a, "elsewhere": b} {
		key := NewKey(name)
		lease := acquire(t, a, key)
		if !forgets.Forget(t.Context(), key, nil) {
			t.Fatal("Redis was not told")
		}
		lease.Refuse(t.Context(), secret.Hide([]byte("no")), time.Minute)
		acquire(t, b, key).Release(t.Context())
	}
}

// TestOneThingThatRedisRefuses: the others that wait are written.
func TestOneThingThatRedisRefuses(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if strings.HasPrefix(s.Args[0], "EVAL") && (s.Args[1] == forgetScript.hash || s.Args[1] == forgetScript.source) {
			return testbed.ErrNOPERM
		}
		return testbed.None
	})
	if c.Forget(t.Context(), NewKey("u"), nil) {
		t.Fatal("Redis was told")
	}
	c.mu.Lock()
	c.refreshTokens[NewKey("u")] = refreshToken{secret.Hide("token"), 1}
	c.mu.Unlock()
	testbed.Until(t, "the refresh token is written", func() bool {
		_, ok, err := c.RefreshToken(t.Context(), NewKey("u"))
		return ok && err == nil
	})
}

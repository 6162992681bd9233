package cache

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// rollout are caches with the former key alone, with a new one behind it, with the new one before it, and with the new
// one alone, as a change of keys goes.
func rollout(t *testing.T, server *testbed.Redis) (stages []*Cache) {
	t.Helper()
	former := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("f"), 32))
	next := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("n"), 32))
	for _, lines := range [][]string{{former}, {former, next}, {next, former}, {next}} {
		keys := &Keyring{}
		if err := keys.UseKeys(secret.Hide(strings.Join(lines, "\n"))); err != nil {
			t.Fatal(err)
		}
		stages = append(stages, newCache(t, server.URL(), func(o *Options) { o.Keys = keys }))
	}
	return stages
}

// TestKeysRollOut: sidecars that have a key in common exclude each other, share tokens and forget them together.
func TestKeysRollOut(t *testing.T) {
	server := testbed.StartRedis(t)
	stages := rollout(t, server)
	for i, a := range stages {
		for j, b := range stages {
			if i == j || i+j == 3 && (i == 0 || j == 0) { // they have none in common
				continue
			}
			key := NewKey("u", string(rune('0'+i)), string(rune('0'+j)))
			lease := acquire(t, a, key)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if offer, err := b.Acquire(ctx, key, Want{}); offer.Lease != nil || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("stages %d and %d hold the lease at once", i, j)
			}
			cancel()
			e := newEntry("x", time.Hour)
			lease.Publish(t.Context(), e)
			if got := get(t, b, key); got == nil || got.ID != e.ID {
				t.Errorf("stage %d does not read what stage %d published", j, i)
			}
			a.Forget(t.Context(), key, nil)
			b.distrust()
			if get(t, b, key) != nil {
				t.Errorf("stage %d does not forget what stage %d forgot", j, i)
			}
		}
	}
}

// TestLocksAreTakenInOneOrder, or two sidecars with the keys in another order would each hold one and wait for the
// other.
func TestLocksAreTakenInOneOrder(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartRESPProxy(t, server.Addr)
	var orders [2][]string
	for i := range orders {
		lines := []string{
			base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 32)),
			base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("b"), 32)),
		}
		if i == 1 {
			slices.Reverse(lines)
		}
		keys := &Keyring{}
		if err := keys.UseKeys(secret.Hide(strings.Join(lines, "\n"))); err != nil {
			t.Fatal(err)
		}
		c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.Keys = keys })
		from := len(proxy.Steps())
		acquire(t, c, NewKey("u")).Release(t.Context())
		for _, s := range proxy.Steps()[from:] {
			if len(s.Args) > 4 && strings.HasSuffix(s.Args[4], lockSuffix) && s.Args[1] == acquireScript.hash {
				orders[i] = append(orders[i], s.Args[4])
			}
		}
	}
	if len(orders[0]) != 2 || !slices.Equal(orders[0], orders[1]) {
		t.Errorf("orders %v", orders)
	}
}

// TestNoCacheUnderTwoNames: what was to be avoided, and what is older, may still stand under the other name.
func TestNoCacheUnderTwoNames(t *testing.T) {
	server := testbed.StartRedis(t)
	stages := rollout(t, server)
	key := NewKey("u")
	older := fetchOnce(t, stages[1], key, nil)
	newer := fetchOnce(t, stages[0], key, older) // under the former name alone
	avoid := get(t, newCacheLike(t, server, stages[2]), key)
	if avoid == nil || avoid.ID != newer.ID {
		t.Fatalf("%v is served", avoid)
	}
	offer, err := newCacheLike(t, server, stages[2]).Acquire(t.Context(), key, Want{Avoid: avoid, Anyway: true})
	if err != nil || offer.Lease == nil {
		t.Fatalf("offered %v, %v", offer.Entry, err)
	}
	offer.Lease.Release(t.Context())
}

// newCacheLike returns another sidecar with the keys of c.
func newCacheLike(t *testing.T, server *testbed.Redis, c *Cache) *Cache {
	return newCache(t, server.URL(), func(o *Options) { o.Keys = c.shared.keys })
}

// TestTheNewestRefreshTokenOfAllNames, whichever key is the first.
func TestTheNewestRefreshTokenOfAllNames(t *testing.T) {
	stages := rollout(t, testbed.StartRedis(t))
	now := time.Now().Add(-time.Minute)
	for what, c := range map[string]struct{ former, next time.Duration }{
		"former key newer": {2, 1}, "next key newer": {1, 2},
	} {
		key := NewKey(what)
		stages[0].KeepRefreshToken(t.Context(), key, secret.Hide(fmt.Sprint(c.former)), now.Add(c.former*time.Second))
		stages[3].KeepRefreshToken(t.Context(), key, secret.Hide(fmt.Sprint(c.next)), now.Add(c.next*time.Second))
		for i, both := range stages[1:3] {
			token, ok, err := both.RefreshToken(t.Context(), key)
			if want := fmt.Sprint(time.Duration(2)); !ok || err != nil || token.Reveal() != want {
				t.Errorf("%s, stage %d: %v, %v", what, i+1, ok, err)
			}
		}
	}
}

// TestManyNamesHaveOneDeadline: a Redis that is silent costs a look REDIS_TIMEOUT, under however many names.
func TestManyNamesHaveOneDeadline(t *testing.T) {
	const limit = 500 * time.Millisecond
	proxy := testbed.StartProxy(t, testbed.StartRedis(t).Addr)
	var lines []string
	for _, key := range []string{"a", "b", "c", "d"} {
		lines = append(lines, base64.StdEncoding.EncodeToString([]byte(strings.Repeat(key, 32))))
	}
	keys := &Keyring{}
	if err := keys.UseKeys(secret.Hide(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.Keys, o.StepLimit = keys, limit })
	proxy.BlackHole()
	began := time.Now()
	if _, err := c.shared.look(t.Context(), NewKey("u")); err == nil {
		t.Error("a silent Redis answered")
	}
	if took := time.Since(began); took > limit*7/2 { // less than one limit for each of the four
		t.Errorf("took %v", took)
	}
}

package cache

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

func TestTimeToLiveEndsAtTheMargin(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	e := newEntry("x", time.Hour)
	e.Sent = e.Sent.Add(-10 * time.Minute)
	publish(t, c, NewKey("u"), e)
	names := server.Client().Keys(t.Context(), "*").Val()
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "{probe}") })
	if len(names) != 1 {
		t.Fatalf("names: %v", names)
	}
	left := server.Client().PTTL(t.Context(), names[0]).Val()
	if left > 50*time.Minute || left < 49*time.Minute {
		t.Errorf("the value lives %v, the token can be served for 50m", left)
	}
}

func TestUnreadableValuesAreMissesThatGetReplaced(t *testing.T) {
	server := testbed.StartRedis(t)
	client := server.Client()
	key := NewKey("u")
	value := func(keys *Keyring, e *Entry, at string) string {
		sealer := keys.all()[0]
		return string(tokenKind) + formatFence(7) + formatToken(e, name{sealer, at}, time.Now())
	}
	keys := newKeys(t, "s")
	at := keys.all()[0].nameOf(key)
	good := value(keys, newEntry("x", time.Hour), at)
	edited := func(place int, with byte) string { return good[:place] + string(with) + good[place+1:] }
	other := func(place int) byte { return '0' + ('1'^good[place])&1 }
	for what, value := range map[string]string{
		"cut short":        good[:50],
		"one byte":         "T",
		"another kind":     edited(0, 'X'),
		"damaged":          edited(len(good)-1, good[len(good)-1]^1),
		"renumbered":       edited(idEnd-1, other(idEnd-1)),
		"marked":           edited(tokenMarks, other(tokenMarks)),
		"moved":            value(keys, newEntry("x", time.Hour), at+"x"),
		"of a foreign key": value(newKeys(t, "other"), newEntry("x", time.Hour), at),
		"somebody else's":  "hello",
		"a bad tombstone":  "F000000000000000x*00",
		"sealed nonsense":  good[:tokenMarks+markDigits] + string(keys.all()[0].seal([]byte("nonsense"), at+good[fenceEnd:tokenMarks+markDigits])),
	} {
		t.Run(what, func(t *testing.T) {
			c := newCache(t, server.URL(), nil)
			client.Set(t.Context(), at, value, time.Hour)
			if e := get(t, c, key); e != nil {
				t.Fatal("it was read")
			}
			if n := testutil.ToFloat64(c.metrics.unreadable); n != 1 {
				t.Errorf("unreadable values counted: %v", n)
			}
			fetchOnce(t, c, key, nil)
			if e := get(t, newCache(t, server.URL(), nil), key); e == nil {
				t.Error("it was not replaced")
			}
		})
	}
	t.Run("another type of value", func(t *testing.T) {
		client.Del(t.Context(), at)
		client.LPush(t.Context(), at, "x")
		c := newCache(t, server.URL(), nil)
		if e := get(t, c, key); e != nil {
			t.Fatal("it was read")
		}
		fetchOnce(t, c, key, nil)
		if e := get(t, newCache(t, server.URL(), nil), key); e == nil {
			t.Error("it was not replaced")
		}
	})
}

// fetchOnce acquires the lease, which must be free, and publishes a token in place of avoid.
func fetchOnce(t testing.TB, c *Cache, key Key, avoid *Entry) *Entry {
	t.Helper()
	offer, err := c.Acquire(t.Context(), key, Want{Avoid: avoid})
	if err != nil || offer.Lease == nil {
		t.Fatalf("Acquire: %+v, %v", offer, err)
	}
	e := newEntry(fmt.Sprint(NewID()), time.Hour)
	offer.Lease.Publish(t.Context(), e)
	return e
}

func TestNothingReadableLiesInRedis(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	key := NewKey("policy-number-4711")
	publish(t, c, key, newEntry("very-secret-token", time.Hour))
	client := server.Client()
	var all strings.Builder
	for _, name := range client.Keys(t.Context(), "*").Val() {
		all.WriteString(name + client.Get(t.Context(), name).Val())
	}
	for _, clear := range []string{"policy-number-4711", "very-secret-token", "access_token", string(key[:])} {
		for _, form := range []string{clear, base64.StdEncoding.EncodeToString([]byte(clear)), fmt.Sprintf("%x", clear)} {
			if strings.Contains(all.String(), form) {
				t.Errorf("Redis holds %q", form)
			}
		}
	}
}

func TestRotatedKeysStillOpen(t *testing.T) {
	server := testbed.StartRedis(t)
	old := newCache(t, server.URL(), func(o *Options) { o.Keys = newKeys(t, "old") })
	key := NewKey("u")
	e := fetchOnce(t, old, key, nil)
	rotated := newCache(t, server.URL(), func(o *Options) { o.Keys = newKeys(t, "old", "new") })
	if got := get(t, rotated, key); got == nil || got.ID != e.ID {
		t.Error("a value sealed with the former key is not read")
	}
	if got := get(t, newCache(t, server.URL(), func(o *Options) { o.Keys = newKeys(t, "new") }), key); got != nil {
		t.Error("a value was opened without its key")
	}
	rotated.Forget(t.Context(), key, nil)
	testbed.Until(t, "the sidecar with the old key forgot too", func() bool { return get(t, old, key) == nil })
}

func TestKeysFile(t *testing.T) {
	line := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for content, wrong := range map[string]bool{
		line: false, line + "\n\n " + line + "\n": false, "": true, "\n": true, "abc": true, line + "\nabc": true,
		line[:20]: true,
	} {
		if err := CheckKeys(content); (err != nil) != wrong {
			t.Errorf("%q: %v", content, err)
		}
		if err := (&Keyring{}).UseKeys(secret.Hide(content)); (err != nil) != wrong {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestAgeAcrossClocks: however wrong another process's wall clock is, a token never seems younger than it is.
func TestAgeAcrossClocks(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, 0, time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			server := testbed.StartRedis(t)
			e := newEntry("x", 3*time.Hour)
			e.Sent = e.Sent.Add(-30 * time.Minute)
			key := NewKey("u")
			publish(t, newCache(t, server.URL(), nil), key, e)
			stepped := newCache(t, server.URL(), func(o *Options) { o.Wall = func() time.Time { return time.Now().Add(step) } })
			got := get(t, stepped, key)
			if got == nil {
				t.Fatal("a good token is not read")
			}
			if age := time.Since(got.Sent); age < 30*time.Minute || age > 31*time.Minute+max(0, step) {
				t.Errorf("age %v, want 30m", age)
			}
		})
	}
}

func (c *Cache) redisUp() bool { return c.shared.up.readable() && c.shared.up.writable() }

func (c *Cache) redisGone() bool { return !c.shared.up.readable() && !c.shared.up.writable() }

func TestDeadRedisIsLeftAloneAndComesBack(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), func(o *Options) { o.StepLimit = 200 * time.Millisecond })
	key := NewKey("u")
	e := fetchOnce(t, c, key, nil)
	server.Kill()
	testbed.Until(t, "a dead Redis is not asked any more", c.redisGone)
	if _, err := c.shared.look(t.Context(), key); err != errUnavailable { //nolint:errorlint // the error itself
		t.Errorf("error %v", err)
	}
	if got := get(t, c, key); got != e {
		t.Error("a token in memory is not served while Redis is dead")
	}
	other := fetchOnce(t, c, NewKey("other"), nil)
	forgotten := NewKey("forgotten")
	if c.Forget(t.Context(), forgotten, nil) {
		t.Error("a dead Redis was told of a forget")
	}
	server.Start()
	testbed.Until(t, "Redis is used again", c.redisUp)
	testbed.Until(t, "what memory holds is shared again", func() bool {
		_, from := c.Look(t.Context(), NewKey("other"))
		seen, _ := c.shared.look(t.Context(), NewKey("other"))
		return from != None && seen.entry != nil && seen.entry.ID == other.ID
	})
	testbed.Until(t, "what was forgotten meanwhile is told", func() bool {
		seen, err := c.shared.look(t.Context(), forgotten)
		return err == nil && len(seen.tombstones) == 1 && c.State().PendingForgets == 0
	})
}

func TestForgottenDuringAnOutageStaysForgotten(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, server.Addr)
	c := newCache(t, "redis://"+proxy.Addr, nil)
	key := NewKey("u")
	fetchOnce(t, c, key, nil)
	proxy.Down()
	c.Forget(t.Context(), key, nil)
	if e := get(t, c, key); e != nil {
		t.Fatal("served after it was forgotten")
	}
	testbed.Until(t, "Redis is lost", c.redisGone)
	proxy.Up()
	testbed.Until(t, "Redis is used again", func() bool {
		if get(t, c, key) != nil {
			t.Fatal("served after it was forgotten")
		}
		return c.redisUp()
	})
	other := newCache(t, server.URL(), nil)
	testbed.Until(t, "the fleet knows", func() bool { return get(t, other, key) == nil })
}

// TestStepLimitHolds: if packets are lost, no call exceeds its step limit by much. The asserted bound is the promised
// one, not a measurement.
func TestStepLimitHolds(t *testing.T) {
	server := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, server.Addr)
	// The library's own limit is out of reach.
	client, err := Connect(Server{URL: secret.Hide("redis://" + proxy.Addr), Mode: "single", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(t, "", func(o *Options) { o.Client, o.StepLimit = client, 200*time.Millisecond })
	fetchOnce(t, c, NewKey("u"), nil)
	proxy.BlackHole()
	for i := range 6 {
		began := time.Now()
		_, _ = c.shared.look(t.Context(), NewKey(fmt.Sprint(i)))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("step %d took %v", i, took)
		}
	}
	testbed.Until(t, "a black hole does not count as up", c.redisGone)
	proxy.Heal()
	testbed.Until(t, "Redis is used again", c.redisUp)
}

func TestACallerThatLeavesSaysNothingAboutRedis(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 10 {
		_, _ = c.shared.look(gone, NewKey("u"))
	}
	if !c.redisUp() {
		t.Error("callers who left took Redis for dead")
	}
}

func TestWorksBesideALatePubSub(t *testing.T) {
	server := testbed.StartRedis(t)
	a, b := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	e := fetchOnce(t, a, key, nil)
	untilListening(t, b)
	if got, from := b.Look(t.Context(), key); got == nil || from != FromRedis {
		t.Fatalf("%v from %q", got, from)
	}
	if b.Peek(key, time.Now()) == nil {
		t.Fatal("not in memory")
	}
	a.Forget(t.Context(), key, &e.Hashes()[0])
	testbed.Until(t, "the other one forgot", func() bool { return b.Peek(key, time.Now()) == nil })
	if got := get(t, b, key); got != nil {
		t.Error("still in Redis")
	}
	second := fetchOnce(t, b, key, nil)
	a.Forget(t.Context(), key, &e.Hashes()[0])
	if got := get(t, a, key); got == nil || got.ID != second.ID {
		t.Error("a late report of the first token took the second")
	}
}

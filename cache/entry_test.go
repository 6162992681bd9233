package cache

import (
	"fmt"
	"testing"
	"time"

	"token-sidecar/internal/testbed"
)

// clocks are how far each clock has advanced: both equally, the wall clock stepped forward or backward, and the machine
// suspended, which stops the monotonic clock.
func clocks(test func(mono, wall time.Duration)) {
	for _, mono := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour} {
		for _, step := range []time.Duration{
			-48 * time.Hour, -time.Hour, -1, 0, 1, 29 * time.Minute, time.Hour, 48 * time.Hour,
		} {
			test(mono, mono+step)
		}
	}
}

// after is t, later by that much on each clock.
func after(t time.Time, mono, wall time.Duration) time.Time {
	return testbed.Stepped(t.Add(mono), wall-mono)
}

// TestAgeByTheGreaterOfBothClocks: the age, and everything decided by it, uses the clock that has advanced more.
func TestAgeByTheGreaterOfBothClocks(t *testing.T) {
	clocks(func(mono, wall time.Duration) {
		e := newEntry("x", time.Hour)
		age, now := max(mono, wall), after(e.Sent, mono, wall)
		if got := e.Age(now); got != age {
			t.Errorf("monotonic %v, wall %v: age %v", mono, wall, got)
		}
		if got := e.Usable(now); got != (age < e.KeepFor) {
			t.Errorf("monotonic %v, wall %v: usable %v", mono, wall, got)
		}
		e.Postpone(e.Sent, time.Minute)
		if got := e.Claim(now, time.Minute); got != (age >= time.Minute) {
			t.Errorf("monotonic %v, wall %v: claimed %v", mono, wall, got)
		}
	})
}

// TestTheSameTokenAgainEndsWithTheFirst: by the greater of both clocks, too.
func TestTheSameTokenAgainEndsWithTheFirst(t *testing.T) {
	clocks(func(mono, wall time.Duration) {
		first, again := newEntry("x", time.Hour), newEntry("x", time.Hour)
		again.Sent = after(first.Sent, mono, wall)
		again.EndWith(first)
		want := min(time.Hour, time.Hour-max(mono, wall))
		if again.KeepFor != want || again.Life != want+time.Hour || again.Holes()[0].Life != again.Life {
			t.Errorf("monotonic %v, wall %v: kept for %v, life %v", mono, wall, again.KeepFor, again.Life)
		}
	})
}

// TestMemoryByTheGreaterOfBothClocks: neither a clock step nor a suspended machine makes memory serve an expired token,
// or answer alone for longer than it is trusted.
func TestMemoryByTheGreaterOfBothClocks(t *testing.T) {
	server := testbed.StartRedis(t)
	alone := newCache(t, "", nil)
	shared := newCache(t, server.URL(), func(o *Options) { o.Trust = 30 * time.Minute })
	untilListening(t, shared) // what is confirmed before that is not trusted after it
	clocks(func(mono, wall time.Duration) {
		for name, c := range map[string]*Cache{"memory alone": alone, "with Redis": shared} {
			key := NewKey(fmt.Sprint(mono, wall, name))
			e := newEntry("x", time.Hour)
			publish(t, c, key, e)
			age := max(mono, wall)
			want := age < e.KeepFor
			if c == shared {
				want = want && age < c.trust-time.Second // it was confirmed a little after it was sent
			}
			if got := c.Peek(key, after(e.Sent, mono, wall)) != nil; got != want && age.Truncate(time.Second) != c.trust {
				t.Errorf("%s, monotonic %v, wall %v: answers %v", name, mono, wall, got)
			}
		}
	})
}

// TestRedisByTheGreaterOfBothClocks: a sidecar keeps a token that another one shared no longer than that one may,
// however far the other's clocks have advanced.
func TestRedisByTheGreaterOfBothClocks(t *testing.T) {
	server := testbed.StartRedis(t)
	first, second := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	clocks(func(mono, wall time.Duration) {
		e := newEntry("x", time.Hour)
		now := time.Now()
		e.Sent = testbed.Stepped(now.Add(-mono), mono-wall)
		key := NewKey(fmt.Sprint(mono, wall))
		publish(t, first, key, e)
		age := max(mono, wall)
		got := get(t, second, key)
		if (got != nil) != (age < e.KeepFor) {
			t.Fatalf("monotonic %v, wall %v: shared %v", mono, wall, got != nil)
		}
		if got != nil {
			if diff := got.Age(time.Now()) - age; diff < 0 || diff > 10*time.Second {
				t.Errorf("monotonic %v, wall %v: its age is off by %v", mono, wall, diff)
			}
		}
	})
}

package cache

import (
	"testing"
	"time"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
)

// TestRedisClockIsSetBack: what the fleet waits for ends when it should have, and not an hour later.
func TestRedisClockIsSetBack(t *testing.T) {
	c := newCache(t, testbed.StartRedis(t).URL(), nil)
	var skew time.Duration
	gate := func(scope string) *Gate {
		g := c.Gate(scope)
		g.Skew = func() time.Duration { return skew }
		return g
	}
	enter := func(g *Gate, ask GateAsk) GatePass {
		t.Helper()
		pass, err := g.Enter(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		return pass
	}
	paused, limited := gate("paused"), gate("limited")
	pause := GateAsk{Hold: "/p", TrialLimit: time.Second}
	slot := GateAsk{Hold: "/p", Interval: time.Second, Burst: 1, Patience: time.Minute}
	skew = time.Hour
	enter(paused, pause)
	if err := paused.Hold(t.Context(), "/p", 30*time.Second, 429, ""); err != nil {
		t.Fatal(err)
	}
	enter(limited, slot)
	skew = 0
	if held := enter(paused, pause).Held; held > 30*time.Second || held < 20*time.Second {
		t.Errorf("a pause of 30 s lasts %v", held)
	}
	if wait := enter(limited, slot).Wait; wait > time.Second+c.shared.fetchLimit {
		t.Errorf("a slot is %v ahead", wait)
	}
	skew = 31 * time.Second
	if pass := enter(paused, pause); pass.Held > 0 || pass.Trial == "" {
		t.Errorf("after the pause: %+v", pass)
	}
}

// TestARefreshTokenOfAClockThatIsAhead: it does not keep newer ones out.
func TestARefreshTokenOfAClockThatIsAhead(t *testing.T) {
	server := testbed.StartRedis(t)
	ahead, right := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	ahead.KeepRefreshToken(t.Context(), key, secret.Hide("old"), time.Now().Add(time.Hour))
	right.KeepRefreshToken(t.Context(), key, secret.Hide("new"), time.Now().Add(time.Millisecond))
	if got, _, err := right.RefreshToken(t.Context(), key); err != nil || got.Reveal() != "new" {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
}

// TestARefreshTokenThatIsNone: another program may have written it.
func TestARefreshTokenThatIsNone(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), nil)
	key := NewKey("u")
	for _, raw := range []string{"1", "123", "999999999999999", "9999999999999999", "x"} {
		server.Client().Set(t.Context(), c.shared.keys.names(key)[0].text+refreshSuffix, raw, 0)
		if _, ok, err := c.RefreshToken(t.Context(), key); ok || err == nil {
			t.Errorf("%q: %v, %v", raw, ok, err)
		}
	}
}

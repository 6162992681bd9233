package cache

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"token-sidecar/internal/testbed"
)

// TestForbiddenReadingIsNoUnreadableValue: a script that may not read reports that, rather than treating the value as
// foreign.
func TestForbiddenReadingIsNoUnreadableValue(t *testing.T) {
	server := testbed.StartRedis(t)
	c := newCache(t, server.URL(), func(o *Options) { o.ProbeEvery = 50 * time.Millisecond })
	fetchOnce(t, c, NewKey("before"), nil)
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "default", "-get").Err(); err != nil {
		t.Fatal(err)
	}
	testbed.Until(t, "Redis is lost", c.redisGone)
	if got := c.Redis(); got.State != RedisDown || got.Cause != "NOPERM" || got.FirstCause != "NOPERM" {
		t.Errorf("%+v", got)
	}
	if _, err := c.Acquire(t.Context(), NewKey("after"), Want{}); err != nil {
		t.Errorf("without Redis: %v", err)
	}
	if n := testutil.ToFloat64(c.metrics.unreadable); n != 0 {
		t.Errorf("%v values are said to be unreadable", n)
	}
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "default", "+get").Err(); err != nil {
		t.Fatal(err)
	}
	testbed.Until(t, "Redis is used again", c.redisUp)
	if got := c.Redis(); got.State != RedisUp || got.Cause != "" || got.FirstCause != "" {
		t.Errorf("%+v", got)
	}
}

// TestWhenRedisIsLost: after several failures in a row, over a span of time; reading and writing apart.
func TestWhenRedisIsLost(t *testing.T) {
	const limit = 250 * time.Millisecond
	fails := errors.New("no")
	type exchange struct {
		after time.Duration
		write bool
		err   error
	}
	for name, c := range map[string]struct {
		seen []exchange
		want string
	}{
		"many at once are one event": {slices.Repeat([]exchange{{0, true, fails}, {0, false, fails}}, 50), RedisUp},
		"few over a long time":       {[]exchange{{0, true, fails}, {time.Hour, true, fails}}, RedisUp},
		"several over a span":        {slices.Repeat([]exchange{{limit, true, fails}, {0, false, fails}}, 3), RedisDown},
		"all but the span": {
			append(slices.Repeat([]exchange{{limit / 2, true, fails}}, 4), exchange{limit/2 - 1, true, fails}), RedisUp,
		},
		"writes":               {slices.Repeat([]exchange{{limit, true, fails}, {0, false, nil}}, 3), RedisReadOnly},
		"reads":                {slices.Repeat([]exchange{{limit, true, nil}, {0, false, fails}}, 3), RedisWriteOnly},
		"a success in between": {slices.Repeat([]exchange{{limit, true, fails}, {limit, true, fails}, {limit, true, nil}}, 9), RedisUp},
		"back again":           {append(slices.Repeat([]exchange{{limit, true, fails}}, 9), exchange{0, true, nil}), RedisUp},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAvailability(limit, time.Second)
				for _, e := range c.seen {
					time.Sleep(e.after)
					a.record(e.write, e.err)
				}
				if got := a.describe(); got.State != c.want || (got.Cause != "") != (c.want != RedisUp) {
					t.Errorf("%+v, want %s", got, c.want)
				}
			})
		})
	}
}

// TestOurOwnQueueIsNoEvidence: what waits behind other commands until it is given up says nothing about Redis.
func TestOurOwnQueueIsNoEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judged := 0
		p := newPipeline(nil, time.Second, func(bool, error) { judged++ }, nil)
		p.running = manyLanes // all are under way
		for range 10 {
			if err := p.do(t.Context(), &command{step: "get"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
		}
		if judged != 0 {
			t.Errorf("judged %d times", judged)
		}
	})
}

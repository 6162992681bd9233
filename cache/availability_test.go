package cache

import (
	"testing"
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

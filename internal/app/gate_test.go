package app

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream"
	"token-sidecar/upstream/gatetest"
)

// TestFleetGate: the gate in Redis is a gate as upstream requires it. Time passes by skewing Redis' clock.
func TestFleetGate(t *testing.T) {
	server := testbed.StartRedis(t)
	for _, c := range gatetest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			var passed atomic.Int64
			sidecar := func() upstream.Gate {
				keys := &cache.Keyring{}
				if err := keys.UseSecret(secret.Hide("s")); err != nil {
					t.Fatal(err)
				}
				tokens := cache.New(cache.Options{
					MemorySize: 1 << 20, Client: redis.NewClient(&redis.Options{Addr: server.Addr}), Keys: keys,
					Trust: time.Minute, StepLimit: 2 * time.Second, LockLife: time.Second, FetchLimit: time.Minute,
				})
				t.Cleanup(tokens.Close)
				gate := newGate(tokens, "https://auth", t.Name())
				gate.(fleetGate).redis.Skew = func() time.Duration { return time.Duration(passed.Load()) }
				return gate
			}
			start := time.Now()
			c.Run(t, gatetest.World{
				One: sidecar(), Other: sidecar(), Unit: time.Second,
				Advance: func(d time.Duration) { passed.Add(int64(d)) },
				Elapsed: func() time.Duration { return time.Since(start) },
			})
		})
	}
}

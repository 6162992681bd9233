package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// headroom is what may be allocated between two collections of garbage, at least. By Go's default it is the size of
// what is alive: a few MiB here, which one busy app has collected dozens of times a second, for a seventh of all
// processor time.
const headroom = 8 << 20

// keepHeadroom sets the garbage collector by what is alive until ctx ends. It respects GOGC.
func keepHeadroom(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for inForce := 100; ; {
		metrics.Read(live)
		percent := int(max(100, 100*headroom/max(live[0].Value.Uint64(), 1<<20)))
		if percent*10 > inForce*11 || percent*11 < inForce*10 { // setting it stops the world for a moment
			debug.SetGCPercent(percent)
			inForce = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// headroom is what may be allocated between two collections of garbage, at least. By Go's default it is what is
	// alive: a few MiB here, which one busy app has collected dozens of times a second.
	headroom = 5 << 20
	// leastPercent is what it is of a larger heap; below Go's default, for the sake of small pods.
	leastPercent = 70
)

// keepHeadroom sets the garbage collector by what is alive, after each collection. It respects GOGC.
func keepHeadroom() {
	if os.Getenv("GOGC") != "" {
		return
	}
	adjust(100)
}

func adjust(inForce int) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := int(max(leastPercent, 100*headroom/max(live[0].Value.Uint64(), 1<<20))) //nolint:gosec // small
	if percent*10 > inForce*11 || percent*11 < inForce*10 {                            // setting it stops the world for a moment
		debug.SetGCPercent(percent)
		inForce = percent
	}
	// Nobody holds it, so it goes with the next collection.
	runtime.AddCleanup(new([16]byte), adjust, inForce)
}

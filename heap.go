package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// leastHeadroom is what may be allocated between two collections of garbage, at least. By Go's default it is what is
	// alive: a few MiB here, which one busy app has collected dozens of times a second.
	leastHeadroom = 5 << 20
	// mostHeadroom is what it grows to while collections are less than apart from each other.
	mostHeadroom = 16 << 20
	apart        = 100 * time.Millisecond
	// leastPercent is what it is of a larger heap; below Go's default, for the sake of small pods.
	leastPercent = 70
	// rest is how long after the last collection the memory that a load has taken is given back.
	rest = 2 * time.Second
)

// A headroom sets the garbage collector, after each collection, by what is alive and how busy it is.
type headroom struct {
	mu      sync.Mutex
	bytes   uint64
	percent int // in force
	last    time.Time
	resting *time.Timer
}

// keepHeadroom sets the garbage collector from now on. It respects GOGC.
func keepHeadroom() {
	if os.Getenv("GOGC") != "" {
		return
	}
	h := &headroom{bytes: leastHeadroom, percent: 100, last: time.Now()}
	h.resting = time.AfterFunc(rest, h.giveBack)
	h.resting.Stop()
	h.collected()
}

// collected is called after each collection.
func (h *headroom) collected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.bytes = nextHeadroom(h.bytes, now.Sub(h.last))
	h.last = now
	h.setLocked()
	if h.bytes > leastHeadroom {
		h.resting.Reset(rest)
	}
	// Nobody holds it, so it goes with the next collection.
	runtime.AddCleanup(new([16]byte), (*headroom).collected, h)
}

// nextHeadroom is what is allowed after a collection that came so long after the one before.
func nextHeadroom(bytes uint64, since time.Duration) uint64 {
	switch {
	case since < apart:
		return min(bytes*5/4, mostHeadroom)
	case since > 2*apart:
		return max(bytes*4/5, leastHeadroom)
	default:
		return bytes
	}
}

func (h *headroom) setLocked() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := int(max(leastPercent, 100*h.bytes/max(live[0].Value.Uint64(), 1<<20))) //nolint:gosec // small
	if percent*10 > h.percent*11 || percent*11 < h.percent*10 {                       // setting it stops the world for a moment
		debug.SetGCPercent(percent)
		h.percent = percent
	}
}

// giveBack ends the time of a load.
func (h *headroom) giveBack() {
	h.mu.Lock()
	h.bytes = leastHeadroom
	h.setLocked()
	h.mu.Unlock()
	debug.FreeOSMemory()
}

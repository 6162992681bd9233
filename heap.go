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
	// leastPercent is what it is of a larger heap; below Go's default, for the sake of small pods.
	leastPercent = 70
	// busyPercent is what may be allocated under load, of what is alive, up to busyHeadroom: more collections cost time,
	// more memory than needed the processor's caches.
	busyPercent  = 250
	busyHeadroom = 16 << 20
	// A load begins with two collections so close together. It goes on while they are closer than stillBusy, and rest
	// after the last such, the memory it took is given back.
	busy      = 100 * time.Millisecond
	stillBusy = time.Second
	rest      = 10 * time.Second
)

// A pacer sets the garbage collector, after each collection, by what is alive and how busy it is.
type pacer struct {
	mu      sync.Mutex
	busy    bool
	percent int // in force
	last    time.Time
	resting *time.Timer
}

// paceCollector sets the garbage collector from now on. It respects GOGC.
func paceCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := &pacer{percent: 100}
	p.resting = time.AfterFunc(rest, p.giveBack)
	p.resting.Stop()
	p.collected()
}

// collected is called after each collection.
func (p *pacer) collected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if isBusy(p.busy, now.Sub(p.last)) {
		p.busy = true
		p.resting.Reset(rest)
	}
	p.last = now
	p.setLocked()
	// Nobody holds it, so it goes with the next collection.
	runtime.AddCleanup(new([16]byte), (*pacer).collected, p)
}

// isBusy reports whether a collection that came so long after the one before is a sign of load.
func isBusy(already bool, since time.Duration) bool {
	return since < busy || already && since < stillBusy
}

func (p *pacer) setLocked() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := percentFor(live[0].Value.Uint64(), p.busy)
	if percent*10 > p.percent*11 || percent*11 < p.percent*10 { // setting it stops the world for a moment
		debug.SetGCPercent(percent)
		p.percent = percent
	}
}

// percentFor is what may be allocated until the next collection, of the bytes that are alive.
func percentFor(live uint64, busy bool) int {
	live = max(live, 1<<20)
	percent := max(leastPercent, 100*leastHeadroom/live)
	if busy {
		percent = max(percent, min(busyPercent, 100*busyHeadroom/live))
	}
	return int(percent) //nolint:gosec // small
}

// giveBack ends the time of a load.
func (p *pacer) giveBack() {
	p.mu.Lock()
	p.busy = false
	p.setLocked()
	p.mu.Unlock()
	debug.FreeOSMemory()
}

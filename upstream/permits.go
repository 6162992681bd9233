package upstream

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// permits bound how many attempts are in progress at once. Who waits is served in the order of coming.
type permits struct {
	left    *semaphore.Weighted
	waiting atomic.Int64
}

func newPermits(n int) *permits { return &permits{left: semaphore.NewWeighted(int64(n))} }

// take waits for a permit until startBy, or not at all for a background attempt: that one finds none while anybody
// waits. It reports whether there was one. A permit that is free is had even after startBy.
func (p *permits) take(ctx context.Context, startBy time.Time, background bool) bool {
	if p.left.TryAcquire(1) {
		return true
	}
	if background {
		return false
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	ctx, cancel := context.WithDeadline(ctx, startBy)
	defer cancel()
	return p.left.Acquire(ctx, 1) == nil
}

func (p *permits) give() { p.left.Release(1) }

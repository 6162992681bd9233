package upstream

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// permits bound how many attempts are in progress at once. Waiting attempts are served first come, first served.
type permits struct {
	left    *semaphore.Weighted
	waiting atomic.Int64
}

func newPermits(n int) *permits { return &permits{left: semaphore.NewWeighted(int64(n))} }

// take waits for a permit until startBy, and reports whether it got one. A background attempt does not wait, and gets
// no permit while other attempts wait. A free permit is taken even after startBy.
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

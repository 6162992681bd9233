package cache

import (
	"maps"
	"time"
)

// beat starts the heartbeats, which extend the locks of all leases that are held, unless they run already. c.mu is
// held.
//
// A lock is short, so that a holder that dies costs the fleet little time, and it is extended, so that a slow fetch is
// not made twice. All locks are extended in one exchange: under load, separate exchanges would wait behind everything
// else, and the locks would expire.
func (c *Cache) beat() {
	if c.beating {
		return
	}
	c.beating = true
	c.background.Go(func() {
		tick := time.NewTicker(c.lockLife / 4)
		defer tick.Stop()
		for {
			select {
			case <-c.life.Done():
				return
			case <-tick.C:
			}
			held := c.held()
			if len(held) == 0 {
				return
			}
			c.shared.extend(c.life, held, c.lockLife)
		}
	})
}

// held returns copies of the leases that have locks. Without such leases, the heartbeats end.
func (c *Cache) held() (leases []*Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.leases {
		if len(l.fences) > 0 && !l.over.Load() {
			leases = append(leases, &Lease{owner: l.owner, fences: maps.Clone(l.fences)})
		}
	}
	c.beating = len(leases) > 0
	return leases
}

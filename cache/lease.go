package cache

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lockSuffix  = ":lock"
	waitSuffix  = ":wait"
	renewSuffix = ":renew"
	// waitLife is how long it is remembered that somebody waits for a turn to end.
	waitLife = time.Minute
	// pollInterval is how often a waiting sidecar looks by itself, in case the news got lost.
	pollInterval = 500 * time.Millisecond
)

// A Lease is the right to fetch the token of one key. In this process no two are held at once; in the fleet
// neither, while Redis works. It ends by the first [Lease.Publish] or [Lease.Release], which must be called.
type Lease struct {
	cache  *Cache
	key    Key
	ended  chan struct{}
	woken  chan struct{} // by news that the turn of another sidecar has ended
	voided atomic.Bool   // everything of the key was forgotten since: what comes must not be kept
	over   atomic.Bool

	// The turn in Redis, when there is one.
	shared bool
	sealer sealKey
	owner  string
	seen   string
	stop   context.CancelFunc
	beats  sync.WaitGroup
}

// Acquire waits for the turn to fetch the token of key, and returns the lease. If meanwhile a token turns up
// whose ID is not avoid (0 avoids none), it returns that instead: always look at the entry first. The error is
// ctx's. Without Redis, and when it fails, the lease holds in this process alone.
func (c *Cache) Acquire(ctx context.Context, key Key, avoid uint64) (*Lease, *Entry, error) {
	lease, err := c.acquireLocal(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	entry, err := lease.acquireShared(ctx, avoid)
	if held := c.memory.held(key, time.Now()).entry; held != nil && held.ID != avoid && !lease.shared {
		entry = held
	}
	if entry != nil || err != nil {
		lease.end()
		return nil, entry, err
	}
	return lease, nil, nil
}

// acquireLocal waits until no other lease of key is held in this process.
func (c *Cache) acquireLocal(ctx context.Context, key Key) (*Lease, error) {
	for {
		c.mu.Lock()
		other := c.leases[key]
		if other == nil {
			lease := &Lease{cache: c, key: key, ended: make(chan struct{}), woken: make(chan struct{}, 1), stop: func() {}}
			c.leases[key] = lease
			c.mu.Unlock()
			return lease, nil
		}
		c.mu.Unlock()
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// acquireShared waits for the turn in the fleet. A token that turned up goes to memory.
func (l *Lease) acquireShared(ctx context.Context, avoid uint64) (*Entry, error) {
	c := l.cache
	if c.redis == nil {
		return nil, nil
	}
	l.sealer = c.redis.keys.all()[0]
	l.owner = strconv.FormatUint(NewID(), 36)
	name := l.sealer.nameOf(l.key)
	for {
		epoch := c.epoch(l.key)
		select { // what was heard before asking is old
		case <-l.woken:
		default:
		}
		t, err := c.redis.acquire(ctx, name, l.owner, c.lockLife, avoid)
		switch {
		case ctx.Err() != nil:
			if t.got {
				l.giveBack(ctx)
			}
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, nil //nolint:nilerr // without Redis the lease holds in this process
		case t.got:
			l.shared, l.seen = true, t.found.raw
			l.keepAlive(ctx)
			return nil, nil
		case t.found.entry != nil && c.isPending(l.key, t.found.entry):
			avoid = t.found.entry.ID
			continue
		case t.found.entry != nil && t.found.entry.ID != avoid:
			return c.keep(l.key, t.found.entry, epoch), nil
		}
		c.metrics.waits.Inc()
		if !waitFor(ctx, l.woken, min(c.poll, max(t.lockLeft, time.Millisecond))) {
			return nil, context.Cause(ctx)
		}
	}
}

// waitFor waits for woken, but about d at most. It is false when ctx ended.
func waitFor(ctx context.Context, woken <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d + rand.N(d/4+1)) //nolint:gosec // jitter
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// keepAlive extends the lock while the lease is held. The lock is short, so that a holder that dies costs the
// fleet little, and extended, so that a slow fetch is not made twice.
func (l *Lease) keepAlive(ctx context.Context) {
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.beats.Go(func() {
		tick := time.NewTicker(l.cache.lockLife / 4)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				l.cache.redis.extend(ctx, l.sealer.nameOf(l.key)+lockSuffix, l.owner, l.cache.lockLife)
			}
		}
	})
}

// Publish keeps entry, here and in Redis, unless all tokens of the key were forgotten since the turn began,
// and ends the lease. It does not fail: a token that could not be shared is still kept here.
func (l *Lease) Publish(ctx context.Context, entry *Entry) {
	if l.over.Swap(true) {
		return
	}
	defer l.end()
	if l.voided.Load() {
		l.giveBack(ctx)
		return
	}
	epoch, inRedis := l.cache.epoch(l.key), false
	if l.shared {
		l.stop()
		stored, err := l.cache.redis.publish(context.WithoutCancel(ctx), l.sealer, l.key, l.owner, l.seen, entry)
		if err == nil && stored < 0 {
			return
		}
		inRedis = err == nil
	}
	if inRedis {
		l.cache.keep(l.key, entry, epoch)
	} else {
		// Nobody else can have seen it and had it forgotten, and memory is the only place it has: a former token that
		// is forgotten at this moment must not take it along.
		l.cache.memory.put(l.key, entry)
	}
	if l.voided.Load() {
		l.cache.memory.forget(l.key, nil)
	}
}

// Release ends the lease without a token. After Publish it does nothing, so it can be deferred.
func (l *Lease) Release(ctx context.Context) {
	if l.over.Swap(true) {
		return
	}
	defer l.end()
	l.giveBack(ctx)
}

// giveBack ends the turn in Redis under a context that outlives the caller's.
func (l *Lease) giveBack(ctx context.Context) {
	l.stop()
	if l.owner != "" && l.cache.redis != nil {
		_, _ = l.cache.redis.publish(context.WithoutCancel(ctx), l.sealer, l.key, l.owner, l.seen, nil)
	}
}

func (l *Lease) end() {
	l.stop()
	l.beats.Wait()
	l.cache.mu.Lock()
	delete(l.cache.leases, l.key)
	l.cache.mu.Unlock()
	close(l.ended)
}

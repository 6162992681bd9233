package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// pollInterval is how often a waiting sidecar checks without being woken, in case the message was lost.
const pollInterval = 500 * time.Millisecond

// A Lease is the right to fetch the token of one key. In one process no two leases of a key are held at once, nor in
// the fleet while Redis works. A lease ends with the first of [Lease.Publish], [Lease.Refuse] and [Lease.Release], one
// of which must be called.
//
// In the fleet a lease is a lock in Redis, extended by heartbeats. A holder that was frozen may have lost it without
// knowing. Each lease therefore has a fence, and Redis accepts no token with a fence smaller than that of what it
// holds.
type Lease struct {
	cache  *Cache
	key    Key
	ended  chan struct{}
	woken  chan struct{} // by the message that another sidecar's lease has ended
	voided atomic.Bool   // everything of the key was forgotten meanwhile: the result must not be kept
	over   atomic.Bool

	want    Want
	avoided []*Entry // tokens that must not be returned
	waited  bool     // for another sidecar's lease
	told    bool     // Redis has said which token it holds
	after   Fence    // of the newest tombstone that was seen before the fetch
	owner   string
	// replaces is the ID of the token that the new one replaces, empty for none.
	replaces string
	// fences are those of the locks in Redis, by name; empty if Redis did not grant the lock or its reply was lost.
	fences map[string]string
}

// A Want says which tokens [Cache.Acquire] may return. The zero Want accepts any.
type Want struct {
	// Avoid must not be returned.
	Avoid *Entry
	// AvoidFirst is for when Redis could not say which token to avoid: the first one that it returns is avoided.
	AvoidFirst bool
	// Anyway ignores cached refusals.
	Anyway bool
}

// An Offer is the result of [Cache.Acquire]: a lease, or what makes it unnecessary.
type Offer struct {
	Lease *Lease
	// Entry is a token that was stored meanwhile.
	Entry *Entry
	// Refusal is what another sidecar was answered.
	Refusal *Refusal
}

// Acquire waits for the right to fetch the token of key. If another fetch ends first with a token that want accepts, or
// with a refusal, that is returned instead. The error is ctx's. Without Redis, or when Redis fails, the lease is held
// in this process only.
func (c *Cache) Acquire(ctx context.Context, key Key, want Want) (Offer, error) {
	lease, waited, err := c.acquireLocal(ctx, key)
	if err != nil {
		return Offer{}, err
	}
	lease.want = want
	lease.avoid(want.Avoid)
	if waited { // what came of the other lease is here already
		if held := c.Peek(key, time.Now()); held != nil && lease.wants(held) {
			lease.end()
			return Offer{Entry: held}, nil
		}
	}
	offer, err := lease.acquireShared(ctx)
	if err == nil && offer.Lease != nil && len(lease.fences) == 0 {
		if held := c.memory.entry(key, time.Now()); held != nil && lease.wants(held) {
			offer = Offer{Entry: held}
		}
	}
	if offer.Lease == nil {
		lease.end()
	}
	return offer, err
}

// acquireLocal waits until no other lease of key is held in this process, and tells whether it had to.
func (c *Cache) acquireLocal(ctx context.Context, key Key) (lease *Lease, waited bool, err error) {
	for {
		c.mu.Lock()
		other := c.leases[key]
		if other == nil {
			lease = &Lease{
				cache: c, key: key, ended: make(chan struct{}), woken: make(chan struct{}, 1),
				owner: strconv.FormatUint(NewID(), 36), fences: map[string]string{},
			}
			c.leases[key] = lease
			c.mu.Unlock()
			return lease, waited, nil
		}
		c.mu.Unlock()
		waited = true
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, waited, context.Cause(ctx)
		}
	}
}

// acquireShared waits for the lock in Redis under every name of the key. Sidecars that do not have the new keys yet use
// one of these names too. All sidecars take them in the same order.
func (l *Lease) acquireShared(ctx context.Context) (Offer, error) {
	c := l.cache
	mine := Offer{Lease: l}
	if c.shared == nil {
		return mine, nil
	}
	names := c.shared.keys.names(l.key)
	slices.SortFunc(names, func(a, b name) int { return strings.Compare(a.text, b.text) })
	for i := 0; i < len(names); {
		offer, got, err := l.try(ctx, names[i])
		switch {
		case ctx.Err() != nil:
			l.giveBack(ctx)
			return Offer{}, context.Cause(ctx)
		case err != nil:
			l.lookBack(ctx, err)
			return mine, nil // without Redis the lease is held in this process only
		case got:
			i++
		case offer.Entry != nil || offer.Refusal != nil:
			l.giveBack(ctx)
			return offer, nil
		}
	}
	return mine, nil
}

// lookBack sees what was forgotten before the fetch, when Redis refused to grant the lock but can be read. Without an
// answer, which a look would not get either, everything that was forgotten counts as forgotten since.
func (l *Lease) lookBack(ctx context.Context, refused error) {
	if !isReply(refused) && !errors.Is(refused, errUnavailable) {
		return
	}
	if seen, err := l.cache.shared.look(ctx, l.key); err == nil {
		l.after = max(l.after, seen.newest())
	}
}

// avoid makes e unacceptable; it stays in Redis until the new token replaces it.
func (l *Lease) avoid(e *Entry) {
	if e != nil {
		l.avoided = append(l.avoided, e)
		l.replaces = formatID(e.ID)
	}
}

// wants reports whether e is acceptable: neither a token to avoid nor an older one, which may remain under another
// name.
func (l *Lease) wants(e *Entry) bool {
	return !l.cache.pending.forgets(l.key, e) &&
		!slices.ContainsFunc(l.avoided, func(a *Entry) bool { return a.ID == e.ID || !e.newerThan(a) })
}

// try asks for the lock of one name. If another sidecar has it, try waits until it is worth asking again.
func (l *Lease) try(ctx context.Context, n name) (offer Offer, got bool, err error) {
	c := l.cache
	epoch, generation := c.Epoch(l.key), c.generation.Load()
	select { // what was heard before asking is old
	case <-l.woken:
	default:
	}
	g, err := c.shared.acquire(ctx, n, l)
	l.told = l.told || err == nil
	if found := g.seen.entry; err == nil && !g.got && found != nil && (l.want.AvoidFirst && !l.waited || !l.wants(found)) {
		// It is to be avoided, or is forgotten and Redis has not been told yet.
		l.avoid(found)
		g, err = c.shared.acquire(ctx, n, l)
	}
	switch found := g.seen.entry; {
	case err != nil:
		return offer, false, err
	case g.got:
		l.after = max(l.after, g.seen.newest())
		l.hold(n.text, g.fence)
		return offer, true, nil
	case g.refusal != nil:
		c.memory.refuse(l.key, *g.refusal, g.left)
		return Offer{Refusal: g.refusal}, false, nil
	case found != nil && l.wants(found):
		return Offer{Entry: c.keep(l.key, found, epoch, generation)}, false, nil
	}
	c.metrics.waits.Inc()
	l.waited = true
	waitFor(ctx, l.woken, min(c.poll, max(g.lockLeft, 10*time.Millisecond)))
	return offer, false, nil
}

// waitFor waits for woken or the end of ctx, but no longer than about d.
func waitFor(ctx context.Context, woken <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d + rand.N(d/4+1)) //nolint:gosec // jitter
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hold notes a lock, which heartbeats extend from here on.
func (l *Lease) hold(name, fence string) {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	l.fences[name] = fence
	l.cache.beat()
}

// Meanwhile returns a token that is wanted and that another sidecar stored although this lease was held. That happens
// while this process is frozen: its own fetch has failed then, and need not concern its callers.
func (l *Lease) Meanwhile(ctx context.Context) *Entry {
	if l.want.AvoidFirst && !l.told {
		return nil // it may be the one to avoid
	}
	e, _, err := l.cache.LookShared(context.WithoutCancel(ctx), l.key)
	if err != nil || e == nil || !l.wants(e) {
		return nil
	}
	return e
}

// Publish stores entry here and in Redis, and ends the lease. It stores nothing if all tokens of the key were forgotten
// since the lease began, or if there is a newer token. It does not fail: a token that Redis could not take is still
// kept here, and written when memory next checks with Redis.
func (l *Lease) Publish(ctx context.Context, entry *Entry) {
	if l.over.Swap(true) {
		return
	}
	defer l.end()
	c := l.cache
	c.memory.permit(l.key)
	entry.after = l.after
	epoch, generation := c.Epoch(l.key), uint64(0)
	if l.voided.Load() {
		l.giveBack(ctx)
		return
	}
	if c.shared != nil {
		generation = c.generation.Load()
		stored, fence, err := c.shared.end(context.WithoutCancel(ctx), l, ending{entry: entry})
		switch {
		case err != nil:
			generation = 0 // to be confirmed as soon as Redis can be asked
		case stored == 0 && l.want.AvoidFirst && !l.told:
			// Redis never said which token there was to replace; the next look tells which is newer.
			generation = 0
		case stored < 1:
			return // a newer token is there, or this one was forgotten
		default:
			entry.Fence = fence
		}
	}
	if generation != 0 {
		c.keep(l.key, entry, epoch, generation)
	} else {
		// Nobody else can have seen it and had it forgotten, and memory is the only place it has: a former token that
		// is forgotten at this moment must not take it along.
		c.memory.put(l.key, entry, 0, func() bool { return !l.voided.Load() })
		if c.shared != nil {
			c.shareLater(l.key)
		}
	}
}

// Refuse ends the lease with a refusal, which the fleet shares for ttl, unless there is still a good token.
func (l *Lease) Refuse(ctx context.Context, why Refusal, ttl time.Duration) {
	if l.over.Swap(true) {
		return
	}
	defer l.end()
	if l.voided.Load() {
		l.giveBack(ctx)
		return
	}
	if l.replaces == "" {
		l.cache.memory.refuse(l.key, why, ttl)
	}
	if l.cache.shared != nil {
		_, _, _ = l.cache.shared.end(context.WithoutCancel(ctx), l, ending{refusal: &why, ttl: ttl})
	}
}

// Release ends the lease without a token. After Publish or Refuse it does nothing, so it can be deferred.
func (l *Lease) Release(ctx context.Context) {
	if l.over.Swap(true) {
		return
	}
	defer l.end()
	l.giveBack(ctx)
}

// giveBack ends the lease in Redis, under a context that outlives the caller's.
func (l *Lease) giveBack(ctx context.Context) {
	if l.cache.shared != nil {
		_, _, _ = l.cache.shared.end(context.WithoutCancel(ctx), l, ending{})
	}
}

func (l *Lease) end() {
	l.cache.mu.Lock()
	delete(l.cache.leases, l.key)
	l.cache.mu.Unlock()
	close(l.ended)
}

// Package cache keeps tokens: in memory, in Redis, and in both together.
//
// It promises: what [Cache.Peek] and [Cache.Look] return was published under that very key, has not been forgotten, and
// is before its margin by every clock, so that neither a clock step nor a late answer yields an expired token; an older
// token never replaces a newer one. Redis holds sealed values under names that reveal nothing. Redis may fail at any
// time; that costs speed, never an answer. While Redis works, at most one sidecar of the fleet holds the [Lease] of a
// key, and all sidecars observe the same pauses and rate limit ([Gate]).
package cache

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// A Source says where an entry came from.
type Source string

// The sources of entries.
const (
	None       Source = ""
	FromMemory Source = "memory"
	FromRedis  Source = "redis"
)

// Options configure a [Cache]. MemorySize is required. With a Client, so are Keys, Trust, StepLimit, LockLife and
// FetchLimit.
type Options struct {
	// MemorySize bounds the memory cache, in bytes, cached refusals included.
	MemorySize int64
	// Client is Redis, nil for memory only. The Cache closes it.
	Client redis.UniversalClient
	// Keys seal what is stored in Redis.
	Keys *Keyring
	// Trust is how long memory answers without asking Redis.
	Trust time.Duration
	// StepLimit bounds each step in Redis, including its retry.
	StepLimit time.Duration
	// LockLife is how long a sidecar that dies during a fetch holds up the others.
	LockLife time.Duration
	// FetchLimit is the longest that a fetch may take; no sidecar waits longer for another one's fetch.
	FetchLimit time.Duration
	// ProbeEvery is roughly how often a Redis without traffic is probed. Default 5 s.
	ProbeEvery time.Duration
	// Wall is the wall clock. Default [time.Now].
	Wall func() time.Time
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// A Cache is memory in front of Redis; see the promises of the package.
type Cache struct {
	memory   *memory
	shared   *shared // nil: memory only
	trust    time.Duration
	lockLife time.Duration
	poll     time.Duration // how often a waiting lease looks by itself
	brief    time.Duration // how long at least it is remembered that a token was forgotten
	// generation changes when news may have been lost: what was confirmed before is asked of Redis again.
	generation atomic.Uint64
	// epochs count forgets; each counter covers the keys that share a first byte. One is odd while something is dropped
	// from memory, one drop at a time.
	epochs   [256]atomic.Uint64
	dropping sync.Mutex
	pending  *pendingForgets
	metrics  *metrics
	log      *slog.Logger

	life       context.Context //nolint:containedctx // of the background work, ended by Close
	stop       context.CancelFunc
	background sync.WaitGroup

	mu            sync.Mutex
	leases        map[Key]*Lease
	beating       bool                 // whether the heartbeats run
	flushing      bool                 // whether flush runs
	unshared      map[Key]bool         // keys whose token Redis has not taken yet
	refreshTokens map[Key]refreshToken // refresh tokens that Redis has not taken yet
}

// New returns a cache. It does not wait for Redis.
func New(opts Options) *Cache {
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.ProbeEvery == 0 {
		opts.ProbeEvery = idleInterval
	}
	c := &Cache{
		memory: newMemory(opts.MemorySize), trust: opts.Trust, lockLife: opts.LockLife, poll: pollInterval, log: opts.Log,
		brief:  max(briefLife, opts.FetchLimit, opts.Trust),
		leases: map[Key]*Lease{}, refreshTokens: map[Key]refreshToken{}, unshared: map[Key]bool{},
	}
	c.generation.Store(1)
	c.life, c.stop = context.WithCancel(context.Background())
	c.metrics = newMetrics(opts.Registerer, c, opts.Client != nil)
	c.pending = newPendingForgets(opts.Log, c.metrics.lostForgets.Inc)
	if opts.Client == nil {
		return c
	}
	c.shared = newShared(opts, c.metrics)
	c.background.Go(func() { c.shared.up.run(c.life) })
	c.background.Go(func() { c.shared.listen(c.life, c.hear, c.distrust) })
	c.background.Go(func() { c.shared.listenSharded(c.life, c.hear) })
	return c
}

// Close ends the cache's goroutines and its connections.
func (c *Cache) Close() {
	c.stop()
	c.background.Wait() // it uses Redis, so it must end first
	if c.shared != nil {
		c.shared.pipeline.close()
		_ = c.shared.client.Close()
	}
	c.memory.close()
}

// Peek returns the entry that memory may serve at now without asking Redis. It never blocks.
func (c *Cache) Peek(key Key, now time.Time) *Entry {
	e := c.memory.entry(key, now)
	if e == nil || !c.trusted(e, now) {
		return nil
	}
	return e
}

func (c *Cache) trusted(e *Entry, now time.Time) bool {
	return c.shared == nil || !c.shared.up.readable() ||
		e.notes.confirmed(now) < c.trust && e.notes.generation.Load() == c.generation.Load()
}

// Look returns the token of key and its source. It asks Redis when memory may not answer alone.
func (c *Cache) Look(ctx context.Context, key Key) (*Entry, Source) {
	if entry := c.Peek(key, time.Now()); entry != nil {
		return entry, FromMemory
	}
	entry, from, _ := c.LookShared(ctx, key)
	return entry, from
}

// LookShared asks Redis first, and then makes memory and Redis agree: the newer of their tokens stays in both. An error
// means that Redis could not be read or written; the returned entry is then the one from memory, and still good.
func (c *Cache) LookShared(ctx context.Context, key Key) (*Entry, Source, error) {
	mine := c.memory.entry(key, time.Now())
	if c.shared == nil {
		return named(mine, FromMemory, nil)
	}
	epoch, generation := c.Epoch(key), c.generation.Load()
	seen, err := c.shared.look(ctx, key)
	if err != nil {
		return named(mine, FromMemory, err)
	}
	theirs := seen.entry
	if theirs != nil && c.pending.forgets(key, theirs) {
		theirs = nil
	}
	if mine != nil && seen.forgets(mine) {
		c.memory.forget(key, nil)
		mine = nil
	}
	if mine != nil && (theirs == nil || mine.ID != theirs.ID && mine.newerThan(theirs)) {
		// Redis lost the token, or never received it. It is still good.
		forgotten, err := c.shared.seed(ctx, key, mine, seen.fence)
		if !forgotten {
			return named(c.keep(key, mine, epoch, generation), FromMemory, err)
		}
		c.memory.forget(key, nil)
	}
	if theirs == nil {
		return nil, None, nil
	}
	return named(c.keep(key, theirs, epoch, generation), FromRedis, nil)
}

func named(entry *Entry, from Source, err error) (*Entry, Source, error) {
	if entry == nil {
		return nil, None, err
	}
	return entry, from, err
}

// Former returns the last known token of key, even shortly after the end of its life: the auth service may answer with
// it again.
func (c *Cache) Former(key Key) *Entry { return c.memory.former(key) }

// Refusal returns the cached refusal of key, if there is one.
func (c *Cache) Refusal(key Key) (Refusal, bool) { return c.memory.refusal(key) }

// Epoch changes whenever a token of key is forgotten, here or in the fleet: what began in an earlier one may yield that
// token still, so whoever comes later must not share it.
func (c *Cache) Epoch(key Key) uint64 { return c.epochs[key[0]].Load() }

// keep puts entry in memory, unless something was forgotten since epoch, which was read before Redis was asked: what
// Redis told may be older than that. It returns what memory holds then: when that is the same token already, that
// object stays, with the marks of its renewal, and is trusted anew.
func (c *Cache) keep(key Key, entry *Entry, epoch, generation uint64) *Entry {
	return c.memory.put(key, entry, generation, func() bool { return epoch%2 == 0 && c.Epoch(key) == epoch })
}

// distrust makes what memory holds be asked of Redis again. News may have been lost, and so may Redis itself have what
// it was told, being another one now, or having started with an older copy of its data.
func (c *Cache) distrust() {
	c.generation.Add(1)
	if c.pending.again() {
		c.flush()
	}
}

// Claim reports whether this sidecar may try to renew entry at now. If so, no other sidecar tries for the time first,
// which doubles after each try without a new token, up to longest. If not, the renewal of entry is postponed.
func (c *Cache) Claim(ctx context.Context, key Key, entry *Entry, first, longest time.Duration) bool {
	if c.shared == nil {
		return true
	}
	ok, left, err := c.shared.claim(ctx, key, first, longest)
	if err == nil && !ok {
		entry.Postpone(time.Now(), max(left, 100*time.Millisecond))
	}
	return err != nil || ok
}

// hear handles a message from another sidecar.
func (c *Cache) hear(n news) {
	switch n.kind {
	case newsForget:
		c.metrics.forgets.Inc()
		c.drop(n.key, n.hash)
		c.memory.permit(n.key)
	case newsWake:
		c.mu.Lock()
		if lease := c.leases[n.key]; lease != nil {
			select {
			case lease.woken <- struct{}{}:
			default: // a wake-up is pending already
			}
		}
		c.mu.Unlock()
	}
}

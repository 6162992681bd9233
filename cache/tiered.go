package cache

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
	"token-sidecar/internal/secret"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// A Source tells where an entry came from.
type Source string

// The sources of entries.
const (
	None       Source = ""
	FromMemory Source = "memory"
	FromRedis  Source = "redis"
)

// maxPending bounds how many forgets wait for Redis to come back.
const maxPending = 10_000

// Options configure a [Cache]. Entries is required; Redis too when Client is set.
type Options struct {
	// Entries bounds the memory.
	Entries int
	// Client is Redis, nil for memory only. The Cache closes it.
	Client redis.UniversalClient
	// Keys seal what goes to Redis.
	Keys *Keyring
	// Trust is how long memory answers without asking Redis.
	Trust time.Duration
	// StepLimit bounds each exchange with Redis.
	StepLimit time.Duration
	// LockLife is how long the death of a sidecar that fetches holds up the others.
	LockLife time.Duration
	// Wall is the wall clock. Default [time.Now].
	Wall func() time.Time
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// Cache is memory in front of Redis, and a [Store] like both. See the package's promises.
type Cache struct {
	memory   *Memory
	redis    *Redis // nil: memory only
	trust    time.Duration
	lockLife time.Duration
	poll     time.Duration // how often a waiting lease looks by itself
	// distrusted is when, after the memory's start, news may last have been lost: what was confirmed before is asked of
	// Redis again.
	distrusted atomic.Int64
	metrics    *metrics
	log        *slog.Logger
	stop       context.CancelFunc
	listener   sync.WaitGroup

	mu      sync.Mutex
	leases  map[Key]*Lease
	unkept  map[Key]secret.Text // refresh tokens that Redis is yet to be given
	pending map[Key]*Hash       // forgotten while Redis was down, to be told when it is back

	isAnyPending atomic.Bool

	// epochs count forgets, each for the keys of one first byte.
	epochs [256]atomic.Uint64
}

// New returns a cache. It does not wait for Redis.
func New(opts Options) *Cache {
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		memory: NewMemory(opts.Entries), trust: opts.Trust, lockLife: opts.LockLife, poll: pollInterval,
		log: opts.Log, stop: func() {},
		leases: map[Key]*Lease{}, pending: map[Key]*Hash{}, unkept: map[Key]secret.Text{},
	}
	c.metrics = newMetrics(opts.Registerer, c, opts.Client != nil)
	if opts.Client == nil {
		return c
	}
	c.redis = newRedis(opts, c.metrics)
	c.redis.health.onUp = c.redisIsBack
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.listener.Go(func() { c.redis.listen(ctx, c.hear, c.distrust) })
	return c
}

// Close ends the cache's goroutines and its connections.
func (c *Cache) Close() {
	c.stop()
	if c.redis != nil {
		c.redis.health.close()
		c.redis.reads.workers.Wait()
		_ = c.redis.client.Close()
	}
	c.listener.Wait()
}

func (c *Cache) redisUp() bool { return c.redis != nil && !c.redis.health.isDown() }

// Peek returns what memory holds and may answer at now without asking Redis. It never blocks.
func (c *Cache) Peek(key Key, now time.Time) *Entry {
	h := c.memory.held(key, now)
	if h.entry == nil || !c.trusted(h, now) {
		return nil
	}
	return h.entry
}

func (c *Cache) trusted(h held, now time.Time) bool {
	if !c.redisUp() {
		return true
	}
	return now.Sub(c.memory.start)-h.at < c.trust && int64(h.at) >= c.distrusted.Load()
}

// Get implements [Store].
func (c *Cache) Get(ctx context.Context, key Key) (*Entry, error) {
	entry, _ := c.Look(ctx, key)
	return entry, nil
}

// Look is Get that also tells the source. It asks Redis where memory may not answer alone.
func (c *Cache) Look(ctx context.Context, key Key) (*Entry, Source) {
	if entry := c.Peek(key, time.Now()); entry != nil {
		return entry, FromMemory
	}
	return c.LookShared(ctx, key)
}

// LookShared asks Redis first. When Redis cannot be asked, or knows nothing of the key, memory counts.
func (c *Cache) LookShared(ctx context.Context, key Key) (*Entry, Source) {
	h := c.memory.held(key, time.Now())
	if c.redis == nil {
		return source(h.entry, FromMemory)
	}
	epoch := c.epoch(key)
	f, err := c.redis.look(ctx, key)
	if err != nil {
		return source(h.entry, FromMemory)
	}
	if f.entry != nil && !c.isPending(key, f.entry) {
		return source(c.keep(key, f.entry, epoch), FromRedis)
	}
	if h.entry == nil {
		return nil, None
	}
	if _, forgotten := buries(f.raw, h.entry); forgotten {
		c.memory.forget(key, nil)
		return nil, None
	}
	// Redis lost it, or never had it: it is still good.
	_ = c.redis.seed(ctx, key, h.entry)
	c.memory.confirm(key, h.entry)
	return h.entry, FromMemory
}

func source(entry *Entry, from Source) (*Entry, Source) {
	if entry == nil {
		return nil, None
	}
	return entry, from
}

// epoch is to be read before Redis is asked for what keep then keeps.
func (c *Cache) epoch(key Key) uint64 { return c.epochs[key[0]].Load() }

// keep puts entry in memory, unless something was forgotten since epoch: what Redis told may be older than
// that. When memory holds the same token already, that object stays, with the marks of its renewal, and is
// trusted anew.
func (c *Cache) keep(key Key, entry *Entry, epoch uint64) *Entry {
	if h := c.memory.held(key, time.Now()); h.entry != nil && h.entry.ID == entry.ID {
		c.memory.confirm(key, h.entry)
		entry = h.entry
	} else {
		c.memory.put(key, entry)
	}
	if c.epoch(key) != epoch {
		c.memory.forget(key, nil)
	}
	return entry
}

// drop forgets in memory. The epoch comes first, so that of a concurrent keep either is undone by the other.
func (c *Cache) drop(key Key, hash *Hash) {
	c.epochs[key[0]].Add(1)
	c.memory.forget(key, hash)
}

// Put implements [Store].
func (c *Cache) Put(ctx context.Context, key Key, entry *Entry) error {
	c.memory.put(key, entry)
	if c.redis != nil {
		return c.redis.Put(ctx, key, entry)
	}
	return nil
}

// Forget implements [Store], in the whole fleet. When Redis cannot be asked, it is told as soon as it is back.
// A fetch that is under way is not kept, unless hash is given.
func (c *Cache) Forget(ctx context.Context, key Key, hash *Hash) error {
	if hash == nil {
		c.mu.Lock()
		if lease := c.leases[key]; lease != nil {
			lease.voided.Store(true)
		}
		c.mu.Unlock()
	}
	c.drop(key, hash)
	if c.redis == nil {
		return nil
	}
	if err := c.redis.Forget(ctx, key, hash); err != nil {
		c.postpone(key, hash)
	}
	return nil
}

func (c *Cache) postpone(key Key, hash *Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) >= maxPending {
		c.metrics.lostForgets.Inc()
		c.log.Error("a token was forgotten here only: Redis is down and too many others wait to be told; other sidecars may serve it until it expires")
		return
	}
	c.pending[key] = hash
	c.isAnyPending.Store(true)
}

// isPending reports whether entry was forgotten here, but not yet in Redis.
func (c *Cache) isPending(key Key, entry *Entry) bool {
	if !c.isAnyPending.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	hash, pending := c.pending[key]
	return pending && entry.Has(hash)
}

// redisIsBack tells Redis what was forgotten meanwhile. What others forgot is a matter of the news, which
// distrusts memory whenever it was cut off.
func (c *Cache) redisIsBack(ctx context.Context) {
	c.writeUnkept(ctx)
	c.mu.Lock()
	pending := maps.Clone(c.pending)
	c.mu.Unlock()
	for key, hash := range pending {
		if c.redis.Forget(ctx, key, hash) != nil {
			continue // it stays pending for the next time
		}
		// What was fetched after the forgetting is newer than the tombstone.
		if entry := c.memory.held(key, time.Now()).entry; entry != nil && (hash == nil || !entry.Has(hash)) {
			_ = c.redis.Put(ctx, key, entry)
		}
		c.mu.Lock()
		if c.pending[key] == hash {
			delete(c.pending, key)
		}
		c.isAnyPending.Store(len(c.pending) > 0)
		c.mu.Unlock()
	}
}

func (c *Cache) distrust() { c.distrusted.Store(int64(time.Since(c.memory.start))) }

// Claim reports whether this sidecar may try to renew entry now. If so, nobody else in the fleet does for
// hold; if not, it has been put off.
func (c *Cache) Claim(ctx context.Context, key Key, entry *Entry, hold time.Duration) bool {
	if !c.redisUp() {
		return true
	}
	ok, left, err := c.redis.claim(ctx, key, hold)
	if err == nil && !ok {
		entry.Postpone(time.Now(), max(left, 100*time.Millisecond))
	}
	return err != nil || ok
}

// hear acts on news of other sidecars.
func (c *Cache) hear(n news) {
	switch n.kind {
	case newsForget:
		c.metrics.forgets.Inc()
		c.drop(n.key, n.hash)
	case newsWake:
		c.mu.Lock()
		if lease := c.leases[n.key]; lease != nil {
			select {
			case lease.woken <- struct{}{}:
			default: // it is told already
			}
		}
		c.mu.Unlock()
	}
}

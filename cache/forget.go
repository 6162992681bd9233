package cache

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPending bounds how many forgets wait for Redis, and how many refresh tokens and tokens.
	maxPending = 10_000
	// maxTold bounds how many forgets are told again to a Redis that may have lost them, toldLife how old those are: a
	// replica that takes over lags by less, and Redis' own default writes a copy of its data once an hour.
	maxTold  = 1_000
	toldLife = time.Hour
)

// Forget forgets the tokens of key in the whole fleet, or only the token with that hash. told is false if Redis could
// not be told: this sidecar has forgotten the token, and keeps trying until Redis has taken the forget. Without a hash,
// the result of a fetch in progress is not kept either.
func (c *Cache) Forget(ctx context.Context, key Key, hash *Hash) (told bool) {
	// Where nobody is known to have a token, what is remembered need only outlive a fetch that is under way, and what
	// others trust their memory with: whoever forgets ever new users must not fill Redis.
	life := c.brief
	if c.memory.former(key) != nil {
		life = tombstoneLife
	}
	var f pendingForget
	if c.shared != nil {
		f = c.pending.add(key, hash)
	}
	c.drop(key, hash)
	c.memory.permit(key)
	if c.shared == nil || c.tell(ctx, f, life) {
		return true
	}
	c.flush()
	return false
}

// drop forgets in memory, and voids the fetches in progress. What was found in memory before this, or beside it, is not
// kept: the epoch is another one afterwards, and odd meanwhile.
func (c *Cache) drop(key Key, hash *Hash) {
	if hash == nil {
		c.mu.Lock()
		if lease := c.leases[key]; lease != nil {
			lease.voided.Store(true)
		}
		c.mu.Unlock()
	}
	c.dropping.Lock()
	defer c.dropping.Unlock()
	c.epochs[key[0]].Add(1)
	c.memory.forget(key, hash)
	c.epochs[key[0]].Add(1)
}

// tell writes a forget to Redis. life is how long the tombstone lasts if Redis has no token.
func (c *Cache) tell(ctx context.Context, f pendingForget, life time.Duration) bool {
	fence, err := c.shared.forget(context.WithoutCancel(ctx), f, life)
	if err != nil {
		return false
	}
	// What Redis said until now may be what is forgotten. From here on the tombstone tells, and not pending.
	c.epochs[f.key[0]].Add(2)
	// What was fetched after the forgetting is newer than the tombstone.
	if entry := c.memory.entry(f.key, time.Now()); entry != nil && f.hash() == nil && f.before == 0 {
		_, _ = c.shared.seed(ctx, f.key, entry, fence) // if not, it is fetched again
	}
	c.pending.remove(f, fence)
	return true
}

// pendingForgets are what this sidecar has forgotten and Redis has not been told yet.
type pendingForgets struct {
	log  *slog.Logger
	lost func()
	any  atomic.Bool

	mu    sync.Mutex
	keys  map[Key]map[Hash]pendingForget
	count int
	last  uint64
	told  []pendingForget // what Redis was told of late, the newest last
}

// A pendingForget is one such forget. Without a token it covers every token of the key.
type pendingForget struct {
	key    Key
	token  Hash
	number uint64 // of the last forget of the same
	// before is the fence that it had when Redis was told of it before, 0 for never, and at when that was; began is when
	// the token was forgotten.
	before Fence
	at     time.Time
	began  time.Time
}

// forgets reports whether e was forgotten. A token without a fence was fetched by this process, so its clock tells.
func (f pendingForget) forgets(e *Entry) bool {
	switch {
	case f.token != Hash{}:
		return e.Has(&f.token)
	case e.Fence == 0:
		return !e.Sent.After(f.began)
	default:
		return f.before == 0 || e.Fence <= f.before
	}
}

func (f pendingForget) hash() *Hash {
	if f.token == (Hash{}) {
		return nil
	}
	return &f.token
}

func newPendingForgets(log *slog.Logger, lost func()) *pendingForgets {
	return &pendingForgets{log: log, lost: lost, keys: map[Key]map[Hash]pendingForget{}}
}

func (p *pendingForgets) add(key Key, hash *Hash) pendingForget {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := pendingForget{key: key, began: time.Now()}
	if hash != nil {
		f.token = *hash
	}
	return p.put(f)
}

// put makes f wait. p.mu is held.
func (p *pendingForgets) put(f pendingForget) pendingForget {
	p.last++
	f.number = p.last
	hashes := p.keys[f.key]
	if _, known := hashes[f.token]; !known {
		if p.count >= maxPending {
			p.lost()
			p.log.Error("a token was forgotten here only: too many others wait to be told to Redis; other sidecars may serve it until it expires")
			return f
		}
		p.count++
	}
	if hashes == nil {
		hashes = map[Hash]pendingForget{}
		p.keys[f.key] = hashes
	}
	hashes[f.token] = f
	p.any.Store(true)
	return f
}

// remove takes note that Redis was told of f, and what it said, unless the same was forgotten again since.
func (p *pendingForgets) remove(f pendingForget, fence string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hashes := p.keys[f.key]
	if last, known := hashes[f.token]; !known || last.number > f.number {
		return
	}
	if f.before == 0 {
		f.before, f.at = max(1, parseFence(fence)), time.Now()
	}
	p.told = slices.DeleteFunc(p.told, func(t pendingForget) bool { return t.key == f.key && t.token == f.token })
	p.told = append(p.told[max(0, len(p.told)-maxTold+1):], f)
	delete(hashes, f.token)
	if p.count--; len(hashes) == 0 {
		delete(p.keys, f.key)
	}
	p.any.Store(p.count > 0)
}

// again makes what Redis was told of late wait to be told once more, and reports whether there is any.
func (p *pendingForgets) again() (found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.told {
		if _, waits := p.keys[f.key][f.token]; !waits && since(f.at, time.Now()) < toldLife && p.count < maxPending {
			p.put(f)
			found = true
		}
	}
	p.told = nil
	return found
}

// forgets reports whether e was forgotten, though Redis may still hold it.
func (p *pendingForgets) forgets(key Key, e *Entry) bool {
	if !p.any.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.keys[key] {
		if f.forgets(e) {
			return true
		}
	}
	return false
}

func (p *pendingForgets) list() (all []pendingForget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hashes := range p.keys {
		all = slices.AppendSeq(all, maps.Values(hashes))
	}
	return all
}

func (p *pendingForgets) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

package cache

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// maxPending bounds how many forgets wait for Redis, and how many refresh tokens and tokens.
const maxPending = 10_000

// Forget forgets the tokens of key, or only the one of that hash, in the whole fleet. told is false while Redis cannot
// be told: this sidecar has forgotten already, and goes on telling until Redis has taken it. A fetch that is under way
// is not kept, unless hash is given.
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

// drop forgets in memory, and makes what is being fetched not be kept. The epoch comes first, so that of a concurrent
// keep either is undone by the other.
func (c *Cache) drop(key Key, hash *Hash) {
	if hash == nil {
		c.mu.Lock()
		if lease := c.leases[key]; lease != nil {
			lease.voided.Store(true)
		}
		c.mu.Unlock()
	}
	c.epochs[key[0]].Add(1)
	c.memory.forget(key, hash)
}

// tell tells Redis of a forget. life is how long it must be remembered where Redis has no token.
func (c *Cache) tell(ctx context.Context, f pendingForget, life time.Duration) bool {
	fence, err := c.shared.forget(context.WithoutCancel(ctx), f.key, f.hash(), life)
	if err != nil {
		return false
	}
	// What was fetched after the forgetting is newer than the tombstone.
	if entry := c.memory.entry(f.key, time.Now()); entry != nil && f.hash() == nil {
		_ = c.shared.seed(ctx, f.key, entry, fence) // if not, it is fetched again
	}
	c.pending.remove(f)
	return true
}

// pendingForgets are what this sidecar has forgotten and Redis is yet to be told.
type pendingForgets struct {
	log  *slog.Logger
	lost func()
	any  atomic.Bool

	mu    sync.Mutex
	keys  map[Key]map[Hash]uint64 // of a key, the hashes, each with the number of its last forget
	count int
	last  uint64
}

// A pendingForget is one of them. The zero token stands for every token of the key.
type pendingForget struct {
	key    Key
	token  Hash
	number uint64
}

func (f pendingForget) hash() *Hash {
	if f.token == (Hash{}) {
		return nil
	}
	return &f.token
}

func newPendingForgets(log *slog.Logger, lost func()) *pendingForgets {
	return &pendingForgets{log: log, lost: lost, keys: map[Key]map[Hash]uint64{}}
}

func (p *pendingForgets) add(key Key, hash *Hash) pendingForget {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	f := pendingForget{key: key, number: p.last}
	if hash != nil {
		f.token = *hash
	}
	hashes := p.keys[key]
	if _, known := hashes[f.token]; !known {
		if p.count >= maxPending {
			p.lost()
			p.log.Error("a token was forgotten here only: too many others wait to be told to Redis; other sidecars may serve it until it expires")
			return f
		}
		p.count++
	}
	if hashes == nil {
		hashes = map[Hash]uint64{}
		p.keys[key] = hashes
	}
	hashes[f.token] = f.number
	p.any.Store(true)
	return f
}

// remove takes note that Redis was told of f, unless the same was forgotten again since.
func (p *pendingForgets) remove(f pendingForget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	hashes := p.keys[f.key]
	if number, known := hashes[f.token]; !known || number > f.number {
		return
	}
	delete(hashes, f.token)
	if p.count--; len(hashes) == 0 {
		delete(p.keys, f.key)
	}
	p.any.Store(p.count > 0)
}

// forgets reports whether e was forgotten, though Redis may still hold it.
func (p *pendingForgets) forgets(key Key, e *Entry) bool {
	if !p.any.Load() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for token := range p.keys[key] {
		if e.Has((pendingForget{token: token}).hash()) {
			return true
		}
	}
	return false
}

func (p *pendingForgets) list() (all []pendingForget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, hashes := range p.keys {
		for token, number := range hashes {
			all = append(all, pendingForget{key, token, number})
		}
	}
	return all
}

func (p *pendingForgets) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

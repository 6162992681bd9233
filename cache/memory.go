package cache

import (
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"token-sidecar/internal/secret"
)

const (
	// entryOverhead and refusalOverhead are what one costs in memory beside its body, in bytes: the structs, the node of
	// the cache, and the garbage collector's room.
	entryOverhead   = 640
	refusalOverhead = 384
	// refusalShare is the part of the bound that refusals may take, so that a flood of users who are refused pushes out no
	// token.
	refusalShare = 8
)

// A Refusal is the auth service's definitive answer that there is no token, in a form that only its writer understands.
type Refusal = secret.Value[[]byte]

// memory is what this process holds itself, bounded in bytes.
type memory struct {
	entries  *otter.Cache[Key, *item]
	refusals *otter.Cache[Key, refused]
}

// An item is an entry with what is needed to know how far it can be trusted.
type item struct {
	entry *Entry
	// generation is that of the cache when the entry was last confirmed, 0 for never; at is when that was.
	generation atomic.Uint64
	at         atomic.Pointer[time.Time]
}

type refused struct {
	why   Refusal
	until time.Time
}

// formerGrace is how long a token is known after the end of its life. That is told in whole seconds, rounded down, so
// the auth service may answer with it once more, as if it were to live another second.
const formerGrace = 10 * time.Second

// untickedClock is the wall clock without otter's clean-up every second: what has expired goes at the next write, and
// is never served.
type untickedClock struct{}

func (untickedClock) NowNano() int64                      { return time.Now().UnixNano() }
func (untickedClock) Tick(time.Duration) <-chan time.Time { return nil }

// newMemory returns a memory of at most that many bytes.
func newMemory(size int64) *memory {
	ofRefusals := max(1, size/refusalShare)
	return &memory{
		entries: otter.Must(&otter.Options[Key, *item]{
			MaximumWeight: uint64(max(1, size-ofRefusals)),
			Weigher: func(_ Key, i *item) uint32 {
				return uint32(entryOverhead + len(i.entry.Body.Reveal())) //nolint:gosec // the body is bounded
			},
			Clock: untickedClock{},
			// Beyond its use: the auth service may answer with the same token again until that ends.
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, *item]) time.Duration {
				return max(1, e.Value.entry.Life+formerGrace-e.Value.entry.Age(time.Now()))
			}),
		}),
		refusals: otter.Must(&otter.Options[Key, refused]{
			MaximumWeight: uint64(ofRefusals),
			Weigher: func(_ Key, r refused) uint32 {
				return uint32(refusalOverhead + len(r.why.Reveal())) //nolint:gosec // the body is bounded
			},
			Clock: untickedClock{},
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, refused]) time.Duration {
				return max(1, time.Until(e.Value.until))
			}),
		}),
	}
}

func (m *memory) close() {
	m.entries.StopAllGoroutines()
	m.refusals.StopAllGoroutines()
}

// get returns what is held of key, nil when that is nothing usable at now.
func (m *memory) get(key Key, now time.Time) *item {
	i, ok := m.entries.GetIfPresent(key)
	if !ok || !i.entry.Usable(now) {
		return nil
	}
	return i
}

// entry is the entry of get.
func (m *memory) entry(key Key, now time.Time) *Entry {
	if i := m.get(key, now); i != nil {
		return i.entry
	}
	return nil
}

// former returns the token of key that is or was in use, until shortly after the end of its life.
func (m *memory) former(key Key) *Entry {
	i, ok := m.entries.GetIfPresent(key)
	if !ok {
		return nil
	}
	return i.entry
}

// put keeps entry, confirmed in that generation; 0 for not confirmed. A newer one that is there stays, and is returned.
// Nothing is kept unless good, which is asked when nobody can forget: whoever forgets changes its answer first.
func (m *memory) put(key Key, entry *Entry, generation uint64, good func() bool) *Entry {
	kept, _ := m.entries.Compute(key, func(old *item, found bool) (*item, otter.ComputeOp) {
		switch {
		case good():
		case found:
			return nil, otter.InvalidateOp
		default:
			return nil, otter.CancelOp
		}
		if found && old.entry.ID == entry.ID {
			old.confirm(generation)
			return old, otter.CancelOp
		}
		if found && old.entry.Usable(time.Now()) && old.entry.newerThan(entry) {
			return old, otter.CancelOp
		}
		fresh := &item{entry: entry}
		fresh.confirm(generation)
		return fresh, otter.WriteOp
	})
	if kept == nil {
		return entry
	}
	return kept.entry
}

// confirm renews the trust in an item; generation 0 does not.
func (i *item) confirm(generation uint64) {
	if generation == 0 {
		return
	}
	now := time.Now()
	i.at.Store(&now)
	i.generation.Store(generation)
}

// forget drops what is held of key; given a hash, only a token of that hash.
func (m *memory) forget(key Key, hash *Hash) {
	m.entries.ComputeIfPresent(key, func(old *item) (*item, otter.ComputeOp) {
		if old.entry.Has(hash) {
			return nil, otter.InvalidateOp
		}
		return old, otter.CancelOp
	})
}

// refuse remembers for ttl why there is no token of key.
func (m *memory) refuse(key Key, why Refusal, ttl time.Duration) {
	if ttl > 0 {
		m.refusals.Set(key, refused{why: why, until: time.Now().Add(ttl)})
	}
}

// refusal returns what refuse remembers.
func (m *memory) refusal(key Key) (Refusal, bool) {
	r, ok := m.refusals.GetIfPresent(key)
	if !ok || !time.Now().Before(r.until) {
		return Refusal{}, false
	}
	return r.why, true
}

// permit forgets a refusal.
func (m *memory) permit(key Key) { m.refusals.Invalidate(key) }

// size is how many entries there are, about.
func (m *memory) size() int { return m.entries.EstimatedSize() }

// bytes is what they weigh, refusals included.
func (m *memory) bytes() uint64 { return m.entries.WeightedSize() + m.refusals.WeightedSize() }

// each calls visit with the time that is left of every entry that can be served.
func (m *memory) each(visit func(left time.Duration)) {
	now := time.Now()
	for i := range m.entries.Values() {
		if i.entry.Usable(now) {
			visit(i.entry.KeepFor - i.entry.Age(now))
		}
	}
}

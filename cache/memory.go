package cache

import (
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"token-sidecar/internal/secret"
)

const (
	// entryOverhead and refusalOverhead are what an item costs in bytes beside its body: structs, the node in the
	// cache, and the headroom of the garbage collector.
	entryOverhead   = 640
	refusalOverhead = 384
	// refusalShare is the divisor for the part of the bound that refusals may use, so that a flood of refused users
	// evicts no tokens.
	refusalShare = 8
)

// A Refusal is the auth service's definitive answer that there is no token, in a form that only its writer understands.
type Refusal = secret.Value[[]byte]

// memory is what this process holds itself, bounded in bytes.
type memory struct {
	entries  *otter.Cache[Key, *item]
	refusals *otter.Cache[Key, refused]
}

// An item is an entry, and how far it can be trusted.
type item struct {
	entry *Entry
	// generation is that of the cache when the entry was last confirmed, 0 if it never was; at is the time of that.
	generation atomic.Uint64
	at         atomic.Pointer[time.Time]
}

type refused struct {
	why   Refusal
	until time.Time
}

// formerGrace is how long a token is remembered after the end of its life. Lifetimes come in whole seconds, rounded
// down, so the auth service may answer with the token once more, as if it had another second to live.
const formerGrace = 10 * time.Second

// untickedClock is the wall clock, without otter's clean-up every second: an expired item is removed at the next write,
// and never served.
type untickedClock struct{}

func (untickedClock) NowNano() int64                      { return time.Now().UnixNano() }
func (untickedClock) Tick(time.Duration) <-chan time.Time { return nil }

// newMemory returns a memory of at most size bytes.
func newMemory(size int64) *memory {
	ofRefusals := max(1, size/refusalShare)
	return &memory{
		entries: otter.Must(&otter.Options[Key, *item]{
			MaximumWeight: uint64(max(1, size-ofRefusals)),
			Weigher: func(_ Key, i *item) uint32 {
				return uint32(entryOverhead + len(i.entry.Body.Reveal())) //nolint:gosec // the body is bounded
			},
			Clock: untickedClock{},
			// An entry stays until the end of its life, when it can no longer be used: the auth service may answer with
			// the same token until then.
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

// get returns the item of key, nil if it is not usable at now.
func (m *memory) get(key Key, now time.Time) *item {
	i, ok := m.entries.GetIfPresent(key)
	if !ok || !i.entry.Usable(now) {
		return nil
	}
	return i
}

// entry returns the entry of that item.
func (m *memory) entry(key Key, now time.Time) *Entry {
	if i := m.get(key, now); i != nil {
		return i.entry
	}
	return nil
}

// former returns the last known token of key, until shortly after the end of its life.
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

// forget drops what is held of key; with a hash, only a token with that hash.
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

// refusal returns what refuse stored.
func (m *memory) refusal(key Key) (Refusal, bool) {
	r, ok := m.refusals.GetIfPresent(key)
	if !ok || !time.Now().Before(r.until) {
		return Refusal{}, false
	}
	return r.why, true
}

// permit drops a refusal.
func (m *memory) permit(key Key) { m.refusals.Invalidate(key) }

// size is roughly how many entries there are.
func (m *memory) size() int { return m.entries.EstimatedSize() }

// bytes is their weight, refusals included.
func (m *memory) bytes() uint64 { return m.entries.WeightedSize() + m.refusals.WeightedSize() }

// each calls visit with the remaining time of every entry that can be served.
func (m *memory) each(visit func(left time.Duration)) {
	now := time.Now()
	for i := range m.entries.Values() {
		if i.entry.Usable(now) {
			visit(i.entry.KeepFor - i.entry.Age(now))
		}
	}
}

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
	entries  *otter.Cache[Key, *Entry]
	refusals *otter.Cache[Key, refused]
}

// notes are what memory notes on an entry that it holds.
type notes struct {
	// generation is that of the cache when the entry was last confirmed, 0 if it never was.
	generation atomic.Uint64
	// monotonic and wall are when that was, in nanoseconds since start and since 1970.
	monotonic, wall atomic.Int64
	// used is when the cache was last told that the entry is used, in nanoseconds since 1970.
	used atomic.Int64
}

// start is what monotonic times count from.
var start = time.Now()

// confirm renews the trust in the entry; generation 0 does not, nor does one that is older than the last. Only one
// goroutine at a time may call it.
func (n *notes) confirm(generation uint64) {
	if generation == 0 || generation < n.generation.Load() {
		return
	}
	now := time.Now()
	n.monotonic.Store(int64(now.Sub(start)))
	n.wall.Store(now.UnixNano())
	n.generation.Store(generation)
}

// confirmed is how long before now that was, by the clock that shows more; see since.
func (n *notes) confirmed(now time.Time) time.Duration {
	return max(now.Sub(start)-time.Duration(n.monotonic.Load()), time.Duration(now.UnixNano()-n.wall.Load()))
}

// usedAgain reports whether the cache is to be told that the entry is used at now: once a second, because telling it
// costs as much as the lookup.
func (n *notes) usedAgain(now time.Time) bool {
	ago := time.Duration(now.UnixNano() - n.used.Load())
	if 0 <= ago && ago < time.Second {
		return false
	}
	n.used.Store(now.UnixNano())
	return true
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
		entries: otter.Must(&otter.Options[Key, *Entry]{
			MaximumWeight: uint64(max(1, size-ofRefusals)),
			Weigher: func(_ Key, e *Entry) uint32 {
				return uint32(entryOverhead + len(e.Body.Reveal())) //nolint:gosec // the body is bounded
			},
			Clock: untickedClock{},
			// An entry stays until the end of its life, when it can no longer be used: the auth service may answer with
			// the same token until then.
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, *Entry]) time.Duration {
				return max(1, e.Value.Life+formerGrace-e.Value.Age(time.Now()))
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

// entry returns the entry of key, nil if it is not usable at now.
func (m *memory) entry(key Key, now time.Time) *Entry {
	found, ok := m.entries.GetEntryQuietly(key)
	if !ok || !found.Value.Usable(now) {
		return nil
	}
	if found.Value.notes.usedAgain(now) {
		_, _ = m.entries.GetIfPresent(key)
	}
	return found.Value
}

// former returns the last known token of key, until shortly after the end of its life.
func (m *memory) former(key Key) *Entry {
	e, _ := m.entries.GetIfPresent(key)
	return e
}

// put keeps entry, confirmed in that generation; 0 for not confirmed. A newer one that is there stays, and is returned.
// Nothing is kept unless good, which is asked when nobody can forget: whoever forgets changes its answer first.
func (m *memory) put(key Key, entry *Entry, generation uint64, good func() bool) *Entry {
	kept, _ := m.entries.Compute(key, func(old *Entry, found bool) (*Entry, otter.ComputeOp) {
		switch {
		case good():
		case found:
			return nil, otter.InvalidateOp
		default:
			return nil, otter.CancelOp
		}
		if found && old.ID == entry.ID {
			old.notes.confirm(generation)
			return old, otter.CancelOp
		}
		if found && old.Usable(time.Now()) && old.newerThan(entry) {
			return old, otter.CancelOp
		}
		entry.notes.generation.Store(0) // it may have been held before
		entry.notes.confirm(generation)
		return entry, otter.WriteOp
	})
	if kept == nil {
		return entry
	}
	return kept
}

// forget drops what is held of key; with a hash, only a token with that hash.
func (m *memory) forget(key Key, hash *Hash) {
	m.entries.ComputeIfPresent(key, func(old *Entry) (*Entry, otter.ComputeOp) {
		if old.Has(hash) {
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
	for e := range m.entries.Values() {
		if e.Usable(now) {
			visit(e.KeepFor - e.Age(now))
		}
	}
}

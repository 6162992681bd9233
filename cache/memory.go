package cache

import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
)

// Memory is a bounded [Store] in this process. When full it drops what is asked for least.
type Memory struct{ cache *otter.Cache[Key, held] }

// held is an entry with the moment its trust was last confirmed.
type held struct {
	entry *Entry
	at    time.Time
}

// monotonic is otter's clock. Its own one is the wall clock, which steps.
type monotonic struct{ start time.Time }

func (m monotonic) NowNano() int64 { return int64(time.Since(m.start)) }

// Tick asks for no periodic clean-up: expired entries go at the next write, and the bound holds anyway.
func (monotonic) Tick(time.Duration) <-chan time.Time { return nil }

// NewMemory returns a memory for at most that many entries.
func NewMemory(entries int) *Memory {
	return &Memory{otter.Must(&otter.Options[Key, held]{
		MaximumSize: entries,
		Clock:       monotonic{start: time.Now()},
		Executor:    func(fn func()) { fn() },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Key, held]) time.Duration {
			return max(1, e.Value.entry.KeepFor-time.Since(e.Value.entry.Sent))
		}),
	})}
}

// Get implements [Store]. It never blocks and never fails.
func (m *Memory) Get(_ context.Context, key Key) (*Entry, error) {
	return m.held(key, time.Now()).entry, nil
}

// Put implements [Store].
func (m *Memory) Put(_ context.Context, key Key, entry *Entry) error {
	m.put(key, entry)
	return nil
}

func (m *Memory) put(key Key, entry *Entry) {
	m.cache.Set(key, held{entry: entry, at: time.Now()})
}

// Forget implements [Store].
func (m *Memory) Forget(_ context.Context, key Key, hash *Hash) error {
	m.forget(key, hash)
	return nil
}

func (m *Memory) forget(key Key, hash *Hash) {
	m.cache.ComputeIfPresent(key, func(old held) (held, otter.ComputeOp) {
		if old.entry.Has(hash) {
			return old, otter.InvalidateOp
		}
		return old, otter.CancelOp
	})
}

// held returns what is held of a key; its entry is nil when that is nothing usable at now.
func (m *Memory) held(key Key, now time.Time) held {
	h, ok := m.cache.GetIfPresent(key)
	if !ok || !h.entry.Usable(now) {
		return held{}
	}
	return h
}

// confirm renews the trust in entry, unless something else has taken its place.
func (m *Memory) confirm(key Key, entry *Entry) {
	m.cache.ComputeIfPresent(key, func(old held) (held, otter.ComputeOp) {
		if old.entry != entry {
			return old, otter.CancelOp
		}
		return held{entry: entry, at: time.Now()}, otter.WriteOp
	})
}

// Len is about how many entries there are.
func (m *Memory) Len() int { return m.cache.EstimatedSize() }

// each calls visit with the time that is left of every entry that can be served.
func (m *Memory) each(visit func(left time.Duration)) {
	now := time.Now()
	for _, h := range m.cache.All() {
		if h.entry.Usable(now) {
			visit(h.entry.KeepFor - now.Sub(h.entry.Sent))
		}
	}
}

// Close ends the memory's goroutines.
func (m *Memory) Close() { m.cache.StopAllGoroutines() }

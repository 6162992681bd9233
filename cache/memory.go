package cache

import (
	"context"
	"time"
)

// Memory is a bounded [Store] in this process.
type Memory struct {
	entries *Bounded[held]
	start   time.Time
}

// held is an entry with the moment after the memory's start that the trust in it was last confirmed.
type held struct {
	entry *Entry
	at    time.Duration
}

// NewMemory returns a memory for at most that many entries.
func NewMemory(entries int) *Memory {
	return &Memory{NewBounded(entries, func(h held) bool { return !h.entry.Usable(time.Now()) }), time.Now()}
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
	m.entries.Put(key, held{entry: entry, at: time.Since(m.start)})
}

// Forget implements [Store].
func (m *Memory) Forget(_ context.Context, key Key, hash *Hash) error {
	m.forget(key, hash)
	return nil
}

func (m *Memory) forget(key Key, hash *Hash) {
	m.entries.Change(key, func(old held) (held, bool) { return old, !old.entry.Has(hash) })
}

// held returns what is held of a key; its entry is nil when that is nothing usable at now.
func (m *Memory) held(key Key, now time.Time) held {
	h, _ := m.entries.Get(key)
	if !h.entry.Usable(now) {
		return held{}
	}
	return h
}

// confirm renews the trust in entry, unless something else has taken its place.
func (m *Memory) confirm(key Key, entry *Entry) {
	m.entries.Change(key, func(old held) (held, bool) {
		if old.entry == entry {
			old.at = time.Since(m.start)
		}
		return old, true
	})
}

// Len is how many entries there are, some of which may not be usable any more.
func (m *Memory) Len() int { return m.entries.Len() }

// each calls visit with the time that is left of every entry that can be served.
func (m *Memory) each(visit func(left time.Duration)) {
	now := time.Now()
	m.entries.Each(func(h held) {
		if h.entry.Usable(now) {
			visit(h.entry.KeepFor - now.Sub(h.entry.Sent))
		}
	})
}

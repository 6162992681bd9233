package cache

import (
	"encoding/binary"
	"iter"
)

// An index finds places by key. Beside a map it is small, so that it stays in the processor's caches, and it touches
// only the place it is asked for: a key is a hash already, and the first part of it says where to look (open
// addressing, linear probing), and nearly always whether it is found.
type index struct {
	// entries hold the tag of a key above the place plus one; 0 is none. Their number is a power of two.
	entries []uint64
	count   int
}

func newIndex() index { return index{entries: make([]uint64, 8)} }

func tagOf(key *Key) uint64 { return uint64(binary.LittleEndian.Uint32(key[:])) }

func entryOf(tag uint64, place int) uint64 { return tag<<32 | uint64(place+1) } //nolint:gosec // places are few
func tagIn(entry uint64) uint64            { return entry >> 32 }
func placeIn(entry uint64) int             { return int(uint32(entry)) - 1 } //nolint:gosec // the lower half

func (x *index) mask() uint64 { return uint64(len(x.entries) - 1) } //nolint:gosec // never empty

// candidates yields the places that key may have: nearly always its own, or none.
func (x *index) candidates(key *Key) iter.Seq[int] {
	return func(yield func(int) bool) {
		tag, mask := tagOf(key), x.mask()
		for at := tag & mask; x.entries[at] != 0; at = (at + 1) & mask {
			if tagIn(x.entries[at]) == tag && !yield(placeIn(x.entries[at])) {
				return
			}
		}
	}
}

// add tells the place of a key that has none yet.
func (x *index) add(key *Key, place int) {
	x.count++
	if 4*x.count > 3*len(x.entries) {
		former := x.entries
		x.entries = make([]uint64, 2*len(former))
		for _, entry := range former {
			if entry != 0 {
				x.insert(entry)
			}
		}
	}
	x.insert(entryOf(tagOf(key), place))
}

func (x *index) insert(entry uint64) {
	at := tagIn(entry) & x.mask()
	for x.entries[at] != 0 {
		at = (at + 1) & x.mask()
	}
	x.entries[at] = entry
}

// remove forgets the place of key.
func (x *index) remove(key *Key, place int) {
	mask, gone := x.mask(), entryOf(tagOf(key), place)
	hole := tagIn(gone) & mask
	for x.entries[hole] != gone {
		hole = (hole + 1) & mask
	}
	x.count--
	// What follows moves up, unless it stands between its home and the hole already.
	for at := (hole + 1) & mask; x.entries[at] != 0; at = (at + 1) & mask {
		if home := tagIn(x.entries[at]) & mask; (at-home)&mask >= (at-hole)&mask {
			x.entries[hole] = x.entries[at]
			hole = at
		}
	}
	x.entries[hole] = 0
}

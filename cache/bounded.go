package cache

import (
	"sync"
	"sync/atomic"
)

// A Bounded maps keys to values and never holds more than so many. It may be used from many goroutines.
//
// It is made for hits: a look-up, and a mark that is mostly there already. Nothing is moved, queued or counted, which in
// a server, where each request finds the processor's caches full of other things, costs more than it does in a
// benchmark. What has to go when it is full is found by CLOCK: a hand goes round, spares once what was asked for since
// it last came by, and takes the place of the first that was not.
type Bounded[V any] struct {
	most    int
	expired func(V) bool

	mu     sync.RWMutex
	index  index
	slots  []slot[V]
	vacant []int
	hand   int
}

type slot[V any] struct {
	key   Key
	value V
	taken bool
	asked atomic.Bool
}

// sweepPerPut is how many slots each Put looks at besides, so that what has expired does not stay for want of room.
const sweepPerPut = 2

// NewBounded returns an empty map for at most that many values, of which those that have expired go first.
func NewBounded[V any](most int, expired func(V) bool) *Bounded[V] {
	return &Bounded[V]{most: most, expired: expired, index: newIndex()}
}

// find returns the place of key, -1 when it has none.
func (b *Bounded[V]) find(key *Key) int {
	for place := range b.index.candidates(key) {
		if b.slots[place].key == *key {
			return place
		}
	}
	return -1
}

// Get returns the value of key, expired or not.
func (b *Bounded[V]) Get(key Key) (value V, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	place := b.find(&key)
	if place < 0 {
		return value, false
	}
	s := &b.slots[place]
	if !s.asked.Load() {
		s.asked.Store(true)
	}
	return s.value, true
}

// Put sets the value of key.
func (b *Bounded[V]) Put(key Key, value V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if place := b.find(&key); place >= 0 {
		b.slots[place].value = value
		return
	}
	for range min(sweepPerPut, len(b.slots)) {
		if place := b.advance(); b.slots[place].taken && b.expired(b.slots[place].value) {
			b.vacate(place)
		}
	}
	place := b.place()
	s := &b.slots[place]
	s.key, s.value, s.taken = key, value, true
	s.asked.Store(false)
	b.index.add(&key, place)
}

// place finds a place to use.
func (b *Bounded[V]) place() int {
	if len(b.vacant) == 0 && len(b.slots) < b.most {
		b.slots = append(b.slots, slot[V]{})
		return len(b.slots) - 1
	}
	for len(b.vacant) == 0 {
		place := b.advance()
		if s := &b.slots[place]; b.expired(s.value) || !s.asked.Swap(false) {
			b.vacate(place)
		}
	}
	place := b.vacant[len(b.vacant)-1]
	b.vacant = b.vacant[:len(b.vacant)-1]
	return place
}

// advance moves the hand on and returns the place it comes to.
func (b *Bounded[V]) advance() int {
	b.hand = (b.hand + 1) % len(b.slots)
	return b.hand
}

func (b *Bounded[V]) vacate(place int) {
	s := &b.slots[place]
	b.index.remove(&s.key, place)
	var none V
	s.key, s.value, s.taken = Key{}, none, false
	b.vacant = append(b.vacant, place)
}

// Change calls change with the value of key, if there is one. It stays as what change returns, or goes when that
// reports false. Nothing else is done with b meanwhile.
func (b *Bounded[V]) Change(key Key, change func(V) (next V, keep bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	place := b.find(&key)
	if place < 0 {
		return
	}
	s := &b.slots[place]
	next, keep := change(s.value)
	if !keep {
		b.vacate(place)
		return
	}
	s.value = next
}

// Each calls visit with every value, expired or not.
func (b *Bounded[V]) Each(visit func(V)) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for i := range b.slots {
		if b.slots[i].taken {
			visit(b.slots[i].value)
		}
	}
}

// Len is how many values there are, expired ones too.
func (b *Bounded[V]) Len() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.index.count
}

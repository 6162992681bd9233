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
	places map[Key]int // in slots
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
	return &Bounded[V]{most: most, expired: expired, places: make(map[Key]int)}
}

// Get returns the value of key, expired or not.
func (b *Bounded[V]) Get(key Key) (value V, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	place, ok := b.places[key]
	if !ok {
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
	if place, ok := b.places[key]; ok {
		b.slots[place].value = value
		return
	}
	for range sweepPerPut {
		if s := b.advance(); s != nil && s.taken && b.expired(s.value) {
			b.vacate(s)
		}
	}
	place := b.place()
	s := &b.slots[place]
	s.key, s.value, s.taken = key, value, true
	s.asked.Store(false)
	b.places[key] = place
}

// place finds a slot to use.
func (b *Bounded[V]) place() int {
	if len(b.vacant) == 0 && len(b.slots) < b.most {
		b.slots = append(b.slots, slot[V]{})
		return len(b.slots) - 1
	}
	for len(b.vacant) == 0 {
		if s := b.advance(); b.expired(s.value) || !s.asked.Swap(false) {
			b.vacate(s)
		}
	}
	place := b.vacant[len(b.vacant)-1]
	b.vacant = b.vacant[:len(b.vacant)-1]
	return place
}

// advance moves the hand on and returns the slot it comes to, nil when there is none.
func (b *Bounded[V]) advance() *slot[V] {
	if len(b.slots) == 0 {
		return nil
	}
	b.hand = (b.hand + 1) % len(b.slots)
	return &b.slots[b.hand]
}

func (b *Bounded[V]) vacate(s *slot[V]) {
	place := b.places[s.key]
	delete(b.places, s.key)
	var none V
	s.key, s.value, s.taken = Key{}, none, false
	b.vacant = append(b.vacant, place)
}

// Change calls change with the value of key, if there is one. It stays as what change returns, or goes when that
// reports false. Nothing else is done with b meanwhile.
func (b *Bounded[V]) Change(key Key, change func(V) (next V, keep bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	place, ok := b.places[key]
	if !ok {
		return
	}
	s := &b.slots[place]
	next, keep := change(s.value)
	if !keep {
		b.vacate(s)
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
	return len(b.places)
}

// Package cache keeps tokens: in memory, in Redis, and in both together.
//
// It promises: what [Cache.Peek] and [Cache.Get] return was put under that very key, was not forgotten since,
// and is before its margin by every clock asked, so neither a stepped clock nor a late answer yields a dead
// token. Redis sees sealed values under names that tell nothing; it may fail at any time, which costs speed
// and never an answer. While it works, at most one sidecar of the fleet holds the [Lease] of a key.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
	"token-sidecar/internal/secret"
)

// A Store keeps entries by key. Every implementation passes the same behavioural tests.
//
// Get returns the entry that was put last; nil when there is none, it was forgotten, its KeepFor has passed,
// or the store was short of room. A value that cannot be read is none. Put replaces. Forget removes what was
// put before; given a hash, only an entry that holds a token of that hash.
//
// An error means that the store could not be asked and says nothing about the entry. The context bounds the
// whole of a call. Entries are shared: nobody changes one after Put.
type Store interface {
	Get(ctx context.Context, key Key) (*Entry, error)
	Put(ctx context.Context, key Key, entry *Entry) error
	Forget(ctx context.Context, key Key, hash *Hash) error
}

// ErrUnavailable is the error of a store that is known to be down and was not asked.
var ErrUnavailable = errors.New("cache: Redis is down, not asked")

// A Key stands for everything that an answer depends on. It never leaves the process in the clear.
type Key [sha256.Size]byte

// NewKey joins parts unambiguously.
func NewKey(parts ...string) Key {
	joined := make([]byte, 0, 512) // on the stack, nearly always
	for _, part := range parts {
		joined = binary.BigEndian.AppendUint32(joined, uint32(len(part))) //nolint:gosec // bounded by the parser
		joined = append(joined, part...)
	}
	return sha256.Sum256(joined)
}

// String hides the key, from which user ids could be guessed.
func (Key) String() string { return "[key]" }

// A Hash is the SHA-256 of a token.
type Hash [sha256.Size]byte

// HashOf returns the hash of token.
func HashOf(token secret.Text) Hash { return sha256.Sum256([]byte(token.Reveal())) }

// An Entry is one token, an immutable snapshot but for the marks of its renewal.
type Entry struct {
	// Sent is when the request for it was sent, with a monotonic reading. Life and KeepFor count from it.
	Sent time.Time
	// KeepFor is Life without the margin: how long it may be kept and served.
	KeepFor time.Duration
	// Life is the shortest lifetime in Body.
	Life time.Duration
	// Renewal is the only part that changes.
	Renewal Renewal
	// Body is the answer of the auth service.
	Body  secret.Value[[]byte]
	holes few[Hole]

	// What is needed to serve an entry stands above, together, for the processor's caches.

	// ID tells two tokens of one key apart; see [NewID].
	ID     uint64
	hashes few[Hash]
}

// Holes are the places in Body whose numbers are lowered, in order.
func (e *Entry) Holes() []Hole { return e.holes.all() }

// AddHole adds a hole behind those there are. It is for whoever makes e.
func (e *Entry) AddHole(hole Hole) { e.holes.add(hole) }

// Hashes are those of the tokens in Body.
func (e *Entry) Hashes() []Hash { return e.hashes.all() }

// AddHash adds the hash of a token. It is for whoever makes e.
func (e *Entry) AddHash(hash Hash) { e.hashes.add(hash) }

// few is a list that mostly has one element, which is then within it: the collector of garbage visits each token's
// allocations and pointers many times in its life.
type few[T any] struct {
	first [1]T
	count int
	many  []T // all of them, when they are more
}

func (f *few[T]) all() []T {
	if f.count > len(f.first) {
		return f.many
	}
	return f.first[:f.count]
}

func (f *few[T]) add(element T) {
	all := append(f.all(), element) // the first goes to its place
	if f.count++; f.count > len(f.first) {
		f.many = all
	}
}

// A Hole is the place of a lifetime in a Body.
type Hole struct {
	Start, End int
	Life       time.Duration
}

// Renewal marks when an entry may be renewed next, and how often that failed.
type Renewal struct {
	next     atomic.Int64 // nanoseconds after Sent
	failures atomic.Int32
}

// NewID returns the ID of a new entry, never 0.
func NewID() uint64 { return rand.Uint64() | 1 } //nolint:gosec // tells tokens apart, protects nothing

// Usable reports whether e may still be served at now.
func (e *Entry) Usable(now time.Time) bool { return e != nil && now.Sub(e.Sent) < e.KeepFor }

// Has reports whether e holds a token of that hash; any entry does when hash is nil.
func (e *Entry) Has(hash *Hash) bool {
	if hash == nil {
		return true
	}
	return slices.Contains(e.hashes.all(), *hash)
}

// Claim reports whether a renewal may start now, and if so reserves the time until now+hold. Of many
// goroutines that ask at once one gets it.
func (e *Entry) Claim(now time.Time, hold time.Duration) bool {
	at := now.Sub(e.Sent)
	next := e.Renewal.next.Load()
	return int64(at) >= next && e.Renewal.next.CompareAndSwap(next, int64(at+hold))
}

// Postpone puts the next renewal off until now+by.
func (e *Entry) Postpone(now time.Time, by time.Duration) {
	e.Renewal.next.Store(int64(now.Sub(e.Sent) + by))
}

// Failed counts a failed renewal; Failures tells how many there were.
func (e *Entry) Failed() { e.Renewal.failures.Add(1) }

// Failures is how many renewals of e failed.
func (e *Entry) Failures() int { return int(e.Renewal.failures.Load()) }

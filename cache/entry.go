package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"token-sidecar/internal/secret"
)

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

// A Fence orders the tokens and tombstones of one key: what Redis gave the larger fence is newer. It is the time of
// Redis in microseconds when the lease to fetch the token was acquired; 0 where Redis was not asked.
type Fence uint64

// An Entry is one token, an immutable snapshot but for the marks of its renewal.
type Entry struct {
	// Sent is when the request for it was sent, by both clocks. Life and KeepFor count from it.
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
	ID uint64
	// Fence orders it among the tokens of its key.
	Fence  Fence
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

// few is a list that mostly has one element, which is then within it: the garbage collector visits each token's
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

// Renewal marks when an entry may be renewed next.
type Renewal struct {
	next     atomic.Int64 // nanoseconds of age
	failures atomic.Int32
}

// NewID returns the ID of a new entry, never 0.
func NewID() uint64 { return rand.Uint64() | 1 } //nolint:gosec // tells tokens apart, protects nothing

// Age is how long ago e was asked for: by the greater of the monotonic and the wall clock, because a suspended machine
// stops the former, and the latter can be stepped back.
func (e *Entry) Age(now time.Time) time.Duration { return since(e.Sent, now) }

// since is the time from then to now by whichever clock shows more of it.
func since(then, now time.Time) time.Duration {
	return max(now.Sub(then), time.Duration(now.UnixNano()-then.UnixNano()))
}

// Usable reports whether e may still be served at now.
func (e *Entry) Usable(now time.Time) bool { return e != nil && e.Age(now) < e.KeepFor }

// Has reports whether e holds a token of that hash; any entry does when hash is nil.
func (e *Entry) Has(hash *Hash) bool {
	return hash == nil || slices.Contains(e.hashes.all(), *hash)
}

// SharesToken reports whether e and other hold the same token.
func (e *Entry) SharesToken(other *Entry) bool {
	return slices.ContainsFunc(e.hashes.all(), func(hash Hash) bool { return other.Has(&hash) })
}

// EndWith makes e, which is not shared yet, live no longer than former. It is for whoever makes e.
func (e *Entry) EndWith(former *Entry) {
	gap := former.Age(e.Sent)
	e.KeepFor = min(e.KeepFor, former.KeepFor-gap)
	e.Life = min(e.Life, former.Life-gap)
	holes := e.holes.all()
	for i := range holes {
		holes[i].Life = min(holes[i].Life, e.Life)
	}
}

// newerThan reports whether e replaces other: by their fences where Redis gave both one, else by when they were asked
// for.
func (e *Entry) newerThan(other *Entry) bool {
	switch {
	case other == nil:
		return true
	case e.Fence != 0 && other.Fence != 0:
		return e.Fence > other.Fence
	default:
		return e.Sent.After(other.Sent)
	}
}

// Claim reports whether a renewal may start now, and if so reserves the time until now+hold. Of many
// goroutines that ask at once one gets it.
func (e *Entry) Claim(now time.Time, hold time.Duration) bool {
	age := e.Age(now)
	next := e.Renewal.next.Load()
	return int64(age) >= next && e.Renewal.next.CompareAndSwap(next, int64(age+hold))
}

// Postpone puts the next renewal off until now+by.
func (e *Entry) Postpone(now time.Time, by time.Duration) {
	e.Renewal.next.Store(int64(e.Age(now) + by))
}

// Failed counts a failed renewal; Failures tells how many there were.
func (e *Entry) Failed() { e.Renewal.failures.Add(1) }

// Failures is how many renewals of e failed.
func (e *Entry) Failures() int { return int(e.Renewal.failures.Load()) }

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

// A Key identifies everything that an answer depends on. It never leaves the process in the clear.
type Key [sha256.Size]byte

// NewKey joins parts unambiguously.
func NewKey(parts ...string) Key {
	joined := make([]byte, 0, 512) // nearly always on the stack
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

// A Fence orders the tokens and tombstones of one key: the larger fence is the newer. It is the time of Redis, in
// microseconds, when the lease to fetch the token was acquired, or 0 if Redis was not asked.
type Fence uint64

// An Entry is one token. It is immutable, except for the state of its renewal, and for what memory notes on it.
type Entry struct {
	// Sent is when the request for the token was sent, by both clocks. Life and KeepFor count from it.
	Sent time.Time
	// KeepFor is Life without the margin: how long the entry may be kept and served.
	KeepFor time.Duration
	// Life is the shortest lifetime in Body.
	Life time.Duration
	// ID tells two tokens of one key apart; see [NewID].
	ID      uint64
	notes   notes
	Renewal Renewal
	// Body is the answer of the auth service.
	Body  secret.Value[[]byte]
	holes few[Hole]

	// The fields above are what serving an entry needs; they are adjacent so that they share cache lines.

	// Fence orders the entry among the tokens of its key.
	Fence Fence
	// after is the fence of the newest tombstone that was seen before the token was asked for. It tells, while Fence is
	// 0, which tombstones are older than the token. Redis and other sidecars do not have it.
	after  Fence
	hashes few[Hash]
}

// Holes are the places in Body whose numbers are lowered, in order.
func (e *Entry) Holes() []Hole { return e.holes.all() }

// AddHole appends a hole. Only the creator of e may call it, before e is shared.
func (e *Entry) AddHole(hole Hole) { e.holes.add(hole) }

// Hashes are the hashes of the tokens in Body.
func (e *Entry) Hashes() []Hash { return e.hashes.all() }

// AddHash appends the hash of a token. Only the creator of e may call it, before e is shared.
func (e *Entry) AddHash(hash Hash) { e.hashes.add(hash) }

// few is a list that usually has one element, which it then holds without an allocation: the garbage collector visits
// the allocations and pointers of each token many times during its life.
type few[T any] struct {
	first [1]T
	count int
	many  []T // all elements, if there are several
}

func (f *few[T]) all() []T {
	if f.count > len(f.first) {
		return f.many
	}
	return f.first[:f.count]
}

func (f *few[T]) add(element T) {
	all := append(f.all(), element) // a single element is stored in first
	if f.count++; f.count > len(f.first) {
		f.many = all
	}
}

// A Hole is where a lifetime stands in a Body.
type Hole struct {
	Start, End int
	Life       time.Duration
}

// Renewal is the state of an entry's renewal.
type Renewal struct {
	next     atomic.Int64 // the age, in nanoseconds, at which the next renewal may start
	failures atomic.Int32
}

// NewID returns the ID of a new entry, never 0.
func NewID() uint64 { return rand.Uint64() | 1 } //nolint:gosec // tells tokens apart, protects nothing

// Age is how long ago e was asked for, by the greater of the monotonic and the wall clock: the former stops while the
// machine is suspended, and the latter can be stepped back.
func (e *Entry) Age(now time.Time) time.Duration { return since(e.Sent, now) }

// since is the time from then to now, by the clock that shows more.
func since(then, now time.Time) time.Duration {
	return max(now.Sub(then), time.Duration(now.UnixNano()-then.UnixNano()))
}

// Usable reports whether e may still be served at now.
func (e *Entry) Usable(now time.Time) bool { return e != nil && e.Age(now) < e.KeepFor }

// Has reports whether e holds a token with that hash. With a nil hash, every entry does.
func (e *Entry) Has(hash *Hash) bool {
	return hash == nil || slices.Contains(e.hashes.all(), *hash)
}

// SharesToken reports whether e and other hold the same token.
func (e *Entry) SharesToken(other *Entry) bool {
	return slices.ContainsFunc(e.hashes.all(), func(hash Hash) bool { return other.Has(&hash) })
}

// EndWith limits the life of e to that of former. Only the creator of e may call it, before e is shared.
func (e *Entry) EndWith(former *Entry) {
	gap := former.Age(e.Sent)
	e.KeepFor = min(e.KeepFor, former.KeepFor-gap)
	e.Life = min(e.Life, former.Life-gap)
	holes := e.holes.all()
	for i := range holes {
		holes[i].Life = min(holes[i].Life, e.Life)
	}
}

// newerThan reports whether e replaces other. Fences decide if both have one, else the times of their requests.
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

// Claim reports whether a renewal may start at now, and if so reserves the time until now+hold. Of many goroutines that
// ask at once, one succeeds.
func (e *Entry) Claim(now time.Time, hold time.Duration) bool {
	age := e.Age(now)
	next := e.Renewal.next.Load()
	return int64(age) >= next && e.Renewal.next.CompareAndSwap(next, int64(age+hold))
}

// Postpone delays the next renewal until now+by.
func (e *Entry) Postpone(now time.Time, by time.Duration) {
	e.Renewal.next.Store(int64(e.Age(now) + by))
}

// Failed counts a failed renewal.
func (e *Entry) Failed() { e.Renewal.failures.Add(1) }

// Failures is how many renewals of e have failed.
func (e *Entry) Failures() int { return int(e.Renewal.failures.Load()) }

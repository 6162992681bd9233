package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"time"
	"token-sidecar/internal/secret"
)

// A value in Redis is
//
//	version (1 byte) | key id (4) | entry id (8) | nonce (12) | AES-256-GCM of header and body
//
// with the version, both ids and its own name in Redis as additional data, so that a value moved to another
// name cannot be opened. The entry id stands outside for the scripts, which compare it.
//
// In the place of a value can stand a tombstone, "-" | nonce (16 hex digits) | ":" | hash (hex, or nothing):
// that token, or whatever token there was, has been forgotten.
const (
	valueVersion  = 1
	valueIDOffset = 5
	valueIDEnd    = valueIDOffset + 8
	tombstoneMark = '-'
)

var errUnreadable = errors.New("cache: value cannot be read")

// encode is the header and body of e. Times are wall times: another process reads them.
func encode(e *Entry, wall time.Time) []byte {
	b := make([]byte, 0, 64+24*len(e.Holes())+32*len(e.Hashes())+len(e.Body.Reveal()))
	sent := wall.Add(-time.Since(e.Sent))
	b = appendInt(b, sent.UnixMilli())
	b = appendInt(b, int64(e.Life))
	b = appendInt(b, int64(e.KeepFor))
	b = appendInt(b, int64(len(e.Holes())))
	for _, h := range e.Holes() {
		b = appendInt(b, int64(h.Start))
		b = appendInt(b, int64(h.End))
		b = appendInt(b, int64(h.Life))
	}
	b = appendInt(b, int64(len(e.Hashes())))
	for _, h := range e.Hashes() {
		b = append(b, h[:]...)
	}
	return append(b, e.Body.Reveal()...)
}

func appendInt(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(v)) //nolint:gosec // the same bits
}

// decode is the inverse of encode. The token's age is the larger of what the wall clock and what the time
// left to its value in Redis tell: either clock may have stepped.
func decode(plain []byte, id uint64, wall time.Time, pttl time.Duration) (*Entry, error) {
	r := reader{rest: plain}
	sent := time.UnixMilli(r.int())
	e := &Entry{ID: id, Life: time.Duration(r.int()), KeepFor: time.Duration(r.int())}
	for range r.count(24) {
		e.AddHole(Hole{Start: int(r.int()), End: int(r.int()), Life: time.Duration(r.int())})
	}
	for range r.count(len(Hash{})) {
		e.AddHash(Hash(r.take(len(Hash{}))))
	}
	if r.bad || !sane(e, len(r.rest)) {
		return nil, errUnreadable
	}
	e.Body = secret.Hide(r.rest)
	age := max(0, wall.Sub(sent), e.KeepFor-pttl)
	e.Sent = time.Now().Add(-age)
	return e, nil
}

// sane checks what rendering an entry relies on.
func sane(e *Entry, bodySize int) bool {
	at := 0
	for _, h := range e.Holes() {
		if h.Start < at || h.End <= h.Start || h.End > bodySize || h.Life <= 0 {
			return false
		}
		at = h.End
	}
	return e.Life > 0 && e.KeepFor > 0 && e.KeepFor <= e.Life
}

// reader takes an encoded entry apart; after the first lack it yields zeros and is bad.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.rest) < n {
		r.bad = true
		return make([]byte, n)
	}
	part := r.rest[:n]
	r.rest = r.rest[n:]
	return part
}

func (r *reader) int() int64 { return int64(binary.BigEndian.Uint64(r.take(8))) } //nolint:gosec // the same bits

// count reads how many elements of size bytes follow.
func (r *reader) count(size int) int {
	n := r.int()
	if n < 0 || n > math.MaxInt32 || int(n)*size > len(r.rest) {
		r.bad = true
		return 0
	}
	return int(n)
}

// newTombstone is a tombstone for the token of that hash, or for any token when hash is nil.
func newTombstone(hash *Hash) string {
	var nonce [8]byte
	binary.BigEndian.PutUint64(nonce[:], NewID())
	text := string(tombstoneMark) + hex.EncodeToString(nonce[:]) + ":"
	if hash != nil {
		text += hex.EncodeToString(hash[:])
	}
	return text
}

// buries reports whether raw is a tombstone, and whether e is what it forgot.
func buries(raw string, e *Entry) (tombstone, forgotten bool) {
	if raw == "" || raw[0] != tombstoneMark {
		return false, false
	}
	_, digits, _ := strings.Cut(raw, ":")
	if digits == "" {
		return true, true
	}
	var hash Hash
	if n, err := hex.Decode(hash[:], []byte(digits[:min(len(digits), 2*len(hash))])); err != nil || n != len(hash) {
		return true, false
	}
	return true, e != nil && e.Has(&hash)
}

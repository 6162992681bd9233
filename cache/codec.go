package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"token-sidecar/internal/secret"
)

// A value in Redis is a token or, once that was forgotten, a tombstone:
//
//	T fence (16 decimal digits) id (16 hex digits) count of marks (2 decimal digits) marks (16 hex digits each) sealed
//	F fence scope (* or -) marks
//
// The head is in the clear, for the scripts, which compare it. A mark is a keyed hash of a token's hash: with it a
// script forgets by comparison without opening anything. A tombstone of scope * forgets every token with a smaller
// fence than its own; one of scope - those whose marks it has, and those older than the token that it replaced, whose
// fence it has. The sealed part is
//
//	key id (4 bytes) nonce (12) AES-256-GCM of header and body
//
// with the value's name in Redis, the id and the marks as additional data, so that a value that was moved to another
// name cannot be opened. A lock is a fence and its owner. The formats of refusals and refresh tokens are described
// where they are written.
//
// This is the only place that knows the layout: the scripts get it from luaLayout.
const (
	tokenKind     = 'T'
	tombstoneKind = 'F'
	everything    = '*'
	someTokens    = '-'

	fenceDigits = 16
	idDigits    = 16
	countDigits = 2
	markDigits  = 16
	maxMarks    = 16 // a tombstone with more becomes one of scope *

	fenceEnd   = 1 + fenceDigits
	idEnd      = fenceEnd + idDigits
	scopeEnd   = fenceEnd + 1
	tokenMarks = idEnd + countDigits // where the marks of a token begin
	tombMarks  = scopeEnd + countDigits
)

// luaLayout defines the layout for the scripts.
var luaLayout = fmt.Sprintf(`
local TOKEN, TOMBSTONE, ALL, SOME = '%c', '%c', '%c', '%c'
local FENCE_END, ID_END, SCOPE_END, COUNT, MARK, MAX_MARKS = %d, %d, %d, %d, %d, %d
local SHARDED = '%s'
`, tokenKind, tombstoneKind, everything, someTokens, fenceEnd, idEnd, scopeEnd, countDigits, markDigits, maxMarks,
	shardedPrefix)

var errUnreadable = errors.New("cache: value cannot be read")

// A head is the part of a value that is in the clear.
type head struct {
	kind  byte
	fence Fence
	id    uint64 // of a token
	all   bool   // of a tombstone: its scope is *
	marks []string
	rest  string // the sealed part
}

// parseHead reads the head of a value; ok is false for a value that this package did not write.
func parseHead(raw string) (h head, ok bool) {
	if len(raw) < tombMarks {
		return h, false
	}
	h.kind = raw[0]
	fence, err := strconv.ParseUint(raw[1:fenceEnd], 10, 64)
	h.fence = Fence(fence)
	at := tombMarks
	switch {
	case err != nil:
		return h, false
	case h.kind == tokenKind && len(raw) >= tokenMarks:
		if h.id, err = strconv.ParseUint(raw[fenceEnd:idEnd], 16, 64); err != nil {
			return h, false
		}
		at = tokenMarks
	case h.kind == tombstoneKind:
		h.all = raw[fenceEnd] == everything
	default:
		return h, false
	}
	count, err := strconv.ParseUint(raw[at-countDigits:at], 10, 8)
	if err != nil || len(raw) < at+int(count)*markDigits {
		return h, false
	}
	for range count {
		h.marks = append(h.marks, raw[at:at+markDigits])
		at += markDigits
	}
	h.rest = raw[at:]
	return h, true
}

// forgets reports whether h is a tombstone that forgets e.
func (h head) forgets(e *Entry, key sealKey) bool {
	if h.kind != tombstoneKind {
		return false
	}
	if h.all && e.Fence <= h.fence && e.after < h.fence {
		return true
	}
	if e.Fence != 0 && e.Fence < h.fence { // older than the token that was there
		return true
	}
	return slices.ContainsFunc(e.Hashes(), func(hash Hash) bool { return slices.Contains(h.marks, key.mark(hash)) })
}

// parseFence reads a fence as Redis stores it, 0 if text is not a fence.
func parseFence(text string) Fence {
	fence, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return Fence(fence)
}

// formatFence formats a fence as Redis stores it, empty for none.
func formatFence(fence Fence) string {
	if fence == 0 {
		return ""
	}
	return fmt.Sprintf("%0*d", fenceDigits, fence)
}

func formatID(id uint64) string { return fmt.Sprintf("%0*x", idDigits, id) }

// formatToken formats a token without its kind and fence; the script that stores it puts those in front.
func formatToken(e *Entry, name name, wall time.Time) string {
	name.key.keeps(e.KeepFor)
	hashes := e.Hashes()[:min(len(e.Hashes()), maxMarks)]
	var b strings.Builder
	b.WriteString(formatID(e.ID) + fmt.Sprintf("%0*d", countDigits, len(hashes)))
	for _, hash := range hashes {
		b.WriteString(name.key.mark(hash))
	}
	head := b.String()
	return head + string(name.key.seal(encode(e, wall), name.text+head))
}

// parseToken opens a sealed token.
func (k *Keyring) parseToken(raw string, name name, wall time.Time, pttl time.Duration) (*Entry, error) {
	h, ok := parseHead(raw)
	if !ok || h.kind != tokenKind {
		return nil, errUnreadable
	}
	plain, err := k.open(h.rest, name.text+raw[fenceEnd:len(raw)-len(h.rest)])
	if err != nil {
		return nil, err
	}
	e, err := decode(plain, wall, pttl)
	if err != nil {
		return nil, err
	}
	e.ID, e.Fence = h.id, h.fence
	name.key.keeps(e.KeepFor)
	return e, nil
}

// encode returns header and body of e. Its times are wall times, because another process reads them.
func encode(e *Entry, wall time.Time) []byte {
	b := make([]byte, 0, 64+24*len(e.Holes())+32*len(e.Hashes())+len(e.Body.Reveal()))
	sent := wall.Add(-e.Age(time.Now()))
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

// decode is the inverse of encode. The token's age is the greater of what the wall clock says and what the remaining
// life of the Redis value says: either clock may have stepped.
func decode(plain []byte, wall time.Time, pttl time.Duration) (*Entry, error) {
	r := reader{rest: plain}
	sent := time.UnixMilli(r.int())
	e := &Entry{Life: time.Duration(r.int()), KeepFor: time.Duration(r.int())}
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

// sane checks what writing an answer from an entry relies on.
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

// A reader parses an encoded entry. After the first read beyond the end it returns zeros and is marked bad.
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

// count reads the number of the elements, of size bytes each, that follow.
func (r *reader) count(size int) int {
	n := r.int()
	if n < 0 || n > math.MaxInt32 || int(n)*size > len(r.rest) {
		r.bad = true
		return 0
	}
	return int(n)
}

// mark returns what represents a token's hash in the head of a value.
func (k sealKey) mark(hash Hash) string {
	return hex.EncodeToString(k.hmac("mark", hash[:])[:markDigits/2])
}

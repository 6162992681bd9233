// Package secret holds what must never be printed: client secrets, tokens, user ids and keys.
//
// A [Value] hides its content from fmt, encoding/json, encoding.TextMarshaler and log/slog, even in an unexported field
// of another struct, where fmt would bypass its methods. The only way to the content is [Value.Reveal], so that
// reviewers can find every use by that name.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"
	"unsafe"
)

// hidden is printed instead of the content.
const hidden = "[hidden]"

// Value hides a T. The zero Value hides the zero T. It shares the memory of what it hides.
type Value[T string | []byte] struct {
	_ [0]func() // not comparable: see Equal
	// fmt uses reflection on unexported fields and follows pointers in them, but not this kind: it prints the address,
	// and the size.
	content unsafe.Pointer
	size    int
}

// header is how Go represents a string, and the beginning of a []byte.
type header struct {
	content unsafe.Pointer
	size    int
}

// Text is a hidden string.
type Text = Value[string]

// Hide wraps content.
func Hide[T string | []byte](content T) Value[T] {
	h := (*header)(unsafe.Pointer(&content)) //nolint:gosec // T begins with it
	return Value[T]{content: h.content, size: h.size}
}

// Trim returns content without surrounding white space and byte order marks, which editors, shells and manifests add.
// They are not part of a secret, nor of any other setting.
func Trim(content string) string {
	return strings.TrimFunc(content, func(r rune) bool { return unicode.IsSpace(r) || r == '\uFEFF' })
}

// Reveal returns the content.
func (v Value[T]) Reveal() T {
	h := struct {
		header
		capacity int // of a []byte
	}{header{v.content, v.size}, v.size}
	return *(*T)(unsafe.Pointer(&h)) //nolint:gosec // T is represented so
}

// Format implements [fmt.Formatter] for every verb.
func (v Value[T]) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// MarshalText implements [encoding.TextMarshaler]; encoding/json uses it too.
func (v Value[T]) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue implements [slog.LogValuer].
func (v Value[T]) LogValue() slog.Value { return slog.StringValue(hidden) }

// Equal compares in time that depends on the lengths alone.
func Equal[T string | []byte](a Text, b T) bool {
	return subtle.ConstantTimeCompare([]byte(a.Reveal()), []byte(b)) == 1
}

// String implements [fmt.Stringer].
func (v Value[T]) String() string { return hidden }

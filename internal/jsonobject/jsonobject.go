// Package jsonobject iterates over the members of a JSON object (RFC 8259).
//
// It promises: anything but one complete object, in UTF-8, of bounded depth and with nothing after it, is an error;
// every member is reported, in order, with its exact name, including repeated ones; the position of each value is
// reported, so that it can be replaced. Only strings with escapes are allocated. [encoding/json] matches names in any
// case, silently takes the last of repeated members, and costs several times as much.
package jsonobject

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// The errors of a [Scanner]. Their texts say what is wrong, and quote nothing of the scanned text.
var (
	ErrUTF8   = errors.New("is not valid UTF-8")
	ErrSyntax = errors.New("is not a complete JSON object")
	ErrDepth  = errors.New("is nested too deeply")
)

// maxDepth bounds the nesting of values, including the object itself, because each level uses stack.
const maxDepth = 100

// A Scanner iterates over the members of one object:
//
//	s := jsonobject.New(text)
//	for s.Next() {
//		use(s.Name(), s.Value())
//	}
//	if s.Err() != nil { … }
//
// Members may be used only if Err is nil in the end: otherwise the text is not a complete object.
type Scanner struct {
	text  string
	at    int
	begun bool
	ended bool
	name  string
	value Value
	err   error
}

// A Value is the value of one member, as it stands in the text.
type Value struct {
	// Raw is the value's own text, without surrounding white space.
	Raw string
	// Start is the index of Raw in the scanned text.
	Start int
}

// New returns a scanner of text.
func New(text string) *Scanner { return &Scanner{text: text} }

// Next advances to the next member. It returns false at the end, or at an error.
func (s *Scanner) Next() bool {
	if s.ended {
		return false
	}
	s.name, s.value = "", Value{}
	switch {
	case !s.begun && !utf8.ValidString(s.text):
		return s.fail(ErrUTF8)
	case !s.begun && !s.take('{'):
		return s.fail(ErrSyntax)
	case s.take('}'):
		return s.end()
	case s.begun && !s.take(','):
		return s.fail(ErrSyntax)
	}
	s.begun = true
	s.skipSpace()
	begin := s.at
	if !s.skipString() {
		return s.fail(ErrSyntax)
	}
	name, _ := Value{Raw: s.text[begin:s.at]}.Text()
	if !s.take(':') {
		return s.fail(ErrSyntax)
	}
	s.name = name
	s.skipSpace()
	begin = s.at
	if !s.skipValue(1) {
		return s.fail(ErrSyntax)
	}
	s.value = Value{Raw: s.text[begin:s.at], Start: begin}
	return true
}

// Name is the name of the member. After an error in the value of a member, it is the name of that member; after any
// other error it is empty.
func (s *Scanner) Name() string { return s.name }

// Value is the value of the member.
func (s *Scanner) Value() Value { return s.value }

// Err is why Next returned false, nil at the end of a complete object.
func (s *Scanner) Err() error { return s.err }

func (s *Scanner) fail(err error) bool {
	s.ended = true
	if s.err == nil { // there may be a more precise error already
		s.err = err
	}
	return false
}

// end is called after the object.
func (s *Scanner) end() bool {
	if s.skipSpace(); s.at < len(s.text) {
		return s.fail(ErrSyntax)
	}
	s.ended = true
	return false
}

// skipSpace moves to the next character that is not white space. Usually it is there already.
func (s *Scanner) skipSpace() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\n' || s.text[s.at] == '\t' ||
		s.text[s.at] == '\r') {
		s.at++
	}
}

// take skips c if it comes next.
func (s *Scanner) take(c byte) bool {
	s.skipSpace()
	return s.takeByte(c)
}

func (s *Scanner) takeByte(c byte) bool {
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

// takeWord skips word if it comes next.
func (s *Scanner) takeWord(word string) bool {
	if !strings.HasPrefix(s.text[s.at:], word) {
		return false
	}
	s.at += len(word)
	return true
}

// skipValue skips the next value, which is nested depth levels deep.
func (s *Scanner) skipValue(depth int) bool {
	if s.at == len(s.text) {
		return false
	}
	switch s.text[s.at] {
	case '"':
		return s.skipString()
	case 't':
		return s.takeWord("true")
	case 'f':
		return s.takeWord("false")
	case 'n':
		return s.takeWord("null")
	case '{':
		return s.skipAll('}', depth)
	case '[':
		return s.skipAll(']', depth)
	default:
		return s.skipNumber()
	}
}

// skipAll skips the rest of an object or array, including its closing bracket.
func (s *Scanner) skipAll(closing byte, depth int) bool {
	if depth == maxDepth {
		return s.fail(ErrDepth)
	}
	s.at++
	if s.take(closing) {
		return true
	}
	for {
		if s.skipSpace(); closing == '}' {
			if !s.skipString() || !s.take(':') {
				return false
			}
			s.skipSpace()
		}
		if !s.skipValue(depth + 1) {
			return false
		}
		if s.take(closing) {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *Scanner) skipString() bool {
	if !s.takeByte('"') {
		return false
	}
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.at++
		switch {
		case c == '"':
			return true
		case c < ' ':
			return false
		case c == '\\' && !s.skipEscape():
			return false
		}
	}
	return false
}

// skipEscape skips the rest of an escape, after the backslash.
func (s *Scanner) skipEscape() bool {
	if s.at == len(s.text) {
		return false
	}
	c := s.text[s.at]
	s.at++
	if c != 'u' {
		return strings.IndexByte(`"\/bfnrt`, c) >= 0
	}
	if len(s.text)-s.at < 4 || strings.Trim(s.text[s.at:s.at+4], "0123456789abcdefABCDEF") != "" {
		return false
	}
	s.at += 4
	return true
}

func (s *Scanner) skipNumber() bool {
	s.takeByte('-')
	if !s.takeByte('0') && !s.skipDigits() {
		return false
	}
	if s.takeByte('.') && !s.skipDigits() {
		return false
	}
	if !s.takeByte('e') && !s.takeByte('E') {
		return true
	}
	if !s.takeByte('+') {
		s.takeByte('-')
	}
	return s.skipDigits()
}

func (s *Scanner) skipDigits() bool {
	begin := s.at
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > begin
}

// IsNull reports whether v is null.
func (v Value) IsNull() bool { return v.Raw == "null" }

// Text returns the content of a string; ok is false for any other value. An unpaired surrogate becomes U+FFFD.
func (v Value) Text() (text string, ok bool) {
	if v.Raw == "" || v.Raw[0] != '"' {
		return "", false
	}
	if strings.IndexByte(v.Raw, '\\') < 0 {
		return v.Raw[1 : len(v.Raw)-1], true
	}
	return unescape(v.Raw)
}

// unescape is separate from Text, where its result would always be allocated.
func unescape(raw string) (text string, ok bool) {
	err := json.Unmarshal([]byte(raw), &text)
	return text, err == nil
}

// Texts returns the contents of an array of strings; ok is false for any other value.
func (v Value) Texts() (texts []string, ok bool) {
	s := Scanner{text: v.Raw}
	if !s.take('[') {
		return nil, false
	}
	for !s.take(']') {
		s.take(',')
		s.skipSpace()
		begin := s.at
		if !s.skipString() {
			return nil, false
		}
		text, _ := Value{Raw: s.text[begin:s.at]}.Text()
		texts = append(texts, text)
	}
	return texts, true
}

// Digits returns a whole number as it was written; ok is false for any other value, including numbers with a fraction
// or an exponent.
func (v Value) Digits() (digits string, ok bool) {
	digits = strings.TrimPrefix(v.Raw, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" || v.Raw == "-0" {
		return "", false
	}
	return v.Raw, true
}

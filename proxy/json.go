package proxy

import (
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// parseJSON reads an object of texts and lists of texts (RFC 8259). encoding/json would match names in any case
// and let the last of repeated fields win; and on the way to a token in memory it would be most of the work.
func (f *fields) parseJSON(body string) error {
	if !utf8.ValidString(body) {
		return &apiError{http.StatusBadRequest, codeInvalid, "the body is not valid UTF-8"}
	}
	broken := &apiError{http.StatusBadRequest, codeInvalid, "the body is no JSON object"}
	s := scanner{rest: body}
	if !s.take('{') {
		return broken
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return broken
		}
		name, ok := s.text()
		if !ok || !s.take(':') {
			return broken
		}
		if err := f.parseValue(&s, name); err != nil {
			return err
		}
	}
	if s.skipSpace(); s.rest != "" {
		return broken
	}
	return nil
}

func (f *fields) parseValue(s *scanner, name string) error {
	if name == "extra_scopes" {
		return f.parseScopes(s)
	}
	value, ok := s.text()
	if err := f.set(name, value); err != nil || ok { // an unknown field is told as such, whatever its value
		return err
	}
	return invalid(name, "is not a text")
}

func (f *fields) parseScopes(s *scanner) error {
	const name = "extra_scopes"
	if err := f.once(seenScopes, name); err != nil {
		return err
	}
	wrong := invalid(name, "is not a list of texts")
	if !s.take('[') {
		return wrong
	}
	for first := true; !s.take(']'); first = false {
		if !first && !s.take(',') {
			return wrong
		}
		scope, ok := s.text()
		if !ok {
			return wrong
		}
		if err := f.set(name, scope); err != nil {
			return err
		}
	}
	return nil
}

// scanner takes JSON apart.
type scanner struct{ rest string }

// skipSpace is for the most part called where there is none.
func (s *scanner) skipSpace() {
	for s.rest != "" && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

// take reads one character of punctuation, if it comes next.
func (s *scanner) take(c byte) bool {
	s.skipSpace()
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// text reads a string, if one comes next.
func (s *scanner) text() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	escaped := false
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			content := s.rest[:i]
			s.rest = s.rest[i+1:]
			if escaped {
				return unescapeJSON(content)
			}
			return content, true
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func unescapeJSON(content string) (text string, ok bool) {
	err := json.Unmarshal([]byte(`"`+content+`"`), &text)
	return text, err == nil
}

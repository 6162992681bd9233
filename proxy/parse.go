package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 16 << 10

// parseQuery takes a query or a form (application/x-www-form-urlencoded) apart. What net/url would drop or
// let win silently is refused: a field that is repeated, unknown or badly escaped.
func (f *fields) parseQuery(raw string) error {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, nameErr := unescape(name)
		value, valueErr := unescape(value)
		if nameErr != nil || valueErr != nil || strings.IndexByte(pair, ';') >= 0 {
			return &refusal{http.StatusBadRequest, codeInvalid, "the query or form is badly escaped; escape ; as %3B and use %XX"}
		}
		if err := f.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// parseTarget reads the query of a request that has no body.
func (f *fields) parseTarget(r *http.Request) error {
	if r.ContentLength != 0 {
		return &refusal{http.StatusBadRequest, codeInvalid, "a body is sent with POST only; put the fields into the query"}
	}
	return f.parseQuery(r.URL.RawQuery)
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	return url.QueryUnescape(s)
}

// parseBody reads the body of r as JSON or a form.
func (f *fields) parseBody(w http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery != "" {
		return &refusal{http.StatusBadRequest, codeInvalid, "the fields of a POST belong into its body; remove the query"}
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || len(r.Header["Content-Type"]) != 1 || (charset != "" && !strings.EqualFold(charset, "utf-8")) || r.Header.Get("Content-Encoding") != "" {
		return errMediaType
	}
	if kind != "application/json" && kind != "application/x-www-form-urlencoded" {
		return errMediaType
	}
	if r.ContentLength > maxBody {
		return errBodySize // before it is waited for
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errBodySize
	}
	if err != nil {
		return &refusal{http.StatusBadRequest, codeInvalid, "the body ended before it was complete"}
	}
	if kind == "application/json" {
		return f.parseJSON(body)
	}
	return f.parseQuery(string(body))
}

// parseJSON reads an object token by token, because encoding/json alone would match names in any case and let
// the last of repeated fields win.
func (f *fields) parseJSON(body []byte) error {
	broken := &refusal{http.StatusBadRequest, codeInvalid, "the body is no JSON object"}
	if !utf8.Valid(body) {
		return &refusal{http.StatusBadRequest, codeInvalid, "the body is not valid UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return broken
	}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return broken
		}
		if name == "extra_scopes" {
			err = f.parseScopes(dec)
		} else {
			err = f.parseText(dec, name)
		}
		if err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return broken
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return broken
	}
	return nil
}

func (f *fields) parseText(dec *json.Decoder, name string) error {
	token, err := dec.Token()
	if err != nil {
		return invalid(name, "is broken JSON")
	}
	value, ok := token.(string)
	if !ok {
		if err := f.set(name, ""); err != nil { // an unknown field is told as such
			return err
		}
		return invalid(name, "is not a text")
	}
	return f.set(name, value)
}

func (f *fields) parseScopes(dec *json.Decoder) error {
	const name = "extra_scopes"
	if err := f.once(seenScopes, name); err != nil {
		return err
	}
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return invalid(name, "is not a list of texts")
	}
	for dec.More() {
		token, err := dec.Token()
		scope, ok := token.(string)
		if err != nil || !ok {
			return invalid(name, "is not a list of texts")
		}
		if err := f.set(name, scope); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return invalid(name, "is not a list of texts")
	}
	return nil
}

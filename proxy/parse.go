package proxy

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
			return &apiError{http.StatusBadRequest, codeInvalid, "the query or form is badly escaped; escape ; as %3B and use %XX"}
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
		return &apiError{http.StatusBadRequest, codeInvalid, "a body is sent with POST only; put the fields into the query"}
	}
	return f.parseQuery(r.URL.RawQuery)
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s, nil
	}
	return url.QueryUnescape(s)
}

// parseBody reads the body of r as JSON or a form. Its length is known: the guard refuses Transfer-Encoding.
func (f *fields) parseBody(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return &apiError{http.StatusBadRequest, codeInvalid, "the fields of a POST belong into its body; remove the query"}
	}
	kind, err := mediaType(r.Header)
	switch {
	case err != nil:
		return err
	case r.ContentLength > maxBody:
		return errBodySize // before it is waited for
	}
	buffer, _ := buffers.Get().(*[]byte)
	defer release(buffer)
	*buffer = slices.Grow((*buffer)[:0], int(r.ContentLength))[:r.ContentLength]
	if _, err := io.ReadFull(r.Body, *buffer); err != nil {
		return &apiError{http.StatusBadRequest, codeInvalid, "the body ended before it was complete"}
	}
	if kind == jsonMedia {
		return f.parseJSON(string(*buffer))
	}
	return f.parseQuery(string(*buffer))
}

const (
	jsonMedia = "application/json"
	formMedia = "application/x-www-form-urlencoded"
)

// isJSON reports whether a Content-Type is JSON in one of the spellings that nearly everybody uses.
func isJSON(contentType string) bool {
	return contentType == jsonMedia || strings.EqualFold(contentType, jsonMedia+"; charset=utf-8") || strings.EqualFold(contentType, jsonMedia+";charset=utf-8")
}

// mediaType is which of the two the body is.
func mediaType(header http.Header) (string, error) {
	values := header["Content-Type"]
	if len(values) != 1 || header["Content-Encoding"] != nil {
		return "", errMediaType
	}
	if isJSON(values[0]) {
		return jsonMedia, nil
	}
	kind, params, err := mime.ParseMediaType(values[0])
	charset := params["charset"]
	if err != nil || (kind != jsonMedia && kind != formMedia) || (charset != "" && !strings.EqualFold(charset, "utf-8")) {
		return "", errMediaType
	}
	return kind, nil
}

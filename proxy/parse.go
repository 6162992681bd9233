package proxy

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 16 << 10

// parseQuery parses a query or a form (application/x-www-form-urlencoded). It refuses what net/url would silently drop
// or override: a field that is repeated, unknown or badly escaped.
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
			return &apiError{
				http.StatusBadRequest, codeInvalid,
				"the query or form is badly escaped; escape ; as %3B and use %XX",
			}
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

// parseBody reads the body of r as JSON or a form.
func (f *fields) parseBody(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return &apiError{http.StatusBadRequest, codeInvalid, "the fields of a POST belong into its body; remove the query"}
	}
	kind, err := mediaType(r.Header)
	if f.dropIn && r.Header["Content-Type"] == nil && r.Header["Content-Encoding"] == nil {
		kind, err = jsonMedia, nil
	}
	if err != nil {
		return err
	}
	buffer, _ := buffers.Get().(*[]byte)
	defer release(buffer)
	if err := readBody(r, buffer); err != nil {
		return err
	}
	switch {
	case kind == jsonMedia:
		return f.parseJSON(string(*buffer))
	case bytes.HasPrefix(bytes.TrimLeft(*buffer, " \t\r\n"), []byte("{")):
		return &apiError{
			http.StatusBadRequest, codeInvalid,
			"the body is JSON, but was sent as a form; send Content-Type: application/json",
		}
	default:
		return f.parseQuery(string(*buffer))
	}
}

// readBody reads the whole body of r into buffer, replacing its content.
func readBody(r *http.Request, buffer *[]byte) error {
	if r.ContentLength > maxBody {
		return errBodySize // refused without waiting for the body
	}
	var err error
	if r.ContentLength >= 0 {
		*buffer = slices.Grow((*buffer)[:0], int(r.ContentLength))[:r.ContentLength]
		_, err = io.ReadFull(r.Body, *buffer)
	} else { // chunked
		all := bytes.NewBuffer((*buffer)[:0])
		_, err = all.ReadFrom(io.LimitReader(r.Body, maxBody+1))
		*buffer = all.Bytes()
	}
	switch {
	case len(*buffer) > maxBody:
		return errBodySize
	case err != nil:
		return &apiError{http.StatusBadRequest, codeInvalid, "the body ended before it was complete"}
	}
	return nil
}

const (
	jsonMedia = "application/json"
	formMedia = "application/x-www-form-urlencoded"
)

// isJSON reports whether a Content-Type is JSON, in one of the spellings that nearly all clients use.
func isJSON(contentType string) bool {
	return contentType == jsonMedia || strings.EqualFold(contentType, jsonMedia+"; charset=utf-8") ||
		strings.EqualFold(contentType, jsonMedia+";charset=utf-8")
}

// mediaType returns which of the two types the body has.
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

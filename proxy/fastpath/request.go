package fastpath

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Request is a plain request: one in the form that most clients use, in which every byte has only one meaning. Header
// fields that are missing here were not sent, or have no meaning. All slices refer to the read buffer, and are valid
// during [Responder.Respond]; nil means not sent.
type Request struct {
	Method                     string // GET without a body or POST with one
	Path, Query                []byte // as in the request line
	Host                       []byte
	Authorization, ContentType []byte
	Body                       []byte
	Received                   time.Time
}

// readRequest reads the request at the beginning of b. size is its length including the body, which b may not contain
// completely yet; it is 0 if the length is not certain (RFC 9112, section 6.3). plain reports whether the request is
// complete and plain.
func readRequest(b []byte) (r Request, size int, plain bool) {
	line, rest, ok := cutLine(b)
	if !ok {
		return r, 0, false
	}
	method, line, _ := bytes.Cut(line, []byte(" "))
	target, ok := bytes.CutSuffix(line, []byte(" HTTP/1.1"))
	if !ok || bytes.IndexByte(target, ' ') >= 0 {
		return r, 0, false
	}
	r.Path, r.Query, _ = bytes.Cut(target, []byte("?"))
	h := header{length: -1, plain: bytes.HasPrefix(r.Path, []byte("/")) && isMadeOf(r.Path, "/_")}
	switch string(method) {
	case http.MethodGet:
		r.Method = http.MethodGet
	case http.MethodPost:
		r.Method = http.MethodPost
	case http.MethodDelete:
		r.Method, h.plain = http.MethodDelete, false
	default:
		return r, 0, false
	}
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return r, 0, false
		}
		if len(line) == 0 {
			break
		}
		if !h.add(line) {
			return r, 0, false
		}
	}
	r.Host, r.Authorization, r.ContentType = h.host, h.authorization, h.contentType
	length := max(h.length, 0)
	size = len(b) - len(rest) + length
	if len(rest) < length {
		return r, size, false
	}
	r.Body = rest[:length]
	return r, size, h.plain && h.host != nil && (h.length >= 0) == (r.Method == http.MethodPost)
}

// cutLine cuts b after its first line, which must contain only printable ASCII and end with CR LF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 1 || b[end-1] != '\r' {
		return nil, nil, false
	}
	line, rest = b[:end-1], b[end+1:]
	return line, rest, printable(line)
}

// printable reports whether b contains only printable ASCII. It checks eight bytes at once: each must have its highest
// bit clear, also after 1 is added, which sets it for DEL, and after a space is subtracted, which sets it for what is
// less. Only a byte that fails can carry into the next one, or borrow from it.
func printable(b []byte) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		if x := binary.LittleEndian.Uint64(b); (x|(x+each)|(x-each*' '))&high != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// A header collects the header fields of a request.
type header struct {
	host, authorization, contentType []byte
	length                           int // of the body; -1: not sent
	plain                            bool
}

// add adds a line, and reports whether the length of the request is still certain.
func (h *header) add(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return false
	}
	value = bytes.Trim(value, " ")
	switch string(name) {
	case "Host", "host":
		h.once(&h.host, value)
		h.plain = h.plain && isMadeOf(value, "-.:[]")
	case "Authorization", "authorization":
		h.once(&h.authorization, value)
	case "Content-Type", "content-type":
		h.once(&h.contentType, value)
	case "Content-Length", "content-length":
		return h.addLength(value)
	case "Connection", "connection":
		h.plain = h.plain && (string(value) == "keep-alive" || string(value) == "Keep-Alive")
	case "User-Agent", "user-agent", "Accept", "accept", "Accept-Encoding", "accept-encoding",
		"Accept-Language", "accept-language", "Sec-Fetch-Mode", "sec-fetch-mode",
		"Traceparent", "traceparent", "Tracestate", "tracestate", "Baggage", "baggage":
		// These have no meaning here. A client that sends fields not on this list is served just as well, but slower.
	default:
		h.plain = false
		lower := strings.ToLower(string(name))
		return isMadeOf(name, "-_") && lower != "transfer-encoding" && lower != "content-length"
	}
	return true
}

func (h *header) once(field *[]byte, value []byte) {
	h.plain = h.plain && *field == nil && len(value) > 0
	*field = value
}

func (h *header) addLength(value []byte) bool {
	if h.length >= 0 || len(value) > 9 {
		return false
	}
	length, err := strconv.ParseUint(string(value), 10, 31) // no sign, no space
	h.length = int(length)
	return err == nil
}

// isMadeOf reports whether b contains only letters, digits and others.
func isMadeOf(b []byte, others string) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

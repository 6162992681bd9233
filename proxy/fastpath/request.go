package fastpath

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Request is a plain one: of the one shape that most clients give a request, in which every byte has only one
// meaning. Header fields that are not here were not sent, or have no meaning. All slices are views of what was read,
// valid during [Responder.Respond]; nil: not sent.
type Request struct {
	Method                     string // GET without a body or POST with one
	Path, Query                []byte // as in the request line
	Host                       []byte
	Authorization, ContentType []byte
	Body                       []byte
	Received                   time.Time
}

// readRequest reads the request that b begins with. size is its length with its body, of which b may not hold all yet;
// 0 when that is not certain (RFC 9112, section 6.3). plain reports whether it is there as a whole, and plain.
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

// cutLine cuts b behind its first line, which has to hold nothing but printable ASCII, and to end with CR LF.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 1 || b[end-1] != '\r' {
		return nil, nil, false
	}
	line, rest = b[:end-1], b[end+1:]
	for _, c := range line {
		if c < ' ' || c > '~' {
			return nil, nil, false
		}
	}
	return line, rest, true
}

// A header gathers the header fields of a request.
type header struct {
	host, authorization, contentType []byte
	length                           int // of the body; -1: not sent
	plain                            bool
}

// add adds a line, and reports whether it leaves the length of the request certain.
func (h *header) add(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isMadeOf(name, "-_") {
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
		// Without a meaning here. A client that sends fields that are not on this list is served no worse, but more
		// slowly.
	default:
		h.plain = false
		lower := strings.ToLower(string(name))
		return lower != "transfer-encoding" && lower != "content-length"
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

// isMadeOf reports whether b holds letters, digits and others, and nothing else.
func isMadeOf(b []byte, others string) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

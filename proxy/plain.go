package proxy

import (
	"bytes"
	"strconv"
	"strings"
)

// A plainRequest is a request in the one shape that most clients give it, in which every byte has only one meaning.
// Its parts are views of what it was read from.
type plainRequest struct {
	post                                   bool
	path, query, host, authorization, body []byte
}

// readPlain reads the request that b begins with. size is how long it is, its body included, of which b may not have all
// yet; 0 when that is not certain (RFC 9112, section 6.3). plain reports whether all of it is there, and plain.
func readPlain(b []byte) (r plainRequest, size int, plain bool) {
	line, rest, ok := cutLine(b)
	if !ok {
		return r, 0, false
	}
	method, line, _ := bytes.Cut(line, []byte(" "))
	target, ok := bytes.CutSuffix(line, []byte(" HTTP/1.1"))
	if !ok || bytes.IndexByte(target, ' ') >= 0 {
		return r, 0, false
	}
	r.path, r.query, _ = bytes.Cut(target, []byte("?"))
	h := plainHead{length: -1, plain: bytes.HasPrefix(r.path, []byte("/")) && isMadeOf(r.path, "/_")}
	switch string(method) {
	case "GET":
	case "POST":
		r.post = true
	case "DELETE":
		h.plain = false
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
		if !h.take(line) {
			return r, 0, false
		}
	}
	r.host, r.authorization = h.host, h.authorization
	length := max(h.length, 0)
	size = len(b) - len(rest) + length
	if len(rest) < length {
		return r, size, false
	}
	r.body = rest[:length]
	return r, size, h.plain && h.host != nil && h.json == r.post && (h.length >= 0) == r.post
}

// cutLine cuts b behind its first line, which holds nothing but printable ASCII and has a proper end.
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

// A plainHead is made of the header lines of a request.
type plainHead struct {
	host, authorization []byte
	length              int // -1: none
	json                bool
	plain               bool
}

// take takes a line in, and reports whether it leaves the length of the request certain.
func (h *plainHead) take(line []byte) bool {
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
		h.plain = h.plain && !h.json && isJSON(string(value))
		h.json = true
	case "Content-Length", "content-length":
		return h.takeLength(value)
	case "Connection", "connection":
		h.plain = h.plain && (string(value) == "keep-alive" || string(value) == "Keep-Alive")
	case "User-Agent", "user-agent", "Accept", "accept", "Accept-Encoding", "accept-encoding", "Accept-Language", "accept-language",
		"Traceparent", "traceparent", "Tracestate", "tracestate", "Baggage", "baggage", "Sec-Fetch-Mode", "sec-fetch-mode":
		// Without a meaning here. A client that sends what is not on this list is served no worse, but more slowly.
	default:
		h.plain = false
		lower := strings.ToLower(string(name))
		return lower != "transfer-encoding" && lower != "content-length"
	}
	return true
}

func (h *plainHead) once(part *[]byte, value []byte) {
	h.plain = h.plain && *part == nil && len(value) > 0
	*part = value
}

func (h *plainHead) takeLength(value []byte) bool {
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

package proxy

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"token-sidecar/cache"
	"token-sidecar/proxy/vend"
)

// Header values that never change are shared by all answers, to save allocations.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
)

// buffers hold bodies while they are read or written; see release.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

// release returns a buffer to the pool, without the secrets that were in it.
func release(buffer *[]byte) {
	clear(*buffer)
	buffers.Put(buffer)
}

// writeToken answers with a token: the auth service's own JSON, with each lifetime lowered to what is left of it.
func (h *Handler) writeToken(w http.ResponseWriter, t vend.Token) {
	age := t.Age()
	buffer, _ := buffers.Get().(*[]byte)
	defer release(buffer)
	*buffer = render((*buffer)[:0], t.Entry, age)
	header := w.Header()
	header["Content-Type"] = jsonType
	header["Cache-Control"] = noStore
	// The two values that differ between answers share one string and one array, to save allocations.
	b := appendCacheStatus(make([]byte, 0, 80), t, vend.SecondsLeft(t.Entry.Life, age))
	end := len(b)
	text := string(strconv.AppendInt(b, int64(len(*buffer)), 10))
	values := []string{text[:end], text[end:]}
	header["Cache-Status"], header["Content-Length"] = values[:1:1], values[1:]
	_, _ = w.Write(*buffer)
}

// render appends the body of e to b, with the lifetimes that are left at that age.
func render(b []byte, e *cache.Entry, age time.Duration) []byte {
	body, at := e.Body.Reveal(), 0
	for _, hole := range e.Holes() {
		b = append(b, body[at:hole.Start]...)
		b = strconv.AppendInt(b, vend.SecondsLeft(hole.Life, age), 10)
		at = hole.End
	}
	return append(b, body[at:]...)
}

// appendCacheStatus appends the value of the Cache-Status header (RFC 9211).
func appendCacheStatus(b []byte, t vend.Token, ttl int64) []byte {
	switch {
	case t.From != cache.None:
		b = strconv.AppendInt(append(b, "token-sidecar; hit; ttl="...), ttl, 10)
		return append(append(b, "; detail="...), t.From...)
	case t.Collapsed:
		return append(b, "token-sidecar; fwd=miss; collapsed"...)
	default:
		return append(b, "token-sidecar; fwd=miss"...)
	}
}

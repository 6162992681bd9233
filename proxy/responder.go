package proxy

import (
	"context"
	"net/http"

	"token-sidecar/proxy/fastpath"
	"token-sidecar/proxy/vend"
)

// A responder answers on the fast path: requests for tokens in memory, from callers who pass the guards. Everything
// else, from an invalid request to a token that must be fetched, is left to the Handler.
type responder struct{ *Handler }

// Respond implements [fastpath.Responder].
func (h responder) Respond(r fastpath.Request, a *fastpath.Answer) bool {
	if h.Draining() || !h.guard.admits(r.Host, r.Authorization) {
		return false
	}
	t, ok := h.known(&r)
	if !ok {
		return false
	}
	age := t.Age()
	a.Body = render(a.Body, t.Entry, age)
	a.Set("Cache-Control", []byte(noStore[0]))
	a.Set("Cache-Status", appendCacheStatus(make([]byte, 0, 64), t, vend.SecondsLeft(t.Entry.Life, age)))
	a.Set("Content-Type", []byte(jsonType[0]))
	h.done(context.Background(), ending{
		outcome: hitMemory, status: http.StatusOK, method: r.Method, route: route(string(r.Path)),
	}, r.Received)
	return true
}

// known returns the token that r asks for, if memory has it.
func (h responder) known(r *fastpath.Request) (t vend.Token, ok bool) {
	path, f, ok := h.call(string(r.Path))
	post := r.Method == http.MethodPost
	var err error
	switch {
	case ok && post && len(r.Query) == 0 && isJSON(string(r.ContentType)):
		err = f.parseJSON(string(r.Body))
	case ok && !post && !f.dropIn:
		err = f.parseQuery(string(r.Query))
	default:
		return vend.Token{}, false
	}
	if err != nil {
		return vend.Token{}, false
	}
	req, err := h.request(&f, path)
	if err != nil {
		return vend.Token{}, false
	}
	return h.broker.Known(r.Received, req)
}

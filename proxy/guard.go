package proxy

import (
	"net/http"
	"strings"

	"token-sidecar/internal/secret"
)

// A guard refuses requests that no container of the pod sends intentionally, before anything else is done with them.
type guard struct {
	// token, if set, is required from callers.
	token *secret.File
	// anyHost skips the Host check: callers that use a socket file or come over the network name other hosts.
	anyHost bool
}

// check returns why r is refused, nil if it is not.
func (g guard) check(r *http.Request) error {
	h, framed := r.Header, wellFramed(r)
	switch {
	case !g.anyHost && !localHost(r.Host):
		return &apiError{http.StatusMisdirectedRequest, "MISDIRECTED_HOST", "Host must be localhost, 127.0.0.1 or [::1]"}
	case h["X-Forwarded-For"] != nil, h["Forwarded"] != nil, h["X-Real-Ip"] != nil:
		return notAllowed("forwarded requests are refused; ask the sidecar directly")
	case !framed:
		return errSmuggling
	case h["Origin"] != nil, !sameSite(h["Sec-Fetch-Site"]):
		return notAllowed("requests of web pages are refused")
	}
	if g.token == nil {
		return nil
	}
	if shown := h["Authorization"]; len(shown) == 1 {
		if g.trusts([]byte(shown[0])) {
			return nil
		}
		g.token.Reload() // the caller may have read the new one already
		if g.trusts([]byte(shown[0])) {
			return nil
		}
	}
	return &apiError{
		http.StatusUnauthorized, codeTokenRequired,
		"send Authorization: Bearer with the token of CALLER_TOKEN_FILE",
	}
}

// admits reports whether check would accept a request with these headers and none of those that are refused.
func (g guard) admits(host, authorization []byte) bool {
	return (g.anyHost || localHost(string(host))) && (g.token == nil || g.trusts(authorization))
}

// trusts reports whether an Authorization header contains the caller token.
func (g guard) trusts(authorization []byte) bool {
	return len(authorization) > 7 && strings.EqualFold(string(authorization[:7]), "Bearer ") &&
		secret.Equal(g.token.Text(), authorization[7:])
}

func notAllowed(message string) error {
	return &apiError{http.StatusForbidden, "CALLER_NOT_ALLOWED", message}
}

func sameSite(values []string) bool {
	for _, value := range values {
		if value != "none" && value != "same-origin" {
			return false
		}
	}
	return true
}

// localHost reports whether host is one of the three names of this pod, with or without a port.
func localHost(host string) bool {
	name := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name = host[:i]
		port := host[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	return name == "127.0.0.1" || name == "[::1]" || strings.EqualFold(name, "localhost")
}

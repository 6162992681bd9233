package admin

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// maxConns bounds the open connections, so that the admin port cannot take noticeable resources from callers.
const maxConns = 64

// maxHeader bounds the head of a request to 8 KiB, including the 4 KiB that net/http adds.
const maxHeader = 4 << 10

// guard refuses requests that no probe, scraper or operator sends: those to a host name rather than an address (DNS
// rebinding), and those from other web pages.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !isAddress(r.Host):
			say(w, http.StatusMisdirectedRequest, "Host must be an IP address or localhost")
		case r.Header["Origin"] != nil, slices.Contains(r.Header["Sec-Fetch-Site"], "cross-site"):
			say(w, http.StatusForbidden, "requests of other web pages are refused")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isAddress reports whether host, with or without a port, is an IP address or localhost.
func isAddress(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	_, err = netip.ParseAddr(name)
	return err == nil || strings.EqualFold(name, "localhost")
}

// A limiter closes the connection that has been inactive for the longest when there are more than maxConns. If the new
// connection had to wait instead, a flood would keep probes out, and the pod would be restarted.
type limiter struct {
	mu sync.Mutex
	// conns are the open connections, the most recently active one last.
	conns []net.Conn
}

// follow is the server's [http.Server.ConnState].
func (l *limiter) follow(conn net.Conn, state http.ConnState) {
	if oldest := l.move(conn, state); oldest != nil {
		_ = oldest.Close()
	}
}

// move puts conn last, and returns the connection to close.
func (l *limiter) move(conn net.Conn, state http.ConnState) (oldest net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.conns, conn); i >= 0 {
		l.conns = slices.Delete(l.conns, i, i+1)
	}
	if state == http.StateClosed || state == http.StateHijacked {
		return nil
	}
	if l.conns = append(l.conns, conn); len(l.conns) > maxConns {
		oldest = l.conns[0]
		l.conns = l.conns[1:]
	}
	return oldest
}

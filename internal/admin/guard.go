package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// maxConns bounds the open connections, so that the admin port cannot take noticeable memory from callers.
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

// A limiter closes a connection when there are more than maxConns: of the address with the most connections, the one
// that has been inactive for the longest. If the new connection had to wait instead, a flood would keep probes out, and
// the pod would be restarted.
type limiter struct {
	mu sync.Mutex
	// peers are the open connections, the most recently active one last.
	peers []peer
}

// A peer is the other end of an open connection.
type peer struct {
	conn net.Conn
	host string
	// leave ends the contexts of its requests. They would not notice that conn is closed if another request has been
	// sent already.
	leave context.CancelFunc
}

// admit is the server's [http.Server.ConnContext].
func (l *limiter) admit(ctx context.Context, conn net.Conn) context.Context {
	ctx, leave := context.WithCancel(ctx)
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil { // a Unix socket
		host = ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers = append(l.peers, peer{conn, host, leave})
	if len(l.peers) > maxConns {
		i := l.excess()
		l.peers[i].leave()
		_ = l.peers[i].conn.Close()
		l.peers = slices.Delete(l.peers, i, i+1)
	}
	return ctx
}

// excess returns the index of the connection to close.
func (l *limiter) excess() (index int) {
	count := make(map[string]int)
	most := 0
	for _, p := range l.peers {
		count[p.host]++
		most = max(most, count[p.host])
	}
	return slices.IndexFunc(l.peers, func(p peer) bool { return count[p.host] == most })
}

// follow is the server's [http.Server.ConnState].
func (l *limiter) follow(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.peers, func(p peer) bool { return p.conn == conn })
	if i < 0 {
		return // it has been closed
	}
	p := l.peers[i]
	l.peers = slices.Delete(l.peers, i, i+1)
	if state == http.StateClosed || state == http.StateHijacked {
		p.leave()
		return
	}
	l.peers = append(l.peers, p)
}

package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"token-sidecar/proxy/fastpath"
)

// ServerOptions configure a [Server]. Handler is required.
type ServerOptions struct {
	Handler *Handler
	// Outer, if set, is served instead of Handler, which it wraps. It needs to see every request, so it turns the fast
	// path off. So does an audit log, because every answer must wait for its line.
	Outer http.Handler
	// NoFastPath leaves every request to net/http.
	NoFastPath bool
	// MaxConns bounds the open connections; further ones wait. Default: 65,536.
	MaxConns int
	// Log defaults to none.
	Log *slog.Logger
}

// A Server serves a [Handler] to callers. It cuts off those that send too slowly, too much, or nothing.
type Server struct {
	handler *Handler
	http    *http.Server
	fast    *fastpath.Path // nil: turned off
	open    chan struct{}  // one element for each open connection
	closing chan struct{}  // closed with the listeners
	close   sync.Once

	mu        sync.Mutex
	listeners []net.Listener
}

// NewServer returns a server that listens nowhere yet.
func NewServer(o ServerOptions) *Server {
	if o.Outer == nil {
		o.Outer = o.Handler
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	conns := cmp.Or(o.MaxConns, 1<<16)
	s := &Server{handler: o.Handler, open: make(chan struct{}, conns), closing: make(chan struct{}), http: &http.Server{
		Handler:                      o.Outer,
		ReadTimeout:                  10 * time.Second, // also limits the header; a separate limit would cost another timer
		WriteTimeout:                 o.Handler.broker.Longest() + 15*time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               16 << 10,
		DisableGeneralOptionsHandler: true,
		ConnContext:                  withConn,
		ErrorLog:                     slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}}
	if !o.NoFastPath && o.Outer == http.Handler(o.Handler) && o.Handler.opts.Audit == nil {
		s.fast = fastpath.New(s.http, responder{o.Handler})
		follow := s.http.ConnState
		s.http.ConnState = func(conn net.Conn, state http.ConnState) {
			if framed, ok := conn.(*framedConn); ok {
				follow(framed.Conn, state) // the connection that the fast path wrapped
			}
		}
	}
	return s
}

// HasFastPath reports whether requests may be answered below net/http.
func (s *Server) HasFastPath() bool { return s.fast != nil }

// Serve serves what listener accepts until s is shut down.
func (s *Server) Serve(listener net.Listener) error {
	s.mu.Lock()
	s.listeners = append(s.listeners, listener)
	s.mu.Unlock()
	if s.fast != nil {
		listener = s.fast.Listener(listener)
	}
	err := s.http.Serve(framedListener{listener, s.open, s.closing})
	select {
	case <-s.closing:
		return http.ErrServerClosed
	default:
		return err
	}
}

// farewell is how long new callers are told that the sidecar is shutting down; and then, with the listeners closed, how
// long callers on open connections are told before these are closed.
const farewell = 500 * time.Millisecond

// Shutdown ends s and its Handler in the order that a pod needs. New requests are refused while those in progress are
// answered, within the limit of ctx. Every answer says that its connection is closing, so that busy callers see no
// reset. Then the listeners close, and once all callers have been told, so do the connections. The error is that of ctx
// if an answer was cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.handler.Drain()
	s.bidFarewell(ctx)
	s.closeListeners()
	s.bidFarewell(ctx) // a caller who had just connected would find the connection closed
	cut := s.inProgress()
	err := s.http.Shutdown(ctx)
	if err == nil && cut {
		err = ctx.Err() // net/http does not know about these requests
	}
	if err != nil {
		_ = s.http.Close()
	}
	s.handler.Close()
	return err
}

// bidFarewell waits until no request is in progress and no connection is open; for the connections it waits no longer
// than farewell.
func (s *Server) bidFarewell(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	told, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	for ctx.Err() == nil && (s.inProgress() || len(s.open) > 0 && told.Err() == nil) {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close.Do(func() { close(s.closing) })
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// inProgress reports whether there are requests, including those that net/http does not know about.
func (s *Server) inProgress() bool {
	return s.handler.InProgress() > 0 || s.fast != nil && s.fast.InProgress() > 0
}

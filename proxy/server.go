package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"token-sidecar/proxy/fastpath"
)

// ServerOptions configure a [Server]. Handler is required.
type ServerOptions struct {
	Handler *Handler
	// Outer is served in place of Handler, which it wraps. Default: Handler. Another one wants to see every request,
	// so there is no fast path, and neither is there with an audit log, for which every answer has to wait.
	Outer http.Handler
	// NoFastPath leaves every request to net/http.
	NoFastPath bool
	// Log defaults to none.
	Log *slog.Logger
}

// A Server serves a [Handler] to callers. Whoever sends slowly, much, or nothing is cut off.
type Server struct {
	handler *Handler
	http    *http.Server
	fast    *fastpath.Path // nil: there is none
	open    atomic.Int64   // connections

	mu        sync.Mutex
	listeners []net.Listener
	closing   bool
}

// NewServer returns a server that listens nowhere yet.
func NewServer(o ServerOptions) *Server {
	if o.Outer == nil {
		o.Outer = o.Handler
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{handler: o.Handler, http: &http.Server{
		Handler:                      o.Outer,
		ReadTimeout:                  10 * time.Second, // of the header too: another limit would cost another timer
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
				follow(framed.Conn, state) // the one that the fast path made
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
	err := s.http.Serve(framedListener{listener, &s.open})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return http.ErrServerClosed
	}
	return err
}

// farewell is how long new callers are told that the sidecar ends, and after that, when nobody can come any more, how
// long those who keep their connections are, before these are closed.
const farewell = 500 * time.Millisecond

// Shutdown ends s, and its Handler, in the order a pod needs: what comes is refused while what is in progress is
// answered, within the limit of ctx; every answer says that its connection ends, so that busy callers see no reset;
// then nobody new is let in, and when all have been told, the connections close. The error is that of ctx if an answer
// was cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.handler.Drain()
	s.bidFarewell(ctx)
	s.closeListeners()
	s.bidFarewell(ctx) // whoever came last would find the connection closed
	cut := s.inProgress()
	err := s.http.Shutdown(ctx)
	if err == nil && cut {
		err = ctx.Err() // net/http does not know of them
	}
	if err != nil {
		_ = s.http.Close()
	}
	s.handler.Close()
	return err
}

// bidFarewell waits until no request is in progress and no connection is open, for the latter only so long.
func (s *Server) bidFarewell(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	told, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	for ctx.Err() == nil && (s.inProgress() || s.open.Load() > 0 && told.Err() == nil) {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// inProgress reports whether there are requests that net/http, too, may not know of yet.
func (s *Server) inProgress() bool {
	return s.handler.InProgress() > 0 || s.fast != nil && s.fast.InProgress() > 0
}

// Close ends s at once, but not its Handler.
func (s *Server) Close() error { return s.http.Close() }

package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"token-sidecar/internal/admin"
	"token-sidecar/internal/settings"
	"token-sidecar/proxy"
)

// servers are the two running servers.
type servers struct {
	tokens *proxy.Server
	admin  *http.Server
	failed chan error
}

func listen(ctx context.Context, s settings.Settings, handler *proxy.Handler, traced, adminHandler http.Handler,
	log *slog.Logger,
) (*servers, error) {
	adminListener, err := proxy.Listen(ctx, s.AdminAddr)
	if err != nil {
		return nil, fmt.Errorf("ADMIN_ADDR: %w", err)
	}
	listener, err := proxy.Listen(ctx, s.ListenAddr)
	if err != nil {
		_ = adminListener.Close()
		return nil, fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	v := &servers{
		tokens: proxy.NewServer(proxy.ServerOptions{
			Handler: handler, Outer: traced, NoFastPath: !s.FastPath, Log: log,
			MaxConns: 2*s.MaxConcurrentRequests + 64, // more than requests, because idle connections count too
		}),
		admin: admin.NewServer(adminHandler, log), failed: make(chan error, 2),
	}
	go func() { v.failed <- v.tokens.Serve(listener) }()
	go func() { v.failed <- v.admin.Serve(adminListener) }()
	return v, nil
}

// patience says how the end is delayed.
type patience struct {
	delay time.Duration // during which everything is still served
	limit time.Duration // after delay, for requests in progress
	begin func()        // called before delay
}

// run waits for ctx to end, or a listener to fail, and then drains.
func (v *servers) run(ctx context.Context, end patience, log *slog.Logger) error {
	var failure error
	select {
	case <-ctx.Done():
		failure = v.stay(end, log)
	case failure = <-v.failed:
	}
	log.Info("draining: requests in progress are answered, new ones refused")
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), end.limit)
	defer cancel()
	if err := v.tokens.Shutdown(limit); err != nil {
		log.Warn("requests were cut off: they took longer than SHUTDOWN_TIMEOUT")
	}
	_ = v.admin.Close()
	log.Info("stopped")
	return failure
}

// stay continues to serve for a while, because the app may be draining at the same time.
func (v *servers) stay(end patience, log *slog.Logger) error {
	end.begin()
	if end.delay <= 0 {
		return nil
	}
	log.Info("leaving: everything is served until SHUTDOWN_DELAY has passed", slog.Duration("delay", end.delay))
	timer := time.NewTimer(end.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-v.failed:
		return err
	}
}

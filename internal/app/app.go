// Package app builds the parts of the sidecar from its settings, runs them, and stops them in order.
package app

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"token-sidecar/cache"
	"token-sidecar/internal/admin"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/tracing"
	"token-sidecar/proxy"
	"token-sidecar/upstream"
)

// Parts are the connected parts of a sidecar that does not listen yet.
type Parts struct {
	Handler *proxy.Handler
	Tokens  *cache.Cache
	Source  *upstream.Client
	Audit   *audit.Trail // nil: no audit log is configured
	files   files
	status  *status
}

// Options configure what [NewParts] does not take from the settings. All are optional.
type Options struct {
	// Traces is off by default.
	Traces tracing.Tracing
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
	// Environ, in the format of [os.Environ], may name the pod.
	Environ []string
	// Wall is the wall clock. Default [time.Now].
	Wall func() time.Time
}

// NewParts makes the parts of a sidecar. Errors name the setting and the remedy.
func NewParts(s settings.Settings, o Options) (*Parts, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if s.GenerateCallerToken {
		if err := secret.Generate("CALLER_TOKEN_FILE", s.CallerTokenFile); err != nil {
			return nil, err
		}
	}
	files, err := openFiles(s, o.Log)
	if err != nil {
		return nil, err
	}
	cacheOptions, err := cacheOptions(s, files, o)
	if err != nil {
		return nil, err
	}
	if err := o.Traces.Redis(cacheOptions.Client); err != nil {
		return nil, err
	}
	trail, err := newTrail(s, files, o)
	if err != nil {
		return nil, err
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(newBuildInfo(s))
	}
	p := &Parts{Tokens: cache.New(cacheOptions), Audit: trail, files: files}
	p.Source = newUpstream(s, files, newGate(p.Tokens, s.AuthURL, s.ClientID), o)
	p.Handler = newHandler(s, p, o)
	p.status = newStatus(s, p, o)
	return p, nil
}

// Close ends the background work and closes the connections. No request may be in progress.
func (p *Parts) Close() {
	p.Handler.Close()
	p.Source.Close()
	p.Tokens.Close()
	if p.Audit != nil {
		p.Audit.Close()
	}
}

// reopen opens files again that may have been moved away.
func (p *Parts) reopen() {
	if p.Audit != nil {
		p.Audit.Reopen()
	}
}

// A Process is what [Serve] needs from its process.
type Process struct {
	// Environ has the format of [os.Environ]. The OpenTelemetry variables are read from it.
	Environ []string
	// Log is where the log is written. A slow reader delays nothing.
	Log io.Writer
	// Reload makes all files be read again on each signal. May be nil.
	Reload <-chan os.Signal
}

// Serve runs the sidecar until ctx ends, and then drains it. [Load] must have accepted s.
func Serve(ctx context.Context, s settings.Settings, process Process) error {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	log, closeLog := NewLog(process.Log, s, metrics)
	defer closeLog()
	for _, stranger := range Strangers(process.Environ) {
		log.Warn("a variable looks like a mistyped setting", slog.String("hint", stranger.String()))
	}
	limitMemory(log, process.Environ)
	traces, err := tracing.Start(ctx, process.Environ, version, log)
	if err != nil {
		return err
	}
	defer traces.Stop(context.WithoutCancel(ctx))
	parts, err := NewParts(s, Options{Traces: traces, Registerer: metrics, Log: log, Environ: process.Environ})
	if err != nil {
		return err
	}
	defer parts.Close()

	status := parts.status
	servers, err := listen(ctx, s, parts.Handler, traces.Handler(parts.Handler),
		admin.New(admin.Options{Ready: status.ready, Metrics: metrics, Status: status.get}), log)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	for _, file := range parts.files.all() {
		background.Go(func() { file.Watch(running) })
	}
	background.Go(func() { parts.files.reloadAt(running, process.Reload, parts.reopen, log) })
	background.Go(func() { status.history.Run(running) })
	background.Go(func() { status.watcher.Run(running) })
	status.started.Store(true)
	logStart(log, s, servers.tokens.HasFastPath())
	return servers.run(ctx, patience{
		delay: s.ShutdownDelay, limit: s.ShutdownTimeout, begin: func() { status.leaving.Store(true) },
	}, log)
}

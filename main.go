// Token-sidecar vends Human API tokens to the containers of its own pod, so that the client secret stays in
// one place and the auth service is asked once per token.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"token-sidecar/admin"
	"token-sidecar/cache"
	"token-sidecar/commands"
	"token-sidecar/settings"
	"token-sidecar/tracing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Set by the linker.
var version, commit = "dev", "unknown"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal drains; a second one, back at its default, ends the process at once.
	context.AfterFunc(ctx, stop)
	return commands.Run(ctx, commands.Options{
		Args: os.Args[1:], Environ: settings.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
		Version: version, Commit: commit, Go: runtime.Version(), Serve: serve, RefreshToken: refreshToken,
	})
}

// serve builds the parts, runs them until ctx ends, and lets go of them in order.
func serve(ctx context.Context, s settings.Settings, _, errs io.Writer) error {
	log := newLog(errs, s)
	limitMemory(log)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newBuildInfo(s))

	traces, err := tracing.Start(ctx, settings.Environ(), version, log)
	if err != nil {
		return err
	}
	defer traces.Stop(context.WithoutCancel(ctx))
	files, err := openFiles(s, log)
	if err != nil {
		return err
	}
	cacheOptions, err := cacheOptions(s, files, metrics, log)
	if err != nil {
		return err
	}
	if err := traces.Redis(cacheOptions.Client); err != nil {
		return err
	}
	tokens := cache.New(cacheOptions) //nolint:contextcheck // it outlives ctx, to drain
	defer tokens.Close()
	source, err := newUpstream(s, files, traces.Transport, metrics, log)
	if err != nil {
		return err
	}
	defer source.Close()
	handler := newHandler(s, files, tokens, source, metrics, log)

	status := newStatus(s, handler, source, tokens)
	servers, err := listen(ctx, s, handler, traces.Handler(handler), admin.New(admin.Options{Ready: status.ready, Metrics: metrics, Status: status.get}), log)
	if err != nil {
		handler.Close()
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	for _, file := range files.all() {
		background.Go(func() { file.Watch(running) })
	}
	background.Go(func() { status.history.Run(running) })
	status.started.Store(true)
	log.Info("serving", slog.String("version", version), slog.String("listen_addr", s.ListenAddr), slog.String("admin_addr", s.AdminAddr))
	return servers.run(ctx, handler, s.ShutdownTimeout, log)
}

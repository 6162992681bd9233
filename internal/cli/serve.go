package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/tracing"
	"token-sidecar/proxy"
	"token-sidecar/upstream/sandbox"
)

// defaultSandboxAddr is where the emulator listens.
const defaultSandboxAddr = "127.0.0.1:8090"

func newServe(p Process) *cobra.Command {
	var emulate bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar (the default)",
		Args:  noArgs,
		Example: "  token-sidecar serve --sandbox      try it, no settings needed\n" +
			"  HUMANAPI_CLIENT_ID=… HUMANAPI_CLIENT_SECRET_FILE=… token-sidecar",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if emulate {
				return serveSandbox(cmd.Context(), p, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			s, err := load(p.Environ)
			if err != nil {
				return settingsError(err)
			}
			return app.Serve(cmd.Context(), s, p.Environ, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&emulate, "sandbox", false, "use a built-in emulator of the auth service, needs no settings")
	return cmd
}

// load reads all settings, those of tracing too.
func load(environ []string) (settings.Settings, error) {
	s, err := settings.Load(environ)
	return s, errors.Join(err, tracing.Check(environ))
}

// settingsError introduces the mistakes that were found.
func settingsError(err error) error {
	return fmt.Errorf("the settings have mistakes:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))
}

// serveSandbox runs the sidecar with the emulator as its auth service.
func serveSandbox(ctx context.Context, p Process, out, errs io.Writer) error {
	listener, err := proxy.Listen(ctx, defaultSandboxAddr)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	overridden := []string{"HUMANAPI_CLIENT_SECRET_FILE="}
	overridden = append(overridden, "HUMANAPI_AUTH_URL=http://"+defaultSandboxAddr,
		"HUMANAPI_CLIENT_ID="+sandbox.DefaultClientID, "HUMANAPI_CLIENT_SECRET="+sandbox.DefaultClientSecret)
	environ := append([]string{"ADMIN_ADDR=127.0.0.1:8081", "LOG_FORMAT=text"}, p.Environ...)
	s, err := load(append(environ, overridden...))
	if err != nil {
		_ = listener.Close()
		return settingsError(err)
	}
	stop := serveEmulator(listener, sandbox.New(sandbox.Options{}))
	defer stop()
	if !strings.HasPrefix(s.ListenAddr, "unix://") {
		_, _ = fmt.Fprintf(out, "%s\n", whatToTry(s))
	}
	return app.Serve(ctx, s, p.Environ, errs)
}

func whatToTry(s settings.Settings) string {
	at := "http://" + dialable(s.ListenAddr)
	return fmt.Sprintf(`The sidecar runs against a built-in emulator of the auth service. Try, in another terminal:

  a token:              curl -i '%[1]s/token?client_user_id=alice'
  again, from memory:   curl -i '%[1]s/token?client_user_id=alice'
  a refusal:            curl -i '%[1]s/token?client_user_id=unknown-bob'
  an outage:            curl -X PUT http://%[2]s/sandbox -d '{"status":500}'
  its end:              curl -X PUT http://%[2]s/sandbox -d '{}'
  how it does:          open http://%[3]s/ in a browser

Ctrl-C stops it.
`, at, defaultSandboxAddr, dialable(s.AdminAddr))
}

func newSandbox(p Process) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:     "sandbox",
		Short:   "Run the emulator of the auth service alone",
		Long:    "Run the emulator of the auth service alone, for the integration tests of other services.\nGET and PUT /sandbox show and set how it behaves.",
		Example: "  token-sidecar sandbox --addr 127.0.0.1:8090",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listener, err := proxy.Listen(cmd.Context(), addr)
			if err != nil {
				return fmt.Errorf("--addr: %w", err)
			}
			_, _ = fmt.Fprintf(p.Stdout,
				"The emulator of the auth service listens on http://%s\nclient_id %s, client_secret %s\n",
				listener.Addr(), sandbox.DefaultClientID, sandbox.DefaultClientSecret)
			stop := serveEmulator(listener, sandbox.New(sandbox.Options{}))
			<-cmd.Context().Done()
			stop()
			return nil
		},
	}
	cmd.Flags().StringVar(&addr, "addr", defaultSandboxAddr, "host:port to listen on")
	return cmd
}

// serveEmulator serves until the function it returns is called.
func serveEmulator(listener net.Listener, handler http.Handler) (stop func()) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			_ = listener.Close()
		}
	}
}

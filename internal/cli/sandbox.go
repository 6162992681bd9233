package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
	"token-sidecar/internal/settings"
	"token-sidecar/proxy"
	"token-sidecar/upstream/sandbox"
)

// The sandbox's default addresses, and the ports to use if those are taken.
const (
	sandboxAddr       = "127.0.0.1:8090"
	sandboxListenAddr = "localhost:8080"
	sandboxAdminAddr  = "127.0.0.1:8081"
)

// serveSandbox runs the sidecar with the emulator as its auth service. It ends with its terminal: SIGHUP has its
// default effect.
func serveSandbox(ctx context.Context, p Process, out, errs io.Writer) error {
	listener, err := listenNear(ctx, out, sandboxAddr)
	if err != nil {
		return fmt.Errorf("the emulator: %w", err)
	}
	environ := append([]string{"LOG_FORMAT=text"}, p.Environ...)
	for name, addr := range map[string]string{"LISTEN_ADDR": sandboxListenAddr, "ADMIN_ADDR": sandboxAdminAddr} {
		if !isSet(p.Environ, name) {
			environ = append(environ, name+"="+freeNear(ctx, out, addr))
		}
	}
	emulator := listener.Addr().String()
	s, err := app.Load(ctx, append(environ, "HUMANAPI_CLIENT_SECRET_FILE=", "HUMANAPI_AUTH_URL=http://"+emulator,
		"HUMANAPI_CLIENT_ID="+sandbox.DefaultClientID, "HUMANAPI_CLIENT_SECRET="+sandbox.DefaultClientSecret))
	if err != nil {
		_ = listener.Close()
		return settingsError(err, p.Environ)
	}
	stop := serveEmulator(listener, sandbox.New(sandbox.Options{}))
	defer stop()
	_, _ = fmt.Fprintln(out, whatToTry(s, emulator, cmp.Or(p.Name, "token-sidecar")))
	return app.Serve(ctx, s, app.Process{Environ: p.Environ, Log: errs})
}

func whatToTry(s settings.Settings, emulator, program string) string {
	curl, at := "curl", "http://"+dialable(s.ListenAddr)
	if path, isSocket := strings.CutPrefix(s.ListenAddr, "unix://"); isSocket {
		curl, at = "curl --unix-socket "+path, "http://localhost"
	}
	where := ""
	if s.ListenAddr != sandboxListenAddr {
		where = "LISTEN_ADDR=" + s.ListenAddr + " "
	}
	return fmt.Sprintf(`The sidecar runs against a built-in emulator of the auth service. Try, in another terminal:

  a token:              %[5]s -i '%[1]s/token?client_user_id=alice'
  again, from memory:   %[5]s -i '%[1]s/token?client_user_id=alice'
  without curl:         %[4]s%[6]s get --user alice
  a refusal:            %[5]s -i '%[1]s/token?client_user_id=unknown-bob'
  an outage:            curl -X PUT http://%[2]s/sandbox -d '{"status":500}'
  its end:              curl -X PUT http://%[2]s/sandbox -d '{}'
  its state:            open http://%[3]s/ in a browser

Ctrl-C stops it.
`, at, emulator, dialable(s.AdminAddr), where, curl, program)
}

func newSandbox(p Process) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run the emulator of the auth service alone",
		Long: "Run the emulator of the auth service alone, for the integration tests of other services.\n" +
			"GET and PUT /sandbox show and set how it behaves; see docs/sandbox.md. Another port is chosen when the usual one is taken; one that is\n" +
			"named by --addr must be free.",
		Example: "  token-sidecar sandbox\n  token-sidecar sandbox --addr 127.0.0.1:8090",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listen := func() (net.Listener, error) { return listenNear(cmd.Context(), p.Stdout, addr) }
			if cmd.Flags().Changed("addr") {
				listen = func() (net.Listener, error) { return proxy.Listen(cmd.Context(), addr) }
			}
			listener, err := listen()
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
	cmd.Flags().StringVar(&addr, "addr", sandboxAddr, "host:port to listen on")
	return cmd
}

// listenNear listens on addr, or on another port if that one is taken, and prints which.
func listenNear(ctx context.Context, out io.Writer, addr string) (net.Listener, error) {
	listener, err := proxy.Listen(ctx, addr)
	if !errors.Is(err, proxy.ErrInUse) {
		return listener, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	listener, err = proxy.Listen(ctx, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	_, chosen, _ := net.SplitHostPort(listener.Addr().String())
	_, _ = fmt.Fprintf(out, "Port %s is taken by another program; port %s is used in its place.\n", port, chosen)
	return listener, nil
}

// freeNear returns addr, or another port of the same host if that one is taken.
func freeNear(ctx context.Context, out io.Writer, addr string) string {
	listener, err := listenNear(ctx, out, addr)
	if err != nil {
		return addr // listening will report what is wrong
	}
	defer func() { _ = listener.Close() }()
	host, _, _ := net.SplitHostPort(addr)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return net.JoinHostPort(host, port)
}

// isSet reports whether environ has a value for name.
func isSet(environ []string, name string) bool {
	return slices.ContainsFunc(environ, func(pair string) bool {
		value, found := strings.CutPrefix(pair, name+"=")
		return found && value != ""
	})
}

// serveEmulator serves until stop is called.
func serveEmulator(listener net.Listener, handler http.Handler) (stop func()) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(sandbox.Listen(server, listener)) }()
	return func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			_ = listener.Close()
		}
	}
}

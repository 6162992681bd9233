package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/reason"
	"token-sidecar/internal/settings"
)

// probeLimit bounds how long to wait for ADMIN_ADDR.
const probeLimit = 2 * time.Second

func newHealthcheck(p Process) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit 0 when the sidecar is ready, else 1 with the reason",
		Long:  "Ask the running sidecar at ADMIN_ADDR whether it is ready. Exit 0 when it is, else 1 with the reason.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := askAdmin(cmd.Context(), p, "/readyz")
			return err
		},
	}
}

// askAdmin gets a path on ADMIN_ADDR. An answer other than 200 is an error.
func askAdmin(ctx context.Context, p Process, path string) ([]byte, error) {
	s, err := settings.LoadOnly(p.Environ, "ADMIN_ADDR")
	if err != nil {
		return nil, settingsError(err, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask: %w", err)
	}
	res, err := clientFor(s.AdminAddr).Do(req)
	if err != nil {
		return nil, noAnswer("ADMIN_ADDR", s.AdminAddr, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, noAnswer("ADMIN_ADDR", s.AdminAddr, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %s", path, res.StatusCode, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// noAnswer says why there was no answer, without the URL, which contains the user's id.
func noAnswer(setting, addr string, err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("nobody listens on %s; is the sidecar running? %s says where it is looked for", addr, setting)
	}
	return fmt.Errorf("no answer on %s: %s; is it the sidecar that listens there? %s says where it is looked for", addr,
		reason.Of(err), setting)
}

// clientFor returns a client that always connects to addr, regardless of the host in a URL, and uses no proxy.
func clientFor(addr string) *http.Client {
	network, where := "tcp", dialable(addr)
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, where = "unix", path
	}
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, where)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dialable returns an address for reaching a listener on addr: one on all addresses, or on both loopback addresses, is
// reached by IPv4.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if slices.Contains([]string{"", "0.0.0.0", "::", "localhost"}, strings.ToLower(host)) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

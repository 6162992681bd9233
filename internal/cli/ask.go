package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
)

// askLimit bounds what the tools wait for a token, probeLimit what they wait for a probe.
const (
	askLimit   = time.Minute
	probeLimit = 2 * time.Second
)

func newGet(p Process) *cobra.Command {
	var user, kind, email string
	var show, fresh bool
	cmd := &cobra.Command{
		Use:     "get --user U",
		Short:   "Ask the running sidecar for a token",
		Long:    "Ask the running sidecar at LISTEN_ADDR for a token and print the answer, tokens shortened.",
		Example: "  token-sidecar get --user alice\n  token-sidecar get --user alice --type id_token --show",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" && kind != "client" {
				return usageError{errors.New("--user is missing; name the client_user_id whose token is wanted")}
			}
			query := url.Values{"type": {kind}}
			if user != "" {
				query.Set("client_user_id", user)
			}
			if email != "" {
				query.Set("client_user_email", email)
			}
			body, status, err := askToken(cmd.Context(), p, query, fresh)
			if err != nil {
				return err
			}
			if !show {
				body = shorten(body)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\nCache-Status: %s\n", bytes.TrimSpace(body), status)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "client_user_id")
	cmd.Flags().StringVar(&kind, "type", "access", "access, client, id_token, id or session")
	cmd.Flags().StringVar(&email, "email", "", "client_user_email, for type session")
	cmd.Flags().BoolVar(&show, "show", false, "print tokens in full")
	cmd.Flags().BoolVar(&fresh, "no-cache", false, "skip the caches")
	return cmd
}

// askToken calls GET /token and returns the body and the Cache-Status. An error answer is an error.
func askToken(ctx context.Context, p Process, query url.Values, fresh bool) (body []byte, status string, err error) {
	s, err := settings.LoadAdmin(p.Environ)
	if err != nil {
		return nil, "", settingsError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/token?"+query.Encode(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("cannot ask: %w", err)
	}
	if fresh {
		req.Header.Set("Cache-Control", "no-cache")
	}
	if s.CallerTokenFile != "" {
		token, err := secret.Open("CALLER_TOKEN_FILE", s.CallerTokenFile, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("Authorization", "Bearer "+token.Text().Reveal())
	}
	res, err := clientFor(s.ListenAddr).Do(req)
	if err != nil {
		return nil, "", fmt.Errorf("no answer on LISTEN_ADDR %s: %w; is the sidecar running?", s.ListenAddr, unwrapURL(err))
	}
	defer func() { _ = res.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(res.Body, 2<<20))
	if err != nil {
		return nil, "", fmt.Errorf("the answer was cut short: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("status %d: %s", res.StatusCode, bytes.TrimSpace(body))
	}
	return body, res.Header.Get("Cache-Status"), nil
}

func newHealthcheck(p Process) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit 0 when the sidecar is ready, else 1 with the reason",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := askAdmin(cmd.Context(), p, "/readyz")
			return err
		},
	}
}

func newConfig(p Process) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "The settings in force, secrets hidden; every mistake named",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := load(p.Environ)
			for _, setting := range s.List() {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s=%s\n", setting.Doc, setting.Name, setting.Value); err != nil {
					return err
				}
			}
			if err != nil {
				return settingsError(err)
			}
			return nil
		},
	}
}

// clientFor returns a client that reaches addr, whatever host a URL names, and no proxy.
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

// dialable is addr as it can be dialled: a listener on all addresses, or on both of loopback, is reached by IPv4.
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

// unwrapURL drops the URL from an error of net/http: it holds the user's id.
func unwrapURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// shorten replaces the tokens of an answer by their beginnings.
func shorten(body []byte) []byte {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		return []byte("(not JSON)")
	}
	for name, value := range fields {
		text, isText := value.(string)
		if isText && strings.HasSuffix(name, "token") {
			fields[name] = text[:min(4, len(text)/4)] + "…"
		}
	}
	short, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return []byte("(not JSON)")
	}
	return short
}

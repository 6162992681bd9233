package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/admin"
	"token-sidecar/internal/settings"
)

func newStatus(p Process) *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "What the status page tells, in the terminal",
		Long:    "Ask the running sidecar at ADMIN_ADDR how it does. Exit 1 when it cannot be asked or does not serve.",
		Example: "  token-sidecar status\n  token-sidecar status --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := askAdmin(cmd.Context(), p, "/status.json")
			if err != nil {
				return err
			}
			if raw {
				_, err = cmd.OutOrStdout().Write(body)
				return err
			}
			var s admin.Status
			if err := json.Unmarshal(body, &s); err != nil {
				return fmt.Errorf("the answer is not understood, it may be of another version: %w", err)
			}
			return printStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
	cmd.Flags().BoolVar(&raw, "json", false, "print JSON")
	return cmd
}

// askAdmin gets a path of ADMIN_ADDR. An answer other than 200 is an error.
func askAdmin(ctx context.Context, p Process, path string) ([]byte, error) {
	s, err := settings.LoadAdmin(p.Environ)
	if err != nil {
		return nil, settingsError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask: %w", err)
	}
	res, err := clientFor(s.AdminAddr).Do(req)
	if err != nil {
		return nil, fmt.Errorf("no answer on ADMIN_ADDR %s: %w; is the sidecar running?", s.AdminAddr, unwrapURL(err))
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("the answer was cut short: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %s", path, res.StatusCode, strings.TrimSpace(string(body)))
	}
	return body, nil
}

func printStatus(w io.Writer, s admin.Status, now time.Time) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(out, "%s\t%s\n", name, value) }
	line("version", fmt.Sprintf("%s, up %s, settings %s", s.Version, now.Sub(s.Started).Truncate(time.Second),
		s.Fingerprint))
	line("serving", map[bool]string{true: "yes", false: "NO: starting or draining"}[s.Serving])
	line("breaker", breakerText(s))
	if s.Paused != "" {
		line("paused", fmt.Sprintf("%s, for %s still", s.Paused, seconds(s.PausedFor)))
	}
	line("redis", redisText(s))
	line("tokens", fmt.Sprint(s.Tokens, " in memory"))
	for _, band := range s.TokensLeft {
		if band.Count > 0 {
			line("", fmt.Sprintf("%d with less than %s left", band.Count, band.Name))
		}
	}
	names := make([]string, 0, len(s.Requests))
	for name, n := range s.Requests {
		if n > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		line("requests", fmt.Sprint(name, " ", s.Requests[name]))
	}
	for _, f := range s.Failures {
		line("failures", fmt.Sprintf("%s %d, last %s ago", f.Code, f.Count, now.Sub(f.Last).Truncate(time.Second)))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if !s.Serving {
		return fmt.Errorf("it does not serve")
	}
	return nil
}

func breakerText(s admin.Status) string {
	if s.Breaker == "open" {
		return "OPEN: the auth service fails, next trial in " + seconds(s.TrialIn)
	}
	return s.Breaker
}

func redisText(s admin.Status) string {
	switch s.Redis {
	case "down":
		return "DOWN for " + seconds(s.RedisDownFor) + ": tokens are kept in memory only"
	case "off":
		return "not used, REDIS_URL is not set"
	default:
		return s.Redis
	}
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

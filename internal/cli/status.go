package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/admin"
)

func newStatus(p Process) *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the state of the running sidecar",
		Long:    "Show the state of the running sidecar, as the status page at ADMIN_ADDR does. Exit 1 when it does not answer\nor does not serve.",
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
				return errors.New("the answer is not understood; is it a sidecar of this version that listens on ADMIN_ADDR?")
			}
			return printStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
	cmd.Flags().BoolVar(&raw, "json", false, "print JSON")
	return cmd
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
		return errors.New("the sidecar does not serve: it is starting or draining")
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

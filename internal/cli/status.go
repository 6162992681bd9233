package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/admin"
	"token-sidecar/internal/health"
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
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&raw, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s admin.Status) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(out, "%s\t%s\n", name, value) }
	line("sidecar", fmt.Sprintf("%s, version %s, up %s, settings %s", s.Name(), s.Version,
		s.Now.Sub(s.Started).Truncate(time.Second), s.Fingerprint))
	line("serving", map[bool]string{true: "yes", false: "NO: starting or draining"}[s.Serving])
	for _, c := range s.Conditions {
		if c.Shown() {
			printCondition(line, c, s.Now)
		}
	}
	line("tokens", fmt.Sprint(s.Tokens, " in memory"))
	for _, band := range s.TokensLeft {
		if band.Count > 0 {
			line("", fmt.Sprintf("%d with less than %s left", band.Count, band.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Requests)) {
		if n := s.Requests[name]; n > 0 {
			line("requests", fmt.Sprint(name, " ", n))
		}
	}
	for _, f := range s.Failures {
		line("failures", fmt.Sprintf("%s %d, last %s ago", f.Code, f.Count, s.Now.Sub(f.Last).Truncate(time.Second)))
	}
	for _, e := range s.Events {
		line("events", strings.TrimSpace(fmt.Sprint(e.Time.Format(time.RFC3339), " ", e.Part, ": ", e.State, " ", e.Cause)))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if !s.Serving {
		return errors.New("the sidecar does not serve: it is starting or draining")
	}
	return nil
}

func printCondition(line func(name, value string), c health.Condition, now time.Time) {
	name := strings.TrimSpace(strings.ToLower(c.Title) + " " + c.Path)
	head := c.Headline()
	if c.Level.Degraded() {
		head = strings.ToUpper(head)
		if c.Cause != "" {
			head += ": " + c.Cause
		}
	}
	if c.Detail != "" {
		head += " (" + c.Detail + ")"
	}
	if !c.Since.IsZero() {
		head += ", since " + now.Sub(c.Since).Truncate(time.Second).String()
	}
	line(name, head)
	if c.First != "" {
		line("", "it began with: "+c.First)
	}
	if c.Level.Degraded() {
		line("", "means: "+c.Effect)
		line("", "do: "+c.Remedy)
		line("", "more: docs/runbook.md, "+c.Alert)
	}
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
	"token-sidecar/internal/secret"
)

// checkLimit is the default time limit of a check.
const checkLimit = 10 * time.Second

func newCheck(p Process) *cobra.Command {
	var user, kind string
	var limit time.Duration
	var raw bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Try the auth service, Redis and all files; exit 1 naming each failure and its remedy",
		Long: "Try with the settings of the sidecar what it needs to serve, in CI or an init container: the settings and all\n" +
			"files; the auth service; Redis (read, write, script, publish). Exit 1 when anything failed, each failure with its remedy.\n\n" +
			"Without --user the auth service is only connected to, with a TLS handshake and an empty request (HEAD /), and no\n" +
			"credentials are sent. With --user a token of that user is asked for, which is not shown.",
		Example: "  token-sidecar check\n  token-sidecar check --user alice --json\n  token-sidecar check --type client",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"access", "client", "id", "id_token"}, kind) {
				return usageError{errors.New("--type is unknown; use access, client, id or id_token")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			found := app.Check(ctx, p.Environ, app.CheckOptions{Type: kind, User: secret.Hide(user)})
			if err := printFindings(cmd.OutOrStdout(), found, raw); err != nil {
				return err
			}
			if slices.ContainsFunc(found, func(f app.Finding) bool { return f.State == app.StateFailed }) {
				return errors.New("it would not serve as it should; see what failed")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "client_user_id whose token to ask for")
	cmd.Flags().StringVar(&kind, "type", "access", "access, client, id or id_token, to ask for with --user; client needs none")
	cmd.Flags().DurationVar(&limit, "timeout", checkLimit, "limit of the whole check")
	cmd.Flags().BoolVar(&raw, "json", false, "print JSON")
	return cmd
}

func printFindings(w io.Writer, found []app.Finding, raw bool) error {
	if raw {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range found {
		if _, err := fmt.Fprintf(out, "%s\t%s\t%s\n", f.Check, strings.ToUpper(f.State), f.Says); err != nil {
			return err
		}
	}
	return out.Flush()
}

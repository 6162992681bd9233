// Package cli is the command line: serving, and the small tools that ask a running sidecar. The image
// has no shell and no curl, so what an operator needs is here.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
)

// A Process is what the commands need of the process they run in.
type Process struct {
	// Args are the arguments without the program's name; Environ has the form of [os.Environ].
	Args, Environ  []string
	Stdout, Stderr io.Writer
}

// The exit codes.
const (
	ok     = 0
	failed = 1
	usage  = 2
)

// usageError marks a mistake in the command line.
type usageError struct{ error }

// Main executes the command line of this process and returns the exit code; ctx ends at the first signal to stop.
func Main(ctx context.Context) int {
	return Run(ctx, Process{Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr})
}

// Run executes the command that p.Args name and returns the exit code: 0 done, 1 failed, 2 not understood.
func Run(ctx context.Context, p Process) int {
	root := newRoot(p) //nolint:contextcheck // cobra hands the context on
	root.SetArgs(p.Args)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	var misused usageError
	switch {
	case err == nil:
		return ok
	case errors.As(err, &misused):
		_, _ = fmt.Fprintf(p.Stderr, "token-sidecar: %v\nSee token-sidecar --help.\n", err)
		return usage
	default:
		_, _ = fmt.Fprintf(p.Stderr, "token-sidecar: %v\n", err)
		return failed
	}
}

func newRoot(p Process) *cobra.Command {
	serve := newServe(p)
	root := &cobra.Command{
		Use:           "token-sidecar",
		Short:         "Vends Human API tokens to the containers of its own pod",
		Long:          "Vends Human API tokens to the containers of its own pod. Without a command it serves.\n\nSettings are environment variables; token-sidecar config lists them.",
		Args:          noArgs,
		RunE:          serve.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.Flags().AddFlagSet(serve.Flags())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serve, newSandbox(p), newGet(p), newHealthcheck(p), newStatus(p), newConfig(p), newRefreshToken(p),
		newVersion())
	return root
}

// noArgs refuses arguments, as a mistake in the command line.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usageError{fmt.Errorf("%s takes no argument %q", cmd.Name(), args[0])}
	}
	return usageError{fmt.Errorf("there is no command %q", args[0])}
}

func newRefreshToken(p Process) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:     "refresh-token --user U",
		Short:   "Print the refresh token that was kept of a user",
		Long:    "Print the newest refresh_token of a user, in full, as KEEP_REFRESH_TOKENS kept it in Redis.\nIt takes the settings of the sidecar and asks Redis itself.",
		Example: "  token-sidecar refresh-token --user alice",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" {
				return usageError{errors.New("--user is missing; name the client_user_id")}
			}
			s, err := settings.Load(p.Environ)
			if err != nil {
				return settingsError(err)
			}
			if !s.KeepRefreshTokens {
				return errors.New("KEEP_REFRESH_TOKENS: is false, so none are kept; set it to true")
			}
			token, ok, err := app.RefreshToken(cmd.Context(), s, secret.Hide(user))
			if err != nil {
				return fmt.Errorf("cannot read it from Redis: %w", err)
			}
			if !ok {
				return errors.New("none was kept for this user")
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token.Reveal())
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "client_user_id")
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Version, commit and Go version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "token-sidecar %s\ncommit %s\n%s\n", app.Version(), app.Commit(),
				app.GoVersion())
			return err
		},
	}
}

// Package cli is the command line: the sidecar itself, and small tools that ask a running one. The image has neither
// shell nor curl, so everything that an operator needs is here.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"token-sidecar/internal/app"
	"token-sidecar/internal/reason"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/spelling"
)

// A Process is what the commands need from their process.
type Process struct {
	// Name is how the program was called, for use in suggested commands. Default: token-sidecar.
	Name string
	// Args are the arguments without the program's name; Environ has the format of [os.Environ].
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
	// net/http quotes there what the auth service sends where no answer is expected, such as the end of a token.
	log.SetOutput(io.Discard)
	return Run(ctx, Process{
		Name: os.Args[0], Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

// Run executes the command in p.Args and returns the exit code: 0 for success, 1 for failure, 2 for a wrong command
// line.
func Run(ctx context.Context, p Process) int {
	root := newRoot(p) //nolint:contextcheck // cobra passes the context on
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
		Use:   "token-sidecar",
		Short: "Vends Human API tokens to the containers of its own pod",
		Long: "Vends Human API tokens to the containers of its own pod. Without a command it serves.\n\n" +
			"Settings are environment variables; token-sidecar config lists them.",
		Example:           "  token-sidecar serve --sandbox      try it, without any settings",
		Args:              noArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.Flags().AddFlagSet(serve.Flags())
	// cobra's own version flag uses a template, which makes the linker keep all exported methods: 10 MB.
	version := root.Flags().Bool("version", false, "tell version, commit and Go version")
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *version {
			_, err := io.WriteString(cmd.OutOrStdout(), versionText())
			return err
		}
		return serve.RunE(cmd, args)
	}
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(serve, newSandbox(p), newGet(p), newHealthcheck(p), newStatus(p), newConfig(p), newRefreshToken(p),
		newCheck(p), newPseudonym(p), newVersion())
	return root
}

// newHelp is the library's, but for what is no command.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			command, rest, err := root.Find(args)
			if err == nil {
				err = noArgs(command, rest)
			}
			if err != nil {
				return err
			}
			command.InitDefaultHelpFlag() // it is listed as well
			return command.Help()
		},
	}
}

// didYouMean suggests the name that was meant.
func didYouMean(typed string, names []string) string {
	if meant := spelling.Nearest(typed, names, max(1, len(typed)/3)); meant != "" {
		return fmt.Sprintf("; did you mean %s?", meant)
	}
	return ""
}

// flagError says what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		var all []string
		cmd.Flags().VisitAll(func(flag *pflag.Flag) { all = append(all, "--"+flag.Name) })
		return usageError{fmt.Errorf("%s has no flag %s%s", cmd.CommandPath(), name, didYouMean(name, all))}
	case errors.As(err, &missing):
		return usageError{fmt.Errorf("the flag --%s needs a value", missing.GetSpecifiedName())}
	case errors.As(err, &invalid):
		return usageError{fmt.Errorf("the flag --%s takes %s", invalid.GetFlag().Name, kindOf(invalid.GetFlag()))}
	default:
		return usageError{errors.New("the flags are not understood; write --name or --name=value")}
	}
}

// kindOf says what values a flag takes.
func kindOf(flag *pflag.Flag) string {
	if flag.Value.Type() == "bool" {
		return "true or false, or no value for true"
	}
	return "a " + flag.Value.Type()
}

// noArgs rejects arguments as a mistake in the command line.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usageError{fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0])}
	}
	var all []string
	for _, command := range cmd.Commands() {
		all = append(all, command.Name())
	}
	return usageError{fmt.Errorf("there is no command %q%s", args[0], didYouMean(args[0], all))}
}

func newRefreshToken(p Process) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "refresh-token --user U",
		Short: "Print the refresh token that was kept for a user",
		Long: "Print the newest refresh_token of a user, in full, as KEEP_REFRESH_TOKENS kept it in Redis.\n" +
			"It needs the settings of the sidecar, and asks Redis itself.",
		Example: "  token-sidecar refresh-token --user alice",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" {
				return usageError{errors.New("--user is missing; name the client_user_id")}
			}
			s, err := app.Load(cmd.Context(), p.Environ)
			if err != nil {
				return settingsError(err, p.Environ)
			}
			if !s.KeepRefreshTokens {
				return errors.New("KEEP_REFRESH_TOKENS: is false, so none are kept; set it to true")
			}
			token, ok, err := app.RefreshToken(cmd.Context(), s, secret.Hide(user))
			if err != nil {
				return fmt.Errorf("cannot read it from Redis: %s", reason.Or(err, err.Error()))
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
		Short: "Print version, commit and Go version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionText())
			return err
		},
	}
}

func versionText() string {
	return fmt.Sprintf("token-sidecar %s\ncommit %s\n%s\n", app.Version(), app.Commit(), app.GoVersion())
}

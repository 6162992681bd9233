package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
)

func newServe(p Process) *cobra.Command {
	var emulate bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar (the default)",
		Long: "Run the sidecar until SIGTERM or SIGINT, on which it answers what is in progress and ends. SIGHUP has all files\n" +
			"read again at once.",
		Args: noArgs,
		Example: "  token-sidecar serve --sandbox      try it, without any settings\n" +
			"  HUMANAPI_CLIENT_ID=… HUMANAPI_CLIENT_SECRET_FILE=… token-sidecar",
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Otherwise writing to a log whose reader has gone would end the process.
			signal.Ignore(syscall.SIGPIPE)
			if emulate {
				return serveSandbox(cmd.Context(), p, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return serve(cmd.Context(), p)
		},
	}
	cmd.Flags().BoolVar(&emulate, "sandbox", false, "use a built-in emulator of the auth service; no settings are needed")
	return cmd
}

func serve(ctx context.Context, p Process) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	s, err := app.Load(ctx, p.Environ)
	if err != nil {
		return settingsError(err, p.Environ)
	}
	return app.Serve(ctx, s, app.Process{Environ: p.Environ, Log: p.Stderr, Reload: hangup})
}

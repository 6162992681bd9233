package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"token-sidecar/internal/app"
	"token-sidecar/internal/settings"
)

func newConfig(p Process) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Show the settings in force, and every mistake in them",
		Long: "Show the settings in force, secrets hidden, and everything for which serve would not start, the files\n" +
			"included. Exit 1 if there is any.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, mistakes := app.Load(cmd.Context(), p.Environ)
			for _, setting := range s.List(settings.Wrong(mistakes)) {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "# %s (%s)\n%s=%s\n", setting.Doc, setting.Takes, setting.Name,
					setting.Value); err != nil {
					return err
				}
			}
			if mistakes != nil {
				return settingsError(mistakes, p.Environ)
			}
			for _, stranger := range app.Strangers(p.Environ) {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "token-sidecar: %s.\n", stranger)
			}
			return nil
		},
	}
}

// settingsError introduces the mistakes that were found, and mentions mistyped variables, which may have caused them.
func settingsError(err error, environ []string) error {
	lines := strings.Split(err.Error(), "\n")
	for _, stranger := range app.Strangers(environ) {
		lines = append(lines, stranger.String())
	}
	return fmt.Errorf("the settings have mistakes:\n  %s", strings.Join(lines, "\n  "))
}

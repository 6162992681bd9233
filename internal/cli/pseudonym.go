package cli

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
)

func newPseudonym(p Process) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "pseudonym --user U",
		Short: "Print the pseudonym of a user in the audit log",
		Long: "Print under which pseudonym the audit log names a user: a line for each key in AUDIT_KEY_FILE, the one in force\n" +
			"first, with the key's id and the pseudonym. It needs no other setting, and asks nobody.",
		Example: "  AUDIT_KEY_FILE=audit.key token-sidecar pseudonym --user alice",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" {
				return usageError{errors.New("--user is missing; name the client_user_id")}
			}
			s, err := settings.LoadOnly(p.Environ, "AUDIT_KEY_FILE")
			if err == nil && s.AuditKeyFile == "" {
				err = errors.New("AUDIT_KEY_FILE: is missing; set it to the file with the key of the audit log")
			}
			if err != nil {
				return settingsError(err, nil)
			}
			file, err := secret.Open("AUDIT_KEY_FILE", s.AuditKeyFile, audit.CheckKeys, slog.New(slog.DiscardHandler))
			if err != nil {
				return settingsError(err, nil)
			}
			keys, err := audit.ParseKeys(file.Text())
			if err != nil {
				return settingsError(err, nil)
			}
			for _, key := range keys {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), key.ID, key.User(secret.Hide(user))); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "client_user_id")
	return cmd
}

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/net/http/httpguts"

	"token-sidecar/cache"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/internal/tracing"
	"token-sidecar/proxy"
)

// Load reads the settings from environ and finds everything that would keep [Serve] from starting: mistakes in them, in
// the files that they name, and addresses that this machine does not have. The error is made by [settings.Join].
func Load(ctx context.Context, environ []string) (settings.Settings, error) {
	s, err := settings.Load(environ)
	there := s
	if s.GenerateCallerToken && s.CallerTokenFile != "" && secret.Vacant(s.CallerTokenFile) {
		there.CallerTokenFile = "" // serve writes this file itself
		if folder, statErr := os.Stat(filepath.Dir(s.CallerTokenFile)); statErr != nil || !folder.IsDir() {
			err = settings.Add(err, errors.New("CALLER_TOKEN_FILE: names a file in no folder; mount a volume there"))
		}
	}
	_, unusable := openFiles(there, slog.New(slog.DiscardHandler))
	err = settings.Add(err, unusable)
	if url := s.RedisURL; url.Reveal() != "" && !settings.Wrong(err)["REDIS_MODE"] {
		err = settings.Add(err, cache.CheckURL(url, s.RedisMode))
	}
	if s.AuditLog != "" && !settings.Wrong(err)["AUDIT_LOG"] {
		if unusable := audit.CheckLog(s.AuditLog); unusable != nil {
			err = settings.Add(err, fmt.Errorf("AUDIT_LOG: %w", unusable))
		}
	}
	err = settings.Add(err, tracing.Check(environ))
	for name, addr := range map[string]string{"LISTEN_ADDR": s.ListenAddr, "ADMIN_ADDR": s.AdminAddr} {
		if !settings.Wrong(err)[name] {
			err = settings.Add(err, tryAddress(ctx, name, addr))
		}
	}
	return s, err
}

// Strangers returns the variables in environ that look like mistyped settings.
func Strangers(environ []string) []settings.Stranger {
	return settings.Strangers(environ, tracing.Variables()...)
}

// tryAddress reports why addr cannot be listened on. That it is in use is no mistake: the sidecar may be running
// already.
func tryAddress(ctx context.Context, name, addr string) error {
	if err := proxy.CheckAddr(ctx, addr); err != nil && !errors.Is(err, proxy.ErrInUse) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkCallerToken rejects a token that no caller could send.
func checkCallerToken(token string) error {
	if !httpguts.ValidHeaderFieldValue(token) {
		return errors.New("there is a control character in it, which no caller can send; write the token on one line")
	}
	return nil
}

package app

import (
	"log/slog"
	"net/url"

	"token-sidecar/internal/settings"
)

// logStart logs in one line the settings that matter to callers.
func logStart(log *slog.Logger, s settings.Settings, fastPath bool) {
	log.Info("serving", slog.String("version", version), slog.String("commit", commit),
		slog.String("settings", s.Fingerprint()),
		slog.String("listen_addr", s.ListenAddr), slog.String("admin_addr", s.AdminAddr),
		slog.String("auth_service", hostOf(s.AuthURL)), slog.String("product", s.Product),
		slog.String("redis", redisInUse(s)),
		slog.Int("breaker_failures", s.BreakerFailures), slog.Duration("breaker_open_for", s.BreakerOpenFor),
		slog.Duration("upstream_timeout", s.UpstreamTimeout), slog.Int("upstream_max_attempts", s.UpstreamMaxAttempts),
		slog.Bool("callers_authenticate", s.CallerTokenFile != ""),
		slog.Bool("own_encryption", s.EncryptionKeysFile != ""),
		slog.Bool("audit", s.AuditLog != ""),
		slog.Bool("fast_path", fastPath))
}

// hostOf returns the host of a URL that was checked with the settings.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

func redisInUse(s settings.Settings) string {
	if s.RedisURL.Reveal() == "" {
		return "not used: memory only"
	}
	return s.RedisMode
}

package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/proxy"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
)

// RefreshToken reads the refresh token of user that KEEP_REFRESH_TOKENS kept in Redis. ok is false if Redis holds no
// refresh token of that user.
func RefreshToken(ctx context.Context, s settings.Settings, user secret.Text) (token secret.Text, ok bool, err error) {
	log := slog.New(slog.DiscardHandler)
	files, err := openFiles(s, log)
	if err != nil {
		return token, false, err
	}
	opts, err := cacheOptions(s, files, Options{Log: log})
	if err != nil {
		return token, false, err
	}
	tokens := cache.New(opts)
	defer tokens.Close()
	return tokens.RefreshToken(ctx, vend.RefreshTokenKey(s.AuthURL, s.ClientID, user))
}

// files are the files that may change while the sidecar runs; nil if not configured.
type files struct {
	clientSecret, authRoots, callerToken, redisRoots, redisPassword, encryptionKeys, auditKey *secret.File
}

// openFiles opens the files that s names. The error joins one for each unusable file.
func openFiles(s settings.Settings, log *slog.Logger) (f files, err error) {
	var errs []error
	open := func(setting, path string, accept func(string) error) *secret.File {
		if path == "" {
			return nil
		}
		file, err := secret.Open(setting, path, accept, log)
		errs = append(errs, err)
		return file
	}
	f.clientSecret = secret.Fixed(s.ClientSecret.Reveal())
	if s.ClientSecretFile != "" {
		f.clientSecret = open("HUMANAPI_CLIENT_SECRET_FILE", s.ClientSecretFile, nil)
	}
	f.authRoots = open("HUMANAPI_CA_FILE", s.CAFile, checkRoots)
	f.callerToken = open("CALLER_TOKEN_FILE", s.CallerTokenFile, checkCallerToken)
	f.redisRoots = open("REDIS_CA_FILE", s.RedisCAFile, checkRoots)
	f.redisPassword = open("REDIS_PASSWORD_FILE", s.RedisPasswordFile, nil)
	f.encryptionKeys = open("ENCRYPTION_KEYS_FILE", s.EncryptionKeysFile, cache.CheckKeys)
	f.auditKey = open("AUDIT_KEY_FILE", s.AuditKeyFile, audit.CheckKeys)
	return f, errors.Join(errs...)
}

func (f files) all() (open []*secret.File) {
	for _, file := range []*secret.File{
		f.clientSecret, f.authRoots, f.callerToken, f.redisRoots, f.redisPassword, f.encryptionKeys, f.auditKey,
	} {
		if file != nil {
			open = append(open, file)
		}
	}
	return open
}

// reloadAt reads all files, and calls also, on each signal, until ctx ends. The files are also polled, but then new
// content takes effect only once it has been there for a while; whoever sends a signal has finished writing.
func (f files) reloadAt(ctx context.Context, signals <-chan os.Signal, also func(), log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			all := f.all()
			unusable := 0
			for _, file := range all {
				if file.ReadNow() != nil {
					unusable++
				}
			}
			log.Info("all files were read again at a signal; those that cannot be used keep their old values",
				slog.Int("files", len(all)), slog.Int("unusable", unusable))
			also()
		}
	}
}

func cacheOptions(s settings.Settings, f files, o Options) (cache.Options, error) {
	opts := cache.Options{
		MemorySize: s.MemoryCacheSize.Bytes(), Trust: s.MemoryCacheTTL, StepLimit: s.RedisTimeout,
		// Long enough for the heartbeat of a busy machine, short enough that a dead holder does not delay others for
		// long.
		LockLife:   min(max(s.UpstreamTimeout/2, time.Second), 5*time.Second),
		FetchLimit: upstream.CallLimit(s.UpstreamTimeout, s.UpstreamMaxAttempts) + time.Second,
		Registerer: o.Registerer, Log: o.Log, Wall: o.Wall,
	}
	if s.RedisURL.Reveal() == "" {
		return opts, nil
	}
	var err error
	opts.Keys, err = newKeyring(f, o.Log)
	if err != nil {
		return opts, err
	}
	opts.Client, err = cache.Connect(cache.Server{
		URL: s.RedisURL, Mode: s.RedisMode, Timeout: s.RedisTimeout,
		Roots: newRoots(f.redisRoots).pool, Password: f.redisPassword,
	})
	return opts, err
}

// newKeyring takes the keys from their file, or else derives them from the client secret, and follows changes.
func newKeyring(f files, log *slog.Logger) (*cache.Keyring, error) {
	keys := &cache.Keyring{}
	if f.encryptionKeys != nil {
		use := func() error { return keys.UseKeys(f.encryptionKeys.Text()) }
		f.encryptionKeys.OnChange(func() { report(log, use()) })
		return keys, use()
	}
	use := func() error { return keys.UseSecret(f.clientSecret.Text()) }
	f.clientSecret.OnChange(func() { report(log, use()) })
	return keys, use()
}

func report(log *slog.Logger, err error) {
	if err != nil {
		log.Error("new encryption keys cannot be used, the old ones stay in force", slog.Any("error", err))
	}
}

func newUpstream(s settings.Settings, f files, gate upstream.Gate, o Options) *upstream.Client {
	authRoots := newRoots(f.authRoots)
	transport := upstream.NewTransport(upstream.TransportOptions{Roots: authRoots.pool(), Registerer: o.Registerer})
	authRoots.onChange(func() { transport.SetRoots(authRoots.pool()) })
	return upstream.New(upstream.Options{
		URL: s.AuthURL, ClientID: s.ClientID, Secret: f.clientSecret,
		Timeout: s.UpstreamTimeout, MaxAttempts: s.UpstreamMaxAttempts,
		BreakerFailures: s.BreakerFailures, BreakerOpenFor: s.BreakerOpenFor, RefusalPause: s.NegativeTTL,
		MaxConcurrent: s.UpstreamMaxConcurrent, CallsPerMinute: s.UpstreamCallsPerMinute, Gate: gate,
		Transport: o.Traces.Transport(transport), Registerer: o.Registerer,
	})
}

func newHandler(s settings.Settings, p *Parts, o Options) *proxy.Handler {
	var keeper vend.RefreshTokenKeeper
	if s.KeepRefreshTokens {
		keeper = p.Tokens
	}
	broker := vend.NewBroker(vend.Options{
		Cache: p.Tokens, AuthService: p.Source, AuthURL: s.AuthURL, ClientID: s.ClientID, Keeper: keeper,
		Lifetimes:   vend.Lifetimes{Margin: s.ExpiryMargin, Ahead: s.RefreshAhead},
		NegativeTTL: s.NegativeTTL,
		Registerer:  o.Registerer, Log: o.Log,
	})
	opts := proxy.Options{
		Broker: broker, ClientID: s.ClientID, Path: s.TokenPath(),
		CallerToken: p.files.callerToken, AnyHost: s.TakesAnyHost(), AllowedTypes: s.AllowedTypes,
		MaxConcurrent: s.MaxConcurrentRequests, Registerer: o.Registerer, Log: o.Log,
	}
	if p.Audit != nil {
		opts.Audit = p.Audit
	}
	return proxy.New(opts)
}

// newTrail returns the audit trail, nil if no audit log is configured.
func newTrail(s settings.Settings, f files, o Options) (*audit.Trail, error) {
	if s.AuditLog == "" {
		return nil, nil
	}
	return audit.Open(audit.Options{
		Path: s.AuditLog, Key: f.auditKey, Registerer: o.Registerer, Log: o.Log, Wall: o.Wall,
	})
}

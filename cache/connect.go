package cache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"token-sidecar/internal/secret"
)

// A Server tells where Redis is and how it is reached.
type Server struct {
	// URL is redis:// or rediss:// in the forms of go-redis; further addresses and master_name as its query.
	URL secret.Text
	// Mode is single, cluster or sentinel.
	Mode string
	// Roots are the certificates to trust, nil for the system's.
	Roots *x509.CertPool
	// Password, when set, is used for each new connection instead of the URL's.
	Password *secret.File
	// Timeout bounds dialling, writing, reading and waiting for a connection.
	Timeout time.Duration
}

// Connect returns a client for s. It does not connect yet. Errors do not quote the URL: it may hold a password.
func Connect(s Server) (redis.UniversalClient, error) {
	// The library logs connection errors by itself, in a form of its own; they are counted and logged here.
	redis.SetLogger(silent{})
	opts, err := parseURL(s.URL.Reveal(), s.Mode)
	if err != nil {
		return nil, err
	}
	if opts.TLSConfig != nil {
		opts.TLSConfig.MinVersion = tls.VersionTLS12
		opts.TLSConfig.RootCAs = s.Roots
	}
	if s.Password != nil {
		user := opts.Username
		opts.CredentialsProvider = func() (string, string) { return user, s.Password.Text().Reveal() }
	}
	opts.ContextTimeoutEnabled = true
	opts.DisableIdentity = true // one command less to allow
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = s.Timeout, s.Timeout, s.Timeout, s.Timeout
	// Steps are tried again here, by another connection; the library's own retries would send whole batches again.
	opts.DialerRetries = 1
	opts.MaxRetries = -1
	opts.MaxRedirects = 2
	opts.MinRetryBackoff, opts.MaxRetryBackoff = time.Millisecond, 10*time.Millisecond
	// Values are small: the library's 32 KiB buffers on two pools would be most of our memory.
	opts.ReadBufferSize, opts.WriteBufferSize = 4<<10, 4<<10
	opts.PipelinePoolSize = -1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(opts), nil
}

// CheckURL reports why no client could be made for url in that mode, without quoting it.
func CheckURL(url secret.Text, mode string) error {
	_, err := parseURL(url.Reveal(), mode)
	return err
}

func parseURL(raw, mode string) (*redis.UniversalOptions, error) {
	bad := errors.New("REDIS_URL: cannot be read; use redis://[user:password@]host:port[/db], rediss:// for TLS, further addresses as ?addr=host:port")
	switch mode {
	case "cluster":
		o, err := redis.ParseClusterURL(raw)
		if err != nil {
			return nil, bad
		}
		return &redis.UniversalOptions{
			IsClusterMode: true, Addrs: o.Addrs, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
			PoolSize: o.PoolSize,
		}, nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(raw)
		if err != nil {
			return nil, bad
		}
		if o.MasterName == "" {
			return nil, errors.New("REDIS_URL: names no master; add ?master_name=mymaster")
		}
		return &redis.UniversalOptions{
			MasterName: o.MasterName, Addrs: o.SentinelAddrs, DB: o.DB, Username: o.Username, Password: o.Password,
			SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword, TLSConfig: o.TLSConfig,
			PoolSize: o.PoolSize,
		}, nil
	case "single":
		o, err := redis.ParseURL(raw)
		if err != nil {
			return nil, bad
		}
		return &redis.UniversalOptions{
			Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
			PoolSize: o.PoolSize,
		}, nil
	default:
		return nil, errors.New("REDIS_MODE: is unknown; use single, cluster or sentinel")
	}
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

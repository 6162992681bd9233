package cache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"token-sidecar/internal/secret"
)

// A Server says where Redis is and how to reach it.
type Server struct {
	// URL is redis:// or rediss:// as go-redis parses it, with further addresses and master_name in its query.
	URL secret.Text
	// Mode is single, cluster or sentinel.
	Mode string
	// Roots returns the certificates to trust, nil for the system's; it is called for each new connection. Default: the
	// system's.
	Roots func() *x509.CertPool
	// Password, if set, replaces the URL's for each new connection to Redis; sentinels keep the URL's.
	Password *secret.File
	// Timeout bounds dialling, writing, reading and waiting for a connection.
	Timeout time.Duration
}

// Connect returns a client for s, without connecting yet. Errors do not quote the URL, which may hold a password.
func Connect(s Server) (redis.UniversalClient, error) {
	// The library would log connection errors in its own format; they are counted and logged here.
	redis.SetLogger(silent{})
	opts, err := parseURL(s.URL.Reveal(), s.Mode)
	if err != nil {
		return nil, err
	}
	if opts.TLSConfig != nil {
		opts.Dialer = s.dialTLS(opts)
	}
	if s.Password != nil {
		user := opts.Username
		opts.CredentialsProvider = func() (string, string) { return user, s.Password.Text().Reveal() }
	}
	opts.ContextTimeoutEnabled = true
	opts.DisableIdentity = true // one command less that an ACL must allow
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = s.Timeout, s.Timeout, s.Timeout, s.Timeout
	// Steps are retried by this package on another connection; the library would resend whole batches.
	opts.DialerRetries = 1
	opts.MaxRetries = -1
	opts.MaxRedirects = 2
	opts.MinRetryBackoff, opts.MaxRetryBackoff = time.Millisecond, 10*time.Millisecond
	// Values are small: the library's default buffers of 32 KiB, in two pools, would take most of the memory.
	opts.ReadBufferSize, opts.WriteBufferSize = 4<<10, 4<<10
	opts.PipelinePoolSize = -1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(opts), nil
}

// CheckURL reports why no client can be made from url in that mode, without quoting it.
func CheckURL(url secret.Text, mode string) error {
	_, err := parseURL(url.Reveal(), mode)
	return err
}

// dialTLS returns a function that connects with TLS 1.2 or newer. The library would check every certificate against the
// host in the URL. This function checks each server against the name or address by which it is reached: a sentinel, the
// master that the sentinels name, a node of a cluster. Nodes of a cluster may announce bare addresses, which
// certificates seldom contain; such a node is checked against the host in the URL.
func (s Server) dialTLS(opts *redis.UniversalOptions) func(context.Context, string, string) (net.Conn, error) {
	base, inURL := opts.TLSConfig, opts.TLSConfig.ServerName
	base.MinVersion = tls.VersionTLS12
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("cache: cannot dial: %w", err)
		}
		config := base.Clone()
		config.ServerName = host
		if opts.IsClusterMode && isIP(host) && !isIP(inURL) {
			config.ServerName = inURL
		}
		if s.Roots != nil {
			config.RootCAs = s.Roots()
		}
		dialer := tls.Dialer{Config: config, NetDialer: &net.Dialer{Timeout: s.Timeout, KeepAliveConfig: keepAlive()}}
		return dialer.DialContext(ctx, network, addr)
	}
}

// keepAlive detects a dead connection within a minute. The library uses the same values when it dials itself.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
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

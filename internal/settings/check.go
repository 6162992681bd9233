package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxCallTime bounds UPSTREAM_TIMEOUT times UPSTREAM_MAX_ATTEMPTS.
	maxCallTime = 10 * time.Minute
	// maxRedisTimeout bounds REDIS_TIMEOUT.
	maxRedisTimeout = 2 * time.Second
)

// mistakes returns what is wrong with s, each error beginning with the name of the setting.
func (s Settings) mistakes() []error {
	var c checker
	c.check(s.ClientID != "", "HUMANAPI_CLIENT_ID", "is missing; set it to the client_id of this service at Human API")
	switch secret, file := s.ClientSecret.Reveal() != "", s.ClientSecretFile != ""; {
	case !secret && !file:
		c.add("HUMANAPI_CLIENT_SECRET", "is missing; set it, or HUMANAPI_CLIENT_SECRET_FILE to a file that holds it")
	case secret && file:
		c.add("HUMANAPI_CLIENT_SECRET", "is set beside HUMANAPI_CLIENT_SECRET_FILE; keep one of them")
	}
	c.authURL(s.AuthURL)
	c.oneOf("HUMANAPI_PRODUCT", s.Product, "connect", "hip")
	c.errs = append(c.errs, s.addressMistakes()...)
	if s.ListensBeyondLoopback() {
		c.check(s.AllowRemoteCallers && s.CallerTokenFile != "", "LISTEN_ADDR",
			"reaches beyond loopback; keep localhost, or set ALLOW_REMOTE_CALLERS=true and CALLER_TOKEN_FILE")
	}
	for _, kind := range s.AllowedTypes {
		c.oneOf("ALLOWED_TYPES", kind, "access", "client", "id", "id_token", "session")
	}
	s.redisMistakes(&c)

	c.check(s.MemoryCacheSize >= 1<<20, "MEMORY_CACHE_SIZE", "is below 1MiB; the least is 1MiB")
	c.positive("MEMORY_CACHE_TTL", s.MemoryCacheTTL)
	c.check(s.ExpiryMargin >= 0, "EXPIRY_MARGIN", "is negative; the least is 0s")
	c.check(s.RefreshAhead >= 0, "REFRESH_AHEAD", "is negative; 0s turns renewal ahead off")
	c.positive("UPSTREAM_TIMEOUT", s.UpstreamTimeout)
	c.check(s.UpstreamMaxAttempts >= 1 && s.UpstreamMaxAttempts <= 10, "UPSTREAM_MAX_ATTEMPTS", "must be from 1 to 10")
	longest := maxCallTime / time.Duration(max(1, s.UpstreamMaxAttempts))
	c.check(s.UpstreamTimeout <= longest, "UPSTREAM_TIMEOUT", fmt.Sprintf(
		"times UPSTREAM_MAX_ATTEMPTS is more than %v, for which no caller waits; with %d attempts the most is %v",
		maxCallTime, s.UpstreamMaxAttempts, longest))
	c.check(s.UpstreamMaxConcurrent >= 1, "UPSTREAM_MAX_CONCURRENT", "is below 1; the least is 1")
	c.check(s.UpstreamCallsPerMinute >= 0, "UPSTREAM_CALLS_PER_MINUTE", "is negative; 0 is no limit")
	c.check(s.BreakerFailures >= 1, "BREAKER_FAILURES", "is below 1; the least is 1")
	c.positive("BREAKER_OPEN_FOR", s.BreakerOpenFor)
	c.check(s.NegativeTTL >= 0, "NEGATIVE_TTL", "is negative; 0s turns it off")
	c.check(s.MaxConcurrentRequests >= 1, "MAX_CONCURRENT_REQUESTS", "is below 1; the least is 1")
	c.check(!s.KeepRefreshTokens || s.EncryptionKeysFile != "", "KEEP_REFRESH_TOKENS",
		"needs ENCRYPTION_KEYS_FILE: keys derived from the client secret would lose the tokens when it rotates")
	c.check(!s.KeepRefreshTokens || s.RedisURL.Reveal() != "", "KEEP_REFRESH_TOKENS", "needs REDIS_URL to keep them in")
	c.oneOf("LOG_FORMAT", s.LogFormat, "json", "text")
	c.check(s.ShutdownDelay >= 0, "SHUTDOWN_DELAY", "is negative; 0s refuses new requests at once")
	c.check(s.ShutdownTimeout >= 0, "SHUTDOWN_TIMEOUT", "is negative; 0s does not wait")
	for name, path := range map[string]string{
		"HUMANAPI_CLIENT_SECRET_FILE": s.ClientSecretFile, "HUMANAPI_CA_FILE": s.CAFile,
		"CALLER_TOKEN_FILE": s.CallerTokenFile, "REDIS_CA_FILE": s.RedisCAFile,
		"REDIS_PASSWORD_FILE": s.RedisPasswordFile, "ENCRYPTION_KEYS_FILE": s.EncryptionKeysFile,
	} {
		c.readable(name, path)
	}
	slices.SortStableFunc(c.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return c.errs
}

// addressMistakes checks the two addresses, which is all that asking a running sidecar needs.
func (s Settings) addressMistakes() []error {
	var c checker
	if path, unix := strings.CutPrefix(s.ListenAddr, "unix://"); unix {
		c.check(strings.HasPrefix(path, "/"), "LISTEN_ADDR", "names no absolute path; use unix:///path/to.sock")
	} else {
		c.hostPort("LISTEN_ADDR", s.ListenAddr)
	}
	c.hostPort("ADMIN_ADDR", s.AdminAddr)
	return c.errs
}

func (s Settings) redisMistakes(c *checker) {
	c.oneOf("REDIS_MODE", s.RedisMode, "single", "cluster", "sentinel")
	c.positive("REDIS_TIMEOUT", s.RedisTimeout)
	c.check(s.RedisTimeout <= maxRedisTimeout, "REDIS_TIMEOUT",
		fmt.Sprintf("is more than %v, for which every caller would wait; the most is %[1]v", maxRedisTimeout))
	raw := s.RedisURL.Reveal()
	if raw == "" {
		c.check(s.RedisCAFile == "", "REDIS_CA_FILE", "is set but REDIS_URL is not")
		c.check(s.RedisPasswordFile == "", "REDIS_PASSWORD_FILE", "is set but REDIS_URL is not")
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "redis" && u.Scheme != "rediss") {
		// The URL is not echoed: it can hold a password.
		c.add("REDIS_URL", "is no Redis URL; use redis://host:6379/0, or rediss:// for TLS")
		return
	}
	c.check(s.RedisCAFile == "" || u.Scheme == "rediss", "REDIS_CA_FILE", "needs a rediss:// REDIS_URL")
	_, password := u.User.Password()
	if s.RedisMode == "sentinel" { // what stands before the host is the sentinels' own
		password = u.Query().Has("password")
	}
	c.check(s.RedisPasswordFile == "" || !password, "REDIS_PASSWORD_FILE",
		"is set beside a password in REDIS_URL; keep one of them")
}

// checker gathers mistakes.
type checker struct{ errs []error }

func (c *checker) add(name, says string) { c.errs = append(c.errs, fmt.Errorf("%s: %s", name, says)) }

func (c *checker) check(ok bool, name, says string) {
	if !ok {
		c.add(name, says)
	}
}

func (c *checker) positive(name string, d time.Duration) {
	c.check(d > 0, name, "must be longer than 0s")
}

func (c *checker) oneOf(name, value string, allowed ...string) {
	c.check(slices.Contains(allowed, value), name,
		fmt.Sprintf("%q is unknown; use %s", value, strings.Join(allowed, " or ")))
}

func (c *checker) readable(name, path string) {
	if path == "" {
		return
	}
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: cannot read the file: %w", name, err))
		return
	}
	_ = file.Close()
}

func (c *checker) authURL(raw string) {
	const name = "HUMANAPI_AUTH_URL"
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		c.add(name, "is no URL of the form https://host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		c.add(name, "has more than scheme, host and port; the paths are the sidecar's own")
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		c.add(name, "is plain http to another host, which would show the client secret to the network; use https")
	}
}

func (c *checker) hostPort(name, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && strings.ContainsAny(host, "/ ") {
		err = errors.New("bad host")
	}
	c.check(err == nil, name, fmt.Sprintf("%q is no host:port", addr))
}

// loopback reports whether addr, of the form host:port, can be reached from this network namespace only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err != nil || loopbackHost(host)
}

func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

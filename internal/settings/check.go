package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxCallTime bounds UPSTREAM_TIMEOUT times UPSTREAM_MAX_ATTEMPTS.
const maxCallTime = 10 * time.Minute

// mistakes returns what is wrong with s; each error begins with the name of the setting.
func (s Settings) mistakes() []error {
	var c checker
	c.tags(s)
	c.check(s.ClientID != "", "HUMANAPI_CLIENT_ID", "is missing; set it to the client_id of this service at Human API")
	switch secret, file := s.ClientSecret.Reveal() != "", s.ClientSecretFile != ""; {
	case !secret && !file:
		c.add("HUMANAPI_CLIENT_SECRET", "is missing; set it, or HUMANAPI_CLIENT_SECRET_FILE to a file that holds it")
	case secret && file:
		c.add("HUMANAPI_CLIENT_SECRET", "is set beside HUMANAPI_CLIENT_SECRET_FILE; keep one of them")
	}
	c.authURL(s.AuthURL)
	if addresses := s.addressMistakes(); len(addresses) > 0 {
		c.errs = append(c.errs, addresses...)
	} else {
		c.check(!overlap(s.ListenAddr, s.AdminAddr), "ADMIN_ADDR", "has the port of LISTEN_ADDR; choose another one")
	}
	if s.ListensBeyondLoopback() {
		c.check(s.AllowRemoteCallers && s.CallerTokenFile != "", "LISTEN_ADDR",
			"reaches beyond loopback; keep localhost, or set ALLOW_REMOTE_CALLERS=true and CALLER_TOKEN_FILE")
	}
	c.check(!s.GenerateCallerToken || s.CallerTokenFile != "", "CALLER_TOKEN_GENERATE",
		"needs CALLER_TOKEN_FILE, the file to write the token to")
	s.redisMistakes(&c)

	if n := s.UpstreamMaxAttempts; n >= 1 && n <= 10 && s.UpstreamTimeout <= maxCallTime {
		longest := maxCallTime / time.Duration(n)
		c.check(s.UpstreamTimeout <= longest, "UPSTREAM_TIMEOUT", fmt.Sprintf(
			"times UPSTREAM_MAX_ATTEMPTS is more than %s, for which no caller waits; with %d attempts the most is %s",
			short(maxCallTime), n, short(longest)))
	}
	switch keys, redis := s.EncryptionKeysFile != "", s.RedisURL.Reveal() != ""; {
	case s.KeepRefreshTokens && !keys:
		c.add("KEEP_REFRESH_TOKENS", "needs ENCRYPTION_KEYS_FILE, and REDIS_URL; keys derived from the client secret would lose the tokens when it rotates")
	case s.KeepRefreshTokens && !redis:
		c.add("KEEP_REFRESH_TOKENS", "needs REDIS_URL, to keep them in")
	}
	s.auditMistakes(&c)
	return c.errs
}

// addressMistakes checks the format of the two addresses, the only settings needed to ask a running sidecar.
func (s Settings) addressMistakes() []error {
	var c checker
	if path, unix := strings.CutPrefix(s.ListenAddr, "unix://"); unix {
		c.check(strings.HasPrefix(path, "/"), "LISTEN_ADDR", "names no absolute path; use unix:///path/to.sock")
	} else {
		c.hostPort("LISTEN_ADDR", s.ListenAddr, "; use localhost:8080, or unix:///path/to.sock")
	}
	c.hostPort("ADMIN_ADDR", s.AdminAddr, "; use :8081, or an address of the pod before it")
	return c.errs
}

func (s Settings) redisMistakes(c *checker) {
	raw := s.RedisURL.Reveal()
	if raw == "" {
		c.check(s.RedisCAFile == "", "REDIS_CA_FILE", "is set but REDIS_URL is not; set it, or remove this")
		c.check(s.RedisPasswordFile == "", "REDIS_PASSWORD_FILE", "is set but REDIS_URL is not; set it, or remove this")
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "redis" && u.Scheme != "rediss") {
		c.add("REDIS_URL", "is not a Redis URL; use redis://host:6379/0, or rediss:// for TLS")
		return
	}
	c.check(s.RedisCAFile == "" || u.Scheme == "rediss", "REDIS_CA_FILE", "needs TLS; let REDIS_URL begin with rediss://")
	_, password := u.User.Password()
	if s.RedisMode == "sentinel" { // a user before the host is for the sentinels
		password = u.Query().Has("password")
	}
	c.check(s.RedisPasswordFile == "" || !password, "REDIS_PASSWORD_FILE",
		"is set beside a password in REDIS_URL; keep one of them")
}

// A checker collects mistakes.
type checker struct{ errs []error }

func (c *checker) add(name, says string) { c.errs = append(c.errs, fmt.Errorf("%s: %s", name, says)) }

func (c *checker) check(ok bool, name, says string) {
	if !ok {
		c.add(name, says)
	}
}

// tags checks s against the tags oneOf, min and max.
func (c *checker) tags(s Settings) {
	values := reflect.ValueOf(s)
	for field := range values.Type().Fields() {
		name, value := field.Tag.Get("env"), values.FieldByIndex(field.Index)
		if allowed := choices(field); allowed != nil {
			for one := range strings.SplitSeq(show(value.Interface()), ",") {
				if !slices.Contains(allowed, one) {
					c.add(name, "is unknown; use "+takes(field))
					break
				}
			}
		}
		if least, most, bounded := bounds(field); bounded {
			c.check(value.Int() >= least && value.Int() <= most, name, "is out of range; use "+takes(field))
		}
	}
}

func (c *checker) authURL(raw string) {
	const name = "HUMANAPI_AUTH_URL"
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		c.add(name, "is not a URL of the form https://host; the auth service's is https://auth.humanapi.co")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		c.add(name, "has more than scheme, host and port; remove the rest, the paths are the sidecar's own")
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		c.add(name, "is plain http to another host, which would show the client secret to the network; use https")
	}
}

func (c *checker) hostPort(name, addr, remedy string) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && strings.ContainsAny(host, "/ @") {
		err = errors.New("bad host")
	}
	c.check(err == nil, name, "is not a host:port"+remedy)
}

// overlap reports whether a and b cannot both be listened on.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	ipA, errA := netip.ParseAddr(hostA)
	ipB, errB := netip.ParseAddr(hostB)
	apart := errA == nil && errB == nil && !ipA.IsUnspecified() && !ipB.IsUnspecified() && ipA != ipB
	return !apart
}

// loopback reports whether addr, in the format host:port, can be reached from this network namespace only.
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

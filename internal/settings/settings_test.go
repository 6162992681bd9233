package settings

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"token-sidecar/internal/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var enough = []string{"HUMANAPI_CLIENT_ID=id", "HUMANAPI_CLIENT_SECRET=s3cr3t"}

func TestDefaults(t *testing.T) {
	s, err := Load(append([]string{"REDIS_URL=", "LOG_LEVEL="}, enough...))
	if err != nil {
		t.Fatal(err)
	}
	if s.AuthURL != "https://auth.humanapi.co" || s.ListenAddr != "localhost:8080" || s.AdminAddr != ":8081" ||
		s.TokenPath() != "/v1/connect/token" ||
		s.RedisTimeout != 250*time.Millisecond || s.MemoryCacheSize != 32<<20 || s.MemoryCacheTTL != time.Minute ||
		s.ExpiryMargin != time.Minute ||
		s.RefreshAhead != 10*time.Minute || s.UpstreamTimeout != 5*time.Second || s.UpstreamMaxAttempts != 3 ||
		s.UpstreamMaxConcurrent != 64 || s.UpstreamCallsPerMinute != 0 || s.BreakerFailures != 5 ||
		s.BreakerOpenFor != 30*time.Second || s.NegativeTTL != 10*time.Second || s.MaxConcurrentRequests != 4096 ||
		s.ShutdownTimeout != 15*time.Second || s.ShutdownDelay != 0 || !s.FastPath ||
		strings.Join(s.AllowedTypes, " ") != "access client id id_token session" {
		t.Errorf("%+v", s)
	}
}

// TestMistakes: each wrong value is an error that begins with the setting's name.
func TestMistakes(t *testing.T) {
	for _, c := range []string{
		"HUMANAPI_CLIENT_ID=", "HUMANAPI_CLIENT_SECRET=", "HUMANAPI_AUTH_URL=http://auth.example",
		"HUMANAPI_AUTH_URL=auth.example",
		"HUMANAPI_AUTH_URL=https://u:p@auth.example", "HUMANAPI_AUTH_URL=https://auth.example/v1",
		"HUMANAPI_AUTH_URL=ftp://auth.example",
		"HUMANAPI_PRODUCT=other", "LISTEN_ADDR=0.0.0.0:8080", "LISTEN_ADDR=:8080", "LISTEN_ADDR=8080",
		"LISTEN_ADDR=unix://relative",
		"ADMIN_ADDR=nope", "ADMIN_ADDR=:99999", "ALLOW_REMOTE_CALLERS=maybe", "REDIS_URL=localhost:6379",
		"REDIS_URL=http://r", "REDIS_MODE=ring",
		"REDIS_TIMEOUT=0s", "REDIS_TIMEOUT=2001ms", "REDIS_TIMEOUT=250", "REDIS_CA_FILE=/dev/null",
		"REDIS_PASSWORD_FILE=/dev/null", "MEMORY_CACHE_SIZE=0",
		"MEMORY_CACHE_SIZE=many", "MEMORY_CACHE_TTL=-1s", "EXPIRY_MARGIN=-1s", "REFRESH_AHEAD=-1s", "UPSTREAM_TIMEOUT=0s",
		"UPSTREAM_TIMEOUT=1000000h", "UPSTREAM_TIMEOUT=201s", "UPSTREAM_MAX_ATTEMPTS=0", "UPSTREAM_MAX_ATTEMPTS=11",
		"UPSTREAM_MAX_CONCURRENT=0", "UPSTREAM_MAX_CONCURRENT=-1", "UPSTREAM_CALLS_PER_MINUTE=-1",
		"UPSTREAM_CALLS_PER_MINUTE=1.5",
		"BREAKER_FAILURES=0", "BREAKER_OPEN_FOR=0s", "NEGATIVE_TTL=-1s",
		"MAX_CONCURRENT_REQUESTS=0", "KEEP_REFRESH_TOKENS=true", "FAST_PATH=maybe", "LOG_LEVEL=loud", "LOG_FORMAT=xml",
		"SHUTDOWN_TIMEOUT=-1s",
		"SHUTDOWN_DELAY=-1s", "SHUTDOWN_DELAY=5", "ALLOWED_TYPES=access,refresh", "ALLOWED_TYPES=Access",
		"ALLOWED_TYPES=access,",
		"CALLER_TOKEN_GENERATE=true", "CALLER_TOKEN_GENERATE=maybe",
		"ADMIN_ADDR=127.0.0.1:8080", "ADMIN_ADDR=:8080", "ADMIN_ADDR=u:p@h:1", "LOG_LEVEL=info+1",
		"AUDIT_LOG=stdout", "AUDIT_LOG=true", "AUDIT_LOG=relative/file", "AUDIT_KEY_FILE=/dev/null",
	} {
		t.Run(c, func(t *testing.T) {
			_, err := Load(append(append([]string{}, enough...), c))
			name, _, _ := strings.Cut(c, "=")
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestTwoRedisPasswords: the password for the data must be given only once.
func TestTwoRedisPasswords(t *testing.T) {
	for mode, url := range map[string]string{
		"single": "redis://:p@r", "cluster": "redis://:p@r", "sentinel": "redis://r?master_name=m&password=p",
	} {
		_, err := Load(append([]string{
			"REDIS_MODE=" + mode, "REDIS_URL=" + url,
			"REDIS_PASSWORD_FILE=" + testbed.WriteFile(t, "password", "p"),
		}, enough...))
		if err == nil || !strings.HasPrefix(err.Error(), "REDIS_PASSWORD_FILE: ") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// TestAllMistakesAtOnce: in the order of the settings, each once.
func TestAllMistakesAtOnce(t *testing.T) {
	var environ []string
	for _, name := range names() {
		environ = append(environ, name+"=wrong value")
	}
	environ = append(environ, "HUMANAPI_CLIENT_ID=")
	_, err := Load(environ)
	var told []string
	for line := range strings.Lines(err.Error()) {
		name, _, _ := strings.Cut(line, ":")
		told = append(told, name)
	}
	want := slices.DeleteFunc(names(), func(name string) bool {
		// Texts; the content of files is not checked here.
		return name == "HUMANAPI_CLIENT_SECRET_FILE" || strings.HasSuffix(name, "_FILE")
	})
	if !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
}

func TestAccepted(t *testing.T) {
	token := testbed.WriteFile(t, "token", "t")
	for name, environ := range map[string][]string{
		"loopback http":  {"HUMANAPI_AUTH_URL=http://127.0.0.1:8090"},
		"trailing slash": {"HUMANAPI_AUTH_URL=https://auth.example/"},
		"remote callers": {"LISTEN_ADDR=0.0.0.0:8080", "ALLOW_REMOTE_CALLERS=true", "CALLER_TOKEN_FILE=" + token},
		"socket":         {"LISTEN_ADDR=unix:///run/token.sock"},
		"rediss":         {"REDIS_URL=rediss://u:p@r:6379/0"},
		"no fast path":   {"FAST_PATH=false"},
		"unknown names":  {"PATH=/bin", "TOKEN=x"},
		"long limits":    {"UPSTREAM_TIMEOUT=200s", "REDIS_TIMEOUT=2s"},
		"made token":     {"CALLER_TOKEN_GENERATE=true", "CALLER_TOKEN_FILE=/run/token"},
		"audit log":      {"AUDIT_LOG=stdout", "AUDIT_KEY_FILE=" + token},
		"audit file":     {"AUDIT_LOG=/var/log/audit.log", "AUDIT_KEY_FILE=" + token},
		"one type":       {"ALLOWED_TYPES=client"},
		"with spaces":    {"ALLOWED_TYPES=access, client"},
		"the sentinels' own password beside a file": {
			"REDIS_MODE=sentinel", "REDIS_URL=rediss://:sentinels@r:26379?master_name=m&username=u",
			"REDIS_PASSWORD_FILE=" + token,
		},
	} {
		s, err := Load(append(append([]string{}, enough...), environ...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.HasSuffix(s.AuthURL, "/") {
			t.Errorf("%s: AuthURL %q", name, s.AuthURL)
		}
	}
}

func TestListHidesSecrets(t *testing.T) {
	s, err := Load(append([]string{"REDIS_URL=redis://u:hunter2@r:6379"}, enough...))
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprint(s.List(nil), s)
	for _, hidden := range []string{"s3cr3t", "hunter2"} {
		if strings.Contains(list, hidden) {
			t.Errorf("%q in %s", hidden, list)
		}
	}
	for _, setting := range s.List(nil) {
		if setting.Name == "" || setting.Doc == "" || setting.Takes == "" {
			t.Errorf("%+v has no name or help", setting)
		}
	}
}

// TestTheToolsNeedOnlyAddresses: whatever is wrong with the other settings.
func TestTheToolsNeedOnlyAddresses(t *testing.T) {
	var environ []string
	for _, name := range names() {
		environ = append(environ, name+"=wrong")
	}
	environ = append(environ, "ADMIN_ADDR=:1")
	if s, err := LoadOnly(environ, "ADMIN_ADDR"); err != nil || s.AdminAddr != ":1" {
		t.Errorf("%v", err)
	}
	environ = append(environ, "LISTEN_ADDR=0.0.0.0:1", "CALLER_TOKEN_FILE=x")
	if s, err := LoadOnly(environ, "LISTEN_ADDR", "CALLER_TOKEN_FILE"); err != nil || s.ListenAddr != "0.0.0.0:1" {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"LISTEN_ADDR", "ADMIN_ADDR"} {
		if _, err := LoadOnly([]string{name + "=x"}, name); err == nil {
			t.Error("a wrong address was taken")
		}
	}
}

// TestWhereAnyHostIsTaken: only where the Host check would reject legitimate callers and something else protects the
// port.
func TestWhereAnyHostIsTaken(t *testing.T) {
	token := "CALLER_TOKEN_FILE=" + testbed.WriteFile(t, "token", "t")
	const allow = "ALLOW_REMOTE_CALLERS=true"
	for _, c := range []struct {
		want    bool
		environ []string
	}{
		{false, nil},
		{false, []string{allow}},
		{false, []string{allow, token}},
		{false, []string{allow, token, "LISTEN_ADDR=127.0.0.1:8080"}},
		{false, []string{allow, token, "LISTEN_ADDR=[::1]:8080"}},
		{false, []string{token}},
		{true, []string{allow, token, "LISTEN_ADDR=0.0.0.0:8080"}},
		{true, []string{allow, token, "LISTEN_ADDR=:8080"}},
		{true, []string{"LISTEN_ADDR=unix:///run/token.sock"}},
	} {
		s, err := Load(append(append([]string{}, enough...), c.environ...))
		if err != nil || s.TakesAnyHost() != c.want {
			t.Errorf("%q: %v, %v", c.environ, s.TakesAnyHost(), err)
		}
	}
	if (Settings{ListenAddr: "0.0.0.0:8080", AllowRemoteCallers: true}).TakesAnyHost() {
		t.Error("without a caller token")
	}
}

// Package settings reads the sidecar's settings from the environment and checks them.
//
// [Load] tells every mistake at once, each naming the setting and the remedy. Secrets are held in
// [secret.Text] and cannot be printed.
package settings

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"token-sidecar/internal/secret"
)

// Settings are the settings in force. The env tag is the name users meet, the doc tag one line of help.
type Settings struct {
	ClientID         string      `env:"HUMANAPI_CLIENT_ID" doc:"client_id of this service at Human API; required"`
	ClientSecret     secret.Text `env:"HUMANAPI_CLIENT_SECRET" doc:"client secret; this or the file is required"`
	ClientSecretFile string      `env:"HUMANAPI_CLIENT_SECRET_FILE" doc:"file with the client secret, read again when it changes"`
	AuthURL          string      `env:"HUMANAPI_AUTH_URL" envDefault:"https://auth.humanapi.co" doc:"auth service; plain http only to loopback"`
	CAFile           string      `env:"HUMANAPI_CA_FILE" doc:"PEM certificates to trust for the auth service instead of the system's, read again when they change"`
	Product          string      `env:"HUMANAPI_PRODUCT" envDefault:"connect" doc:"where /token asks: connect or hip"`

	ListenAddr         string `env:"LISTEN_ADDR" envDefault:"localhost:8080" doc:"where callers ask: host:port, localhost being both loopback addresses, or unix:///path"`
	AdminAddr          string `env:"ADMIN_ADDR" envDefault:":8081" doc:"probes, metrics and status page; never a token"`
	AllowRemoteCallers bool   `env:"ALLOW_REMOTE_CALLERS" envDefault:"false" doc:"lets LISTEN_ADDR reach beyond loopback; needs CALLER_TOKEN_FILE"`
	CallerTokenFile    string `env:"CALLER_TOKEN_FILE" doc:"file with the bearer token that callers must send"`

	AllowedTypes []string `env:"ALLOWED_TYPES" envDefault:"access,client,id,id_token,session" doc:"types of token that callers may ask for"`

	RedisURL          secret.Text   `env:"REDIS_URL" doc:"redis:// or rediss://; empty keeps tokens in memory only"`
	RedisMode         string        `env:"REDIS_MODE" envDefault:"single" doc:"single, cluster or sentinel"`
	RedisCAFile       string        `env:"REDIS_CA_FILE" doc:"PEM certificates to trust for Redis instead of the system's, read again when they change; needs rediss://"`
	RedisPasswordFile string        `env:"REDIS_PASSWORD_FILE" doc:"file with the Redis password, read again when it changes"`
	RedisTimeout      time.Duration `env:"REDIS_TIMEOUT" envDefault:"250ms" doc:"limit of a whole cache step, retries and dialling included"`

	MemoryCacheSize Size          `env:"MEMORY_CACHE_SIZE" envDefault:"32MiB" doc:"bound of what memory keeps, in bytes, refusals included"`
	MemoryCacheTTL  time.Duration `env:"MEMORY_CACHE_TTL" envDefault:"1m" doc:"how long memory is trusted without asking Redis"`
	ExpiryMargin    time.Duration `env:"EXPIRY_MARGIN" envDefault:"60s" doc:"no token is served this close to its end (at most a tenth of its life)"`
	RefreshAhead    time.Duration `env:"REFRESH_AHEAD" envDefault:"10m" doc:"renewal starts this long before the margin (at most a fifth of its life)"`

	UpstreamTimeout        time.Duration `env:"UPSTREAM_TIMEOUT" envDefault:"5s" doc:"limit of one attempt at the auth service"`
	UpstreamMaxAttempts    int           `env:"UPSTREAM_MAX_ATTEMPTS" envDefault:"3" doc:"attempts of one call"`
	UpstreamMaxConcurrent  int           `env:"UPSTREAM_MAX_CONCURRENT" envDefault:"64" doc:"calls of this sidecar at once; the others wait their turn, callers before renewals"`
	UpstreamCallsPerMinute int           `env:"UPSTREAM_CALLS_PER_MINUTE" envDefault:"0" doc:"calls of the whole fleet in a minute; 0 is no limit"`
	BreakerFailures        int           `env:"BREAKER_FAILURES" envDefault:"5" doc:"consecutive failed calls that open the breaker"`
	BreakerOpenFor         time.Duration `env:"BREAKER_OPEN_FOR" envDefault:"30s" doc:"how long the breaker stays open before a trial call"`
	NegativeTTL            time.Duration `env:"NEGATIVE_TTL" envDefault:"10s" doc:"how long a refusal is remembered; 0 turns it off"`

	MaxConcurrentRequests int           `env:"MAX_CONCURRENT_REQUESTS" envDefault:"4096" doc:"requests that wait for Redis or the auth service at most; above it callers get 503 OVERLOADED"`
	FastPath              bool          `env:"FAST_PATH" envDefault:"true" doc:"answers plain requests for tokens in memory below net/http; false: net/http alone"`
	EncryptionKeysFile    string        `env:"ENCRYPTION_KEYS_FILE" doc:"base64 32-byte keys, one a line: the first seals, all open; empty: derived from the client secret"`
	KeepRefreshTokens     bool          `env:"KEEP_REFRESH_TOKENS" envDefault:"false" doc:"keep the newest refresh_token of each user in Redis; needs ENCRYPTION_KEYS_FILE"`
	LogLevel              slog.Level    `env:"LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	LogFormat             string        `env:"LOG_FORMAT" envDefault:"json" doc:"json or text"`
	ShutdownTimeout       time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"15s" doc:"how long requests in progress may take after SIGTERM and SHUTDOWN_DELAY"`
	ShutdownDelay         time.Duration `env:"SHUTDOWN_DELAY" envDefault:"0s" doc:"how long everything is still served after SIGTERM, with /readyz 503"`
}

// Load reads the settings from environ, which has the form of [os.Environ], and checks them. Values are
// trimmed as [secret.Trim] does; an empty one counts as not set. The error joins one error for each mistake.
func Load(environ []string) (Settings, error) { return load(environ, Settings.mistakes) }

// LoadAdmin reads the settings without requiring those that only serving needs, for the commands that ask a
// running sidecar.
func LoadAdmin(environ []string) (Settings, error) {
	return load(environ, func(s Settings) []error { return s.addressMistakes() })
}

func load(environ []string, check func(Settings) []error) (Settings, error) {
	given := env.ToMap(environ)
	for name, value := range given {
		if given[name] = secret.Trim(value); given[name] == "" {
			delete(given, name)
		}
	}
	s, err := env.ParseAsWithOptions[Settings](env.Options{
		Environment: given,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[secret.Text](): func(v string) (any, error) { return secret.Hide(v), nil },
			reflect.TypeFor[slog.Level]():  func(v string) (any, error) { return parseLevel(v) },
		},
	})
	for i, kind := range s.AllowedTypes {
		s.AllowedTypes[i] = strings.TrimSpace(kind)
	}
	mistakes, unread := parseMistakes(err)
	// A setting that could not be read holds its zero value; what the check says of it would mislead.
	for _, m := range check(s) {
		if name, _, _ := strings.Cut(m.Error(), ":"); !unread[name] {
			mistakes = append(mistakes, m)
		}
	}
	s.AuthURL = strings.TrimRight(s.AuthURL, "/")
	return s, errors.Join(mistakes...)
}

// parseMistakes rewrites the library's errors, which name struct fields, to name settings.
func parseMistakes(err error) (mistakes []error, unread map[string]bool) {
	unread = make(map[string]bool)
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			mistakes = append(mistakes, err)
		}
		return mistakes, unread
	}
	for _, e := range all.Errors {
		var parse env.ParseError
		if !errors.As(e, &parse) {
			mistakes = append(mistakes, e)
			continue
		}
		field, _ := reflect.TypeFor[Settings]().FieldByName(parse.Name)
		name := field.Tag.Get("env")
		unread[name] = true
		mistakes = append(mistakes, fmt.Errorf("%s: %w; it takes %s", name, parse.Err, takes(field.Type)))
	}
	return mistakes, unread
}

func takes(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 250ms, 60s or 10m"
	case reflect.TypeFor[bool]():
		return "true or false"
	case reflect.TypeFor[slog.Level]():
		return "debug, info, warn or error"
	default:
		return "a whole number"
	}
}

func parseLevel(v string) (slog.Level, error) {
	switch strings.ToLower(v) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	default:
		return 0, fmt.Errorf("unknown level %q", v)
	}
}

// A Setting is one setting as [Settings.List] tells it.
type Setting struct {
	Name  string // of the environment variable
	Value string // in force; secrets hidden
	Doc   string // one line of help
}

// List returns the settings in force in the order of their declaration, secrets hidden.
func (s Settings) List() []Setting {
	v := reflect.ValueOf(s)
	list := make([]Setting, 0, v.NumField())
	for field := range v.Type().Fields() {
		list = append(list, Setting{
			Name:  field.Tag.Get("env"),
			Value: show(v.FieldByIndex(field.Index).Interface()),
			Doc:   field.Tag.Get("doc"),
		})
	}
	return list
}

func show(v any) string {
	switch v := v.(type) {
	case secret.Text:
		if v.Reveal() == "" {
			return ""
		}
		return v.String()
	case slog.Level:
		return strings.ToLower(v.String())
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// Fingerprint is the same for the same settings, secrets aside, so that pods that differ can be told.
func (s Settings) Fingerprint() string {
	hash := sha256.New()
	for _, setting := range s.List() {
		_, _ = fmt.Fprintf(hash, "%s=%q\n", setting.Name, setting.Value)
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}

// OpenSecret returns the client secret, from its file if one is named.
func (s Settings) OpenSecret(log *slog.Logger) (*secret.File, error) {
	if s.ClientSecretFile == "" {
		return secret.Fixed(s.ClientSecret.Reveal()), nil
	}
	return secret.Open("HUMANAPI_CLIENT_SECRET_FILE", s.ClientSecretFile, nil, log)
}

// TokenPath is the auth service's call that /token stands for.
func (s Settings) TokenPath() string {
	if s.Product == "hip" {
		return "/v1/admin/token"
	}
	return "/v1/connect/token"
}

// ListensOnSocket reports whether LISTEN_ADDR is a unix socket.
func (s Settings) ListensOnSocket() bool { return strings.HasPrefix(s.ListenAddr, "unix://") }

// ListensBeyondLoopback reports whether LISTEN_ADDR can be reached from outside the pod.
func (s Settings) ListensBeyondLoopback() bool {
	return !s.ListensOnSocket() && !loopback(s.ListenAddr)
}

// TakesAnyHost reports whether callers may name any Host: by a socket file there is none to check, and beyond loopback,
// where they come by other names, a caller token keeps strangers out in its place.
func (s Settings) TakesAnyHost() bool {
	return s.ListensOnSocket() || s.ListensBeyondLoopback() && s.AllowRemoteCallers && s.CallerTokenFile != ""
}

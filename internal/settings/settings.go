// Package settings reads the sidecar's settings from the environment and checks them.
//
// [Load] reports all mistakes at once, each with the name of the setting and the remedy. Secrets are held in
// [secret.Text] and cannot be printed.
package settings

import (
	"log/slog"
	"strings"
	"time"

	"token-sidecar/internal/secret"
)

// Settings are the settings in use. The tags of a field contain its name in the environment, its default, restrictions
// beyond its type (oneOf, min, max, and what a text is), and in one line what it does. Parsing, checking, the output of
// "token-sidecar config" and docs/settings.md use these tags.
type Settings struct {
	ClientID         string      `env:"HUMANAPI_CLIENT_ID" is:"a text; required" doc:"client_id of this service at Human API"`
	ClientSecret     secret.Text `env:"HUMANAPI_CLIENT_SECRET" is:"a text; this or the file is required" doc:"client secret of this service at Human API"`
	ClientSecretFile string      `env:"HUMANAPI_CLIENT_SECRET_FILE" is:"a file" doc:"file with the client secret"`
	AuthURL          string      `env:"HUMANAPI_AUTH_URL" envDefault:"https://auth.humanapi.co" is:"https://host, or http:// to loopback" doc:"the auth service"`
	CAFile           string      `env:"HUMANAPI_CA_FILE" is:"a file" doc:"PEM certificates to trust for the auth service instead of the system's"`
	Product          string      `env:"HUMANAPI_PRODUCT" envDefault:"connect" oneOf:"connect,hip" doc:"where /token asks: connect is /v1/connect/token, hip is /v1/admin/token"`

	ListenAddr          string   `env:"LISTEN_ADDR" envDefault:"localhost:8080" is:"host:port or unix:///path" doc:"where callers ask; localhost is both loopback addresses"`
	AdminAddr           string   `env:"ADMIN_ADDR" envDefault:":8081" is:"host:port" doc:"probes, metrics and status page; never a token"`
	AllowRemoteCallers  bool     `env:"ALLOW_REMOTE_CALLERS" envDefault:"false" doc:"lets LISTEN_ADDR reach beyond loopback; needs CALLER_TOKEN_FILE"`
	CallerTokenFile     string   `env:"CALLER_TOKEN_FILE" is:"a file" doc:"file with the bearer token that callers must send"`
	GenerateCallerToken bool     `env:"CALLER_TOKEN_GENERATE" envDefault:"false" doc:"writes a random token to CALLER_TOKEN_FILE at start, unless the file holds one"`
	AllowedTypes        []string `env:"ALLOWED_TYPES" envDefault:"access,client,id,id_token,session" oneOf:"access,client,id,id_token,session" doc:"types of token that callers may ask for; others get 403 TYPE_NOT_ALLOWED"`

	RedisURL          secret.Text   `env:"REDIS_URL" is:"redis://host:6379/0, or rediss:// for TLS" doc:"Redis, where the fleet shares tokens; empty keeps them in memory only"`
	RedisMode         string        `env:"REDIS_MODE" envDefault:"single" oneOf:"single,cluster,sentinel" doc:"what REDIS_URL names"`
	RedisCAFile       string        `env:"REDIS_CA_FILE" is:"a file" doc:"PEM certificates to trust for Redis instead of the system's; needs rediss://"`
	RedisPasswordFile string        `env:"REDIS_PASSWORD_FILE" is:"a file" doc:"file with the password of Redis"`
	RedisTimeout      time.Duration `env:"REDIS_TIMEOUT" envDefault:"250ms" min:"1ms" max:"2s" doc:"limit of a whole cache step, retries and dialling included"`

	MemoryCacheSize Size          `env:"MEMORY_CACHE_SIZE" envDefault:"32MiB" min:"1MiB" max:"1024GiB" doc:"bound of what memory keeps, refusals included"`
	MemoryCacheTTL  time.Duration `env:"MEMORY_CACHE_TTL" envDefault:"1m" min:"1ms" max:"24h" doc:"how long memory answers without asking Redis"`
	ExpiryMargin    time.Duration `env:"EXPIRY_MARGIN" envDefault:"60s" min:"0s" max:"24h" doc:"no token is served this close to its end, or in the last tenth of its life if that is less"`
	RefreshAhead    time.Duration `env:"REFRESH_AHEAD" envDefault:"10m" min:"0s" max:"24h" doc:"renewal starts this long before the margin, or a fifth of the life if that is less; 0s turns it off"`

	UpstreamTimeout        time.Duration `env:"UPSTREAM_TIMEOUT" envDefault:"5s" min:"1ms" max:"10m" doc:"limit of one attempt at the auth service; times UPSTREAM_MAX_ATTEMPTS at most 10m"`
	UpstreamMaxAttempts    int           `env:"UPSTREAM_MAX_ATTEMPTS" envDefault:"3" min:"1" max:"10" doc:"attempts of one call; beyond the first few, at most one attempt in five is a retry"`
	UpstreamMaxConcurrent  int           `env:"UPSTREAM_MAX_CONCURRENT" envDefault:"64" min:"1" max:"100000" doc:"calls of this sidecar to the auth service at once; the others wait their turn, callers before renewals"`
	UpstreamCallsPerMinute int           `env:"UPSTREAM_CALLS_PER_MINUTE" envDefault:"0" min:"0" max:"1000000" doc:"calls of the whole fleet in any minute, a tenth of them at once; 0 is no limit"`
	BreakerFailures        int           `env:"BREAKER_FAILURES" envDefault:"5" min:"1" max:"1000000" doc:"failed calls in a row that open the breaker of a path; refusals do not count"`
	BreakerOpenFor         time.Duration `env:"BREAKER_OPEN_FOR" envDefault:"30s" min:"1ms" max:"24h" doc:"how long the breaker stays open before a trial call"`
	NegativeTTL            time.Duration `env:"NEGATIVE_TTL" envDefault:"10s" min:"0s" max:"24h" doc:"how long a refusal is remembered; 0s turns it off"`

	MaxConcurrentRequests int           `env:"MAX_CONCURRENT_REQUESTS" envDefault:"4096" min:"1" max:"1000000" doc:"requests that wait for Redis or the auth service at once; above it callers get 503 OVERLOADED, unless memory can answer"`
	FastPath              bool          `env:"FAST_PATH" envDefault:"true" doc:"answers plain requests for tokens in memory below net/http"`
	EncryptionKeysFile    string        `env:"ENCRYPTION_KEYS_FILE" is:"a file" doc:"base64 32-byte keys, one a line: the first seals, all open; empty derives one from the client secret"`
	KeepRefreshTokens     bool          `env:"KEEP_REFRESH_TOKENS" envDefault:"false" doc:"keeps the newest refresh_token of each user in Redis; needs ENCRYPTION_KEYS_FILE"`
	LogLevel              slog.Level    `env:"LOG_LEVEL" envDefault:"info" oneOf:"debug,info,warn,error" doc:"the least level that is logged"`
	LogFormat             string        `env:"LOG_FORMAT" envDefault:"json" oneOf:"json,text" doc:"form of the log"`
	AuditLog              string        `env:"AUDIT_LOG" is:"stdout or a file" doc:"where a JSON line is written for each token vended or refused; needs AUDIT_KEY_FILE"`
	AuditKeyFile          string        `env:"AUDIT_KEY_FILE" is:"a file" doc:"base64 keys of 32 bytes or more, one a line: the first makes the audit log's pseudonyms"`
	ShutdownTimeout       time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"15s" min:"0s" max:"24h" doc:"how long requests in progress may take after SIGTERM and SHUTDOWN_DELAY"`
	ShutdownDelay         time.Duration `env:"SHUTDOWN_DELAY" envDefault:"0s" min:"0s" max:"24h" doc:"how long everything is still served after SIGTERM, with /readyz 503"`
}

// TokenPath is the path of the auth service for /token.
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

// TakesAnyHost reports whether callers may send any Host. On a socket file there is nothing to check; beyond loopback,
// callers use other names, and the caller token keeps strangers out.
func (s Settings) TakesAnyHost() bool {
	return s.ListensOnSocket() || s.ListensBeyondLoopback() && s.AllowRemoteCallers && s.CallerTokenFile != ""
}

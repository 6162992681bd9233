package app

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/settings"
	"token-sidecar/upstream"
)

// A Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	// State is ok, failed or skipped.
	State string `json:"state"`
	// Says is the result in words, with the remedy after a failure.
	Says string `json:"says,omitempty"`
}

// The states of a Finding.
const (
	StateOK      = "ok"
	StateFailed  = "failed"
	StateSkipped = "skipped"
)

// CheckOptions say what to request from the auth service.
type CheckOptions struct {
	// Type is the type of the token, and User its user. Without a user, only type client is requested.
	Type string
	User secret.Text
}

// Check tries everything that the settings in environ need for serving: what [Load] checks, the auth service and Redis.
// It returns when ctx ends at the latest.
func Check(ctx context.Context, environ []string, o CheckOptions) (found []Finding) {
	s, err := Load(ctx, environ)
	wrong := settings.Wrong(err)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			found = append(found, failed("settings", line))
		}
	} else {
		found = append(found, ok("settings", ""))
	}
	isWrong := func(prefix string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(wrong)),
			func(name string) bool { return strings.HasPrefix(name, prefix) })
	}
	files, _ := openFiles(s, slog.New(slog.DiscardHandler)) // Load has reported what is wrong with them
	auth, redis := []Finding{skipped("auth service", settingsFirst)}, []Finding{skipped("redis", settingsFirst)}
	var both sync.WaitGroup
	if !isWrong("HUMANAPI_") && !isWrong("UPSTREAM_") {
		both.Go(func() { auth = checkAuth(ctx, s, files, o) })
	}
	if !isWrong("REDIS_") {
		both.Go(func() { redis = checkRedis(ctx, s, files) })
	}
	both.Wait()
	return append(append(found, auth...), redis...)
}

func ok(check, says string) Finding      { return Finding{check, StateOK, says} }
func failed(check, says string) Finding  { return Finding{check, StateFailed, says} }
func skipped(check, says string) Finding { return Finding{check, StateSkipped, says} }

const settingsFirst = "not tried: correct its settings first"

func checkAuth(ctx context.Context, s settings.Settings, f files, o CheckOptions) []Finding {
	const check = "auth service"
	source := newUpstream(s, f, nil, Options{})
	defer source.Close()
	host := hostOf(s.AuthURL)
	if o.User.Reveal() == "" && o.Type != typeClient {
		if err := source.Reach(ctx); err != nil {
			return []Finding{failed(check, told(err))}
		}
		return []Finding{ok(check, host+" can be reached; no token was asked for, --user does that")}
	}
	path := s.TokenPath()
	if o.Type == typeClient {
		path = upstream.AdminPath
	}
	_, err := source.Token(ctx, upstream.Request{Path: path, Type: o.Type, UserID: o.User})
	if err != nil {
		return []Finding{failed(check, told(err))}
	}
	return []Finding{ok(check, host+" gave a token, which is not shown")}
}

// typeClient is the type of token that belongs to no user.
const typeClient = "client"

// told formats an error of the auth service with its remedy.
func told(err error) string {
	e, is := errors.AsType[*upstream.Error](err)
	if !is {
		return "it was given up"
	}
	text := e.Error() + "; " + remedy(e)
	if e.RequestID != "" {
		text += " (x-humanapi-request-id " + e.RequestID + ")"
	}
	return text
}

func remedy(e *upstream.Error) string {
	switch e.Kind {
	case upstream.Timeout:
		return "check the network policy, HTTPS_PROXY and UPSTREAM_TIMEOUT"
	case upstream.BadResponse:
		return "check HUMANAPI_AUTH_URL"
	case upstream.RateLimited:
		return "wait, and try again"
	case upstream.ClientRefused, upstream.Unauthorized:
		return "check HUMANAPI_CLIENT_ID and HUMANAPI_CLIENT_SECRET or its file"
	case upstream.Refused:
		return "the credentials were taken; name another --user or --type, or ask the auth service's support"
	default:
		if e.Status != 0 {
			return "see the auth service's status page"
		}
		return "check HUMANAPI_AUTH_URL, the network policy, HTTPS_PROXY, and HUMANAPI_CA_FILE if the certificate is of an authority of your own"
	}
}

func checkRedis(ctx context.Context, s settings.Settings, f files) (found []Finding) {
	if s.RedisURL.Reveal() == "" {
		return []Finding{skipped("redis", "REDIS_URL is not set: tokens are kept in memory only")}
	}
	if f.clientSecret == nil {
		f.clientSecret = secret.Fixed("") // keys must be derived from something, but are not used
	}
	opts, err := cacheOptions(s, f, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return []Finding{failed("redis", err.Error())}
	}
	defer func() { _ = opts.Client.Close() }()
	for _, one := range cache.CheckServer(ctx, opts.Client, s.RedisTimeout) {
		if one.Problem != "" {
			found = append(found, failed("redis "+one.Name, one.Problem))
		} else {
			found = append(found, ok("redis "+one.Name, ""))
		}
	}
	return found
}

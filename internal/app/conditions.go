package app

import (
	"fmt"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/admin"
	"token-sidecar/internal/audit"
	"token-sidecar/internal/health"
	"token-sidecar/internal/settings"
	"token-sidecar/upstream"
)

// conditions returns those of all parts.
func (s *status) conditions() []health.Condition {
	now, auth, redis := time.Now(), s.source.State(), s.tokens.Redis()
	all := []health.Condition{callers(s.handler.Failing(), s.history.Last(callersWindow), now)}
	for _, path := range auth.Paths {
		c := authService(auth, path, now)
		if c.Minor = !path.Asked && path.Path != s.settings.TokenPath(); c.Minor && auth.Refused != "" {
			c = health.Condition{Part: c.Part, Path: c.Path, Title: c.Title, Level: health.Good, State: "answers", Minor: true}
		}
		all = append(all, c)
	}
	if s.trail != nil {
		all = append(all, auditLog(s.trail.State()))
	}
	return append(all,
		redisCondition(redis),
		forgets(s.tokens.PendingForgets(), redis),
		renewals(s.handler.FailingRenewals(), now),
		fleetLimit(auth.Limited, s.settings, now),
		hits(s.history.Last(hitsWindow)),
	)
}

const (
	// callersWindow and hitsWindow are the same as in the corresponding alerts.
	callersWindow, hitsWindow = 5 * time.Minute, 15 * time.Minute
	// maxFailing is the share of failing requests above which the condition is bad.
	maxFailing = 0.01
	// minHits is the least share of requests that a cache should answer, if there are at least busy requests per
	// second.
	minHits, busy = 0.5, 1
)

// failingOutcomes are those of valid requests that got no token.
func failingOutcomes() []string { return []string{"failed", "shed"} }

// callers reports whether valid requests fail.
func callers(run health.Run, requests map[string]int64, now time.Time) health.Condition {
	c := health.Condition{Part: "callers", Title: "Callers", Level: health.Good, State: "served"}
	all := admin.Sum(requests)
	failing := admin.Sum(requests, failingOutcomes()...)
	c.Detail = fmt.Sprintf("%d requests in 5 minutes, %d failed", all, failing)
	if !run.Any() {
		return c
	}
	c.Level, c.State, c.Effect = health.Warn, "some fail", "fewer than one in a hundred get no token"
	if float64(failing) > maxFailing*float64(all) {
		c.Level, c.State, c.Effect = health.Bad, "failing", "more than one in a hundred get no token"
	}
	c.Remedy = "see the other parts for why"
	c.Cause, c.First, c.Since, c.Alert = run.Cause, earlier(run.First, run.Cause), run.Since, "TokenSidecarCallersFail"
	c.Detail += ", the last one " + ago(run.Last, now)
	return c
}

// authService reports on one path of the auth service.
func authService(auth upstream.State, path upstream.PathState, now time.Time) health.Condition {
	c := health.Condition{
		Part: "auth", Path: path.Path, Title: "Auth service", Level: health.Good, State: "answers",
		Detail: "no failure of late",
	}
	switch {
	case auth.Refused != "":
		c.Level, c.State, c.Alert = health.Bad, "secret refused", "TokenSidecarSecretRefused"
		c.Cause, c.Since = auth.Refused, auth.RefusedSince
		c.Effect = "no new token for anybody; cached ones are served until they expire"
		c.Detail = "asked again in " + brief(auth.RefusedFor)
	case path.Breaker != "closed" && path.OneKey:
		c.Level, c.State, c.Alert = health.Warn, "breaker open for one token", "TokenSidecarAuthServiceFailing"
		c.Effect = "whoever needs that token gets 503; calls for others go out"
	case path.Breaker != "closed":
		c.Level, c.State, c.Alert = health.Bad, "breaker open", "TokenSidecarBreakerOpen"
		c.Effect = "cached tokens are served; whoever needs a new one gets 503 UPSTREAM_UNAVAILABLE"
	case path.Held != "":
		c.Level, c.State, c.Alert = health.Warn, "asks for a pause", "TokenSidecarPaused"
		c.Cause, c.Detail = path.HeldCause, "asked again in "+brief(path.HeldFor)
		c.Effect = "cached tokens are served; whoever needs a new one is told to come back later"
	case path.Failing.Any():
		c.Level, c.State, c.Alert = health.Warn, "some calls fail", "TokenSidecarAuthServiceFailing"
		c.Cause, c.First, c.Since = path.Failing.Cause, path.Failing.First, path.Failing.Since
		c.Effect = "whoever needs a new token may get an error"
		c.Detail = fmt.Sprintf("%s, the last one %s", times(path.Failing.Times), ago(path.Failing.Last, now))
	}
	if path.Breaker != "closed" && auth.Refused == "" {
		c.Cause, c.First, c.Since = path.Cause, path.FirstCause, path.OpenedAt
		c.Detail = "a trial decides now, or with the next call"
		if path.TrialIn > 0 {
			c.Detail = "next trial in " + brief(path.TrialIn)
		}
	}
	c.First = earlier(c.First, c.Cause)
	if c.Level.Degraded() {
		c.Remedy = upstream.Remedy(c.Cause)
	}
	return c
}

// auditLog reports whether AUDIT_LOG can be written.
func auditLog(state audit.State) health.Condition {
	c := health.Condition{
		Part: "audit", Title: "Audit log", Level: health.Good, State: "written", Detail: "no token without its line",
	}
	if state.Since.IsZero() {
		return c
	}
	c.Level, c.State, c.Alert = health.Bad, "not written", "TokenSidecarAuditUnavailable"
	c.Cause, c.First, c.Since = state.Cause, earlier(state.First, state.Cause), state.Since
	c.Detail = "tried every second"
	c.Effect = "whoever asks for a token gets 503 AUDIT_UNAVAILABLE, also where one is cached"
	c.Remedy = audit.Remedy(state.Cause)
	return c
}

func redisCondition(redis cache.RedisState) health.Condition {
	c := health.Condition{
		Part: "redis", Title: "Redis", Level: health.Good, State: redis.State, Since: redis.Since,
		Detail: "tokens are shared by the fleet",
	}
	switch redis.State {
	case cache.RedisUp:
		return c
	case cache.RedisOff:
		c.Level, c.State, c.Detail = health.None, "not used", "REDIS_URL is not set: tokens are kept in memory only"
		return c
	case cache.RedisReadOnly:
		c.Level, c.Alert = health.Warn, "TokenSidecarRedisReadOnly"
		c.Effect = "callers notice nothing: tokens in Redis are still used, new ones are not shared, forgets wait"
	case cache.RedisWriteOnly:
		c.Level, c.Alert = health.Warn, "TokenSidecarRedisWriteOnly"
		c.Effect = "callers notice nothing: tokens in Redis are not used, memory counts"
	default:
		c.Level, c.Alert = health.Bad, "TokenSidecarRedisLost"
		c.Effect = "callers notice nothing: tokens are kept in memory only, and each sidecar asks the auth service for itself"
	}
	c.Detail = "tried about twice a second"
	c.Cause, c.First = redis.Cause, earlier(redis.FirstCause, redis.Cause)
	c.Remedy = cache.Remedy(redis.Cause)
	return c
}

func forgets(pending int, redis cache.RedisState) health.Condition {
	c := health.Condition{Part: "forgets", Title: "Forgets", Level: health.Good, State: "told", Minor: true}
	if pending == 0 {
		return c
	}
	c.Level, c.State, c.Alert = health.Warn, "waiting", "TokenSidecarForgetsWaiting"
	c.Cause = redis.Cause
	c.Detail = fmt.Sprintf("%d wait", pending)
	c.Effect = "other sidecars may serve what this one has forgotten"
	c.Remedy = "see Redis: they are told as soon as it takes writes, and are lost if this sidecar ends before"
	return c
}

func renewals(run health.Run, now time.Time) health.Condition {
	c := health.Condition{Part: "renewals", Title: "Renewals", Level: health.Good, State: "done in time", Minor: true}
	if !run.Any() {
		return c
	}
	c.Level, c.State, c.Alert = health.Warn, "failing", "TokenSidecarRenewalsFailing"
	c.Cause, c.First, c.Since = run.Cause, earlier(run.First, run.Cause), run.Since
	c.Detail = fmt.Sprintf("%s, the last one %s", times(run.Times), ago(run.Last, now))
	c.Effect = "callers notice nothing before a token reaches its margin"
	c.Remedy = upstream.Remedy(run.Cause)
	return c
}

func fleetLimit(run health.Run, s settings.Settings, now time.Time) health.Condition {
	c := health.Condition{Part: "limit", Title: "Fleet limit", Level: health.Good, State: "kept", Minor: true}
	if !run.Any() {
		return c
	}
	c.Level, c.State, c.Alert = health.Warn, "reached", "TokenSidecarFleetLimitReached"
	c.Cause, c.Since = run.Cause, run.Since
	c.Detail = fmt.Sprintf("UPSTREAM_CALLS_PER_MINUTE is %d; the last call that had to wait came %s",
		s.UpstreamCallsPerMinute, ago(run.Last, now))
	c.Effect = "whoever needs a new token waits for it, or is told to come back"
	c.Remedy = upstream.Remedy(run.Cause)
	return c
}

// hits reports how many requests were answered from a cache, of those for which that was possible.
func hits(requests map[string]int64) health.Condition {
	c := health.Condition{Part: "hits", Title: "Answered from cache", Level: health.None, State: "–"}
	found := admin.Sum(requests, hitOutcomes()...)
	all := found + admin.Sum(requests, fetchOutcomes()...)
	c.Detail = fmt.Sprintf("%d requests in 15 minutes", all)
	if all == 0 {
		return c
	}
	c.Figure = fmt.Sprintf("%.1f %%", 100*float64(found)/float64(all))
	switch few := float64(all) < busy*hitsWindow.Seconds(); {
	case float64(found) >= minHits*float64(all):
		c.Level, c.State = health.Good, "mostly"
	case few:
		c.State, c.Detail = "too few to tell", c.Detail+", too few to tell"
	default:
		c.Level, c.State, c.Alert = health.Warn, "less than half", "TokenSidecarHitRatioFallen"
		c.Effect = "callers wait for the auth service more than they need to"
		c.Remedy = "look for no-cache or DELETE on each request, a lost Redis, a memory too small"
	}
	return c
}

// hitOutcomes are those of requests that a cache answered, fetchOutcomes those of requests that it could have answered.
func hitOutcomes() []string   { return []string{"hit_memory", "hit_redis"} }
func fetchOutcomes() []string { return []string{"miss", "collapsed"} }

// earlier returns first if it differs from last.
func earlier(first, last string) string {
	if first == last {
		return ""
	}
	return first
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprint(n, " times")
}

func ago(at, now time.Time) string { return brief(now.Sub(at)) + " ago" }

func brief(d time.Duration) string { return d.Round(time.Second).String() }

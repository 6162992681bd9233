package cache

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Finding is the result of trying one thing that the sidecar does with Redis.
type Finding struct {
	// Name is connect, read, write, script or publish.
	Name string
	// Problem says what is wrong, with the remedy; empty if nothing is.
	Problem string
}

// connectTries is how often connecting is tried: a first connection may take longer than REDIS_TIMEOUT.
const connectTries = 3

// CheckServer tries everything that the sidecar does with Redis, each command separately, under a key made for the
// check and deleted afterwards. If Redis cannot be reached, that is the only finding. limit is REDIS_TIMEOUT.
func CheckServer(ctx context.Context, client redis.UniversalClient, limit time.Duration) []Finding {
	c := checks{client: client, limit: limit, name: keyPrefix + "{check-" + strconv.FormatUint(NewID(), 36) + "}"}
	if problem := c.connect(ctx); problem != "" {
		return []Finding{{"connect", problem}}
	}
	found := []Finding{{Name: "connect"}}
	for _, group := range c.groups() {
		found = append(found, Finding{group.name, c.problems(ctx, group.tries)})
	}
	return found
}

// problems tries all and returns the problems, each only once.
func (c checks) problems(ctx context.Context, all []try) string {
	var reasons []string
	commands := map[string][]string{}
	for _, one := range all {
		reason := c.try(ctx, one)
		if reason == "" {
			continue
		}
		if commands[reason] == nil {
			reasons = append(reasons, reason)
		}
		commands[reason] = append(commands[reason], one.command)
	}
	for i, reason := range reasons {
		reasons[i] = strings.Join(commands[reason], ", ") + ": " + reason
	}
	return strings.Join(reasons, "; ")
}

type checks struct {
	client redis.UniversalClient
	limit  time.Duration
	name   string
}

// A try is one command.
type try struct {
	command string
	do      func(ctx context.Context) error
}

type tryGroup struct {
	name  string
	tries []try
}

func (c checks) groups() []tryGroup {
	const life = time.Minute // in case it is not deleted
	set := c.name + waitSuffix
	clock := newScript("return redis.call('TIME')")
	one := func(command string, args ...any) try {
		return try{command, func(ctx context.Context) error { return c.client.Do(ctx, args...).Err() }}
	}
	return []tryGroup{
		{"read", []try{one("GET", "GET", c.name), one("PTTL", "PTTL", c.name)}},
		{"write", []try{
			one("SET", "SET", c.name, "1", "PX", life.Milliseconds()),
			one("SADD", "SADD", set, "1"),
			one("PEXPIRE", "PEXPIRE", set, life.Milliseconds()),
			one("SMEMBERS", "SMEMBERS", set),
			one("DEL", "DEL", c.name, set),
		}},
		{"script", []try{
			one("TIME", "TIME"),
			one("EVAL", "EVAL", clock.source, 1, c.name),
			{"EVALSHA", func(ctx context.Context) error {
				err := c.client.EvalSha(ctx, clock.hash, []string{c.name}).Err()
				if redis.HasErrorPrefix(err, "NOSCRIPT") {
					return nil // loading was not allowed, or another node was asked
				}
				return err
			}},
		}},
		{"publish", []try{
			// No sidecar can decrypt this message, so all of them ignore it.
			one("PUBLISH", "PUBLISH", newsChannel, ""),
			{"SUBSCRIBE", c.subscribe},
		}},
	}
}

// connect sends PING until Redis answers.
func (c checks) connect(ctx context.Context) (problem string) {
	ping := []try{{"PING", func(ctx context.Context) error { return c.client.Ping(ctx).Err() }}}
	for range connectTries {
		if problem = c.problems(ctx, ping); problem == "" {
			break
		}
	}
	return problem
}

func (c checks) subscribe(ctx context.Context) error {
	channels := []string{newsChannel, newsChannel + ":check"}
	sub := c.client.Subscribe(ctx, channels...)
	defer func() { _ = sub.Close() }()
	for range channels {
		if _, err := sub.ReceiveTimeout(ctx, c.limit); err != nil {
			return err
		}
	}
	return nil
}

// try returns why a command cannot be used, with the remedy, or an empty string if it can.
func (c checks) try(ctx context.Context, t try) (reason string) {
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	err := t.do(ctx)
	if err == nil || errors.Is(err, redis.Nil) {
		return ""
	}
	cause := causeOf(err)
	if cause == "NOPERM" {
		return "NOPERM; grant its user " + lacking(t.command, err.Error()) + ", as docs/redis.md shows"
	}
	return cause + "; " + Remedy(cause)
}

// lacking returns the ACL rule whose absence made Redis refuse command with that reply.
func lacking(command, reply string) string {
	switch {
	case strings.Contains(reply, "channel"):
		return "&" + newsChannel + "*"
	case strings.Contains(reply, "key"):
		return "~" + keyPrefix + "*"
	default:
		return "+" + strings.ToLower(command)
	}
}

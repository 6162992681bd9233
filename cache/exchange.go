package cache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// exchange sends a batch and receives the replies. Its time limit starts here: time spent in our own queue says nothing
// about Redis.
func (p *pipeline) exchange(batch []*group) {
	// The first group's trace is continued, but its cancellation is not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(batch[0].ctx), p.limit)
	defer cancel()
	began := time.Now()
	var all []*command
	for _, g := range batch {
		all = append(all, g.commands...)
		close(g.sent)
	}
	p.send(ctx, all, func(pipe redis.Pipeliner, c *command) *redis.Cmd {
		return pipe.EvalSha(ctx, c.script.hash, c.keys, c.args...)
	})
	var unknown []*command // scripts that Redis does not know yet, or lost in a restart
	for _, c := range all {
		if redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		p.send(ctx, unknown, func(pipe redis.Pipeliner, c *command) *redis.Cmd {
			return pipe.Eval(ctx, c.script.source, c.keys, c.args...)
		})
	}
	took := time.Since(began)
	answered := 0
	for _, c := range all {
		if c.err == nil {
			answered++
		}
	}
	p.adapt(len(all), answered, took)
	p.account(all, took)
}

// send sends commands in one pipeline.
func (p *pipeline) send(ctx context.Context, commands []*command, script func(redis.Pipeliner, *command) *redis.Cmd) {
	pipe := p.client.Pipeline()
	replies, lefts := make([]redis.Cmder, len(commands)), make([]*redis.DurationCmd, len(commands))
	for i, c := range commands {
		if c.script != nil {
			replies[i] = script(pipe, c)
			continue
		}
		replies[i], lefts[i] = pipe.Get(ctx, c.keys[0]), pipe.PTTL(ctx, c.keys[0])
	}
	_, failed := pipe.Exec(ctx)
	for i, c := range commands {
		c.err = replies[i].Err()
		switch reply := replies[i].(type) {
		case *redis.Cmd:
			c.takeReply(reply.Val(), failed)
		case *redis.StringCmd:
			c.takeLook(reply.Val(), lefts[i], failed)
		}
	}
}

var errNoReply = errors.New("cache: Redis was not asked: the connection could not be set up")

// takeReply takes the reply to a script. When a connection fails, the library gives its error also to commands whose
// replies it has read, which are valid; when the set-up of a connection fails, it leaves commands that were never sent
// without an error.
func (c *command) takeReply(reply any, failed error) {
	c.reply = reply
	switch {
	case isReply(c.err):
	case readWhole(reply):
		c.err = nil
	case c.err == nil && reply == nil:
		c.err = errors.Join(failed, errNoReply)
	}
}

// readWhole reports whether a reply was certainly read to its end. Of one that was not, the library leaves an empty
// value.
func readWhole(reply any) bool {
	switch r := reply.(type) {
	case []any:
		return len(r) > 0
	case string:
		return r != ""
	default:
		return r != nil
	}
}

// takeLook takes the replies to a look, as takeReply does.
func (c *command) takeLook(value string, left *redis.DurationCmd, failed error) {
	c.reply, c.left = value, left.Val()
	switch {
	case errors.Is(c.err, redis.Nil):
		c.err = nil
	case redis.HasErrorPrefix(c.err, "WRONGTYPE"):
		c.reply, c.err = "?", nil
	case isReply(c.err):
	case value != "" && c.left != 0:
		c.err = nil
	case c.err == nil && left.Err() != nil:
		c.err = left.Err()
	case c.err == nil && value == "" && c.left == 0:
		c.err = errors.Join(failed, errNoReply)
	}
}

// account judges Redis by the outcome of a batch, once for looks and once for scripts, and measures its steps. If Redis
// answered some commands in time and others not, that is no evidence against it: the batch was too large.
func (p *pipeline) account(commands []*command, took time.Duration) {
	var verdict [2]error
	var seen, answered [2]bool
	steps := map[string]error{}
	for _, c := range commands {
		kind := 0
		if c.script != nil {
			kind = 1
		}
		seen[kind] = true
		if c.err == nil {
			answered[kind] = true
		} else {
			verdict[kind] = c.err
		}
		if steps[c.step] == nil {
			steps[c.step] = c.err
		}
	}
	for kind, write := range []bool{false, true} {
		switch {
		case answered[kind]:
			p.judge(write, nil)
		case seen[kind] && (!answered[1-kind] || isReply(verdict[kind])):
			p.judge(write, verdict[kind])
		}
	}
	for step, err := range steps {
		p.metrics.step(step, took, err)
	}
}

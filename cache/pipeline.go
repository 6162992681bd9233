package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// fewLanes bounds the exchanges that are under way at the same time, manyLanes where only few commands may go out
	// together and more wait.
	fewLanes, manyLanes = 8, 24
	// patience is how long commands wait for an exchange to end before another one begins. It doubles with each: a
	// connection costs exchanges of its own, and a burst most of all.
	patience = 2 * time.Millisecond
	// firstBatch and largestBatch bound an exchange, in commands; see adapt.
	firstBatch, largestBatch = 16, 1024
)

// A command is one script, or a look at one name, and what came of it.
type command struct {
	step   string  // for the metrics
	first  bool    // it overtakes those that wait: a lock must not end because of what is asked meanwhile
	script *script // nil: a look at keys[0]
	keys   []string
	args   []any

	reply any           // of a script; of a look the value as a string: "" for no value, "?" for one of a wrong type
	left  time.Duration // of a look: how long the value lives still
	err   error
}

// A pipeline sends commands to Redis. What is asked during an exchange goes out together with the next one: nobody
// waits for others to come, but a crowd costs a fraction of the system calls, here and in Redis. One exchange after the
// other is best with a Redis nearby; where it is far away, or one connection is silent, others begin beside it, in
// lanes of their own.
//
// go-redis' AutoPipeline was measured and left: it gives up no command at its deadline, sends a batch again as a whole,
// and one silent connection holds up everybody.
type pipeline struct {
	client  redis.UniversalClient
	limit   time.Duration // of an exchange
	judge   func(write bool, err error)
	metrics *metrics

	mu      sync.Mutex
	waiting []*group
	running int
	closed  bool
	// hurry is set while somebody waits: it opens another lane when they have waited long enough.
	hurry *time.Timer
	// most is how many commands go out together; see adapt.
	most    int
	base    time.Duration // what an exchange takes at least, of late
	workers sync.WaitGroup
}

func newPipeline(client redis.UniversalClient, limit time.Duration, judge func(bool, error), m *metrics) *pipeline {
	return &pipeline{client: client, limit: limit, judge: judge, metrics: m, most: firstBatch}
}

// A group is what one caller asks for together.
type group struct {
	ctx      context.Context //nolint:containedctx // for its trace
	since    time.Time
	commands []*command
	done     chan struct{}
}

// do carries out commands together, within the limit, waiting included. The error is the first of theirs; after an
// error of ctx the commands must not be looked at.
func (p *pipeline) do(ctx context.Context, commands ...*command) error {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	g := p.submit(ctx, commands)
	select {
	case <-g.done:
		return g.err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// twice is do for steps that others depend on: when the first try has failed, or has not been answered in half the
// limit, the same commands go out once more, by another connection. make is called for each try; the commands of the
// one that was answered are returned.
func (p *pipeline) twice(ctx context.Context, build func() []*command) ([]*command, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	first := p.submit(ctx, build())
	half := time.NewTimer(p.limit / 2)
	defer half.Stop()
	select {
	case <-first.done:
		if first.err() == nil {
			return first.commands, nil
		}
	case <-half.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	second := p.submit(ctx, build())
	firstDone := first.done
	for {
		select {
		case <-firstDone:
			if first.err() == nil {
				return first.commands, nil
			}
			firstDone = nil
		case <-second.done:
			return second.commands, second.err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (g *group) err() error {
	for _, c := range g.commands {
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

func (p *pipeline) submit(ctx context.Context, commands []*command) *group {
	g := &group{ctx: ctx, since: time.Now(), commands: commands, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if commands[0].first {
		p.waiting = slices.Insert(p.waiting, 0, g)
	} else {
		p.waiting = append(p.waiting, g)
	}
	if p.running == 0 {
		p.addLane()
	} else {
		p.watch()
	}
	return g
}

// addLane lets one more exchange begin. p.mu is held.
func (p *pipeline) addLane() {
	p.running++
	p.workers.Go(p.work)
}

// impatient tells how long the one who has waited longest is to wait still before another lane is opened; false is that
// there are enough. p.mu is held.
func (p *pipeline) impatient() (left time.Duration, more bool) {
	wait, lanes := patience<<(max(p.running, 1)-1), fewLanes
	if p.most < firstBatch && len(p.waiting) > p.most {
		wait, lanes = patience, manyLanes
	}
	if len(p.waiting) == 0 || p.running >= lanes || p.closed {
		return 0, false
	}
	return wait - time.Since(p.waiting[0].since), true
}

// watch has another lane opened when somebody has waited long enough. p.mu is held.
func (p *pipeline) watch() {
	if left, more := p.impatient(); more && p.hurry == nil {
		p.hurry = time.AfterFunc(max(left, patience/8), p.relieve)
	}
}

func (p *pipeline) relieve() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurry = nil
	if left, more := p.impatient(); more && left <= 0 {
		p.addLane()
	}
	p.watch()
}

// work exchanges until nobody waits, or the other lanes are quick enough without this one.
func (p *pipeline) work() {
	for {
		p.mu.Lock()
		var batch []*group
		if p.running == 1 || p.closed || len(p.waiting) > 0 && time.Since(p.waiting[0].since) >= patience {
			batch = p.take()
		}
		if len(batch) == 0 {
			p.running--
			p.watch()
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		p.exchange(batch)
		for _, g := range batch {
			close(g.done)
		}
	}
}

// close waits for the end of what was asked, which may have been given up by those who asked.
func (p *pipeline) close() {
	p.mu.Lock()
	p.closed = true
	if len(p.waiting) > 0 {
		p.addLane()
	}
	if p.hurry != nil {
		p.hurry.Stop()
	}
	p.mu.Unlock()
	p.workers.Wait()
}

// take takes the groups that go out next. p.mu is held.
func (p *pipeline) take() []*group {
	count, commands := 0, 0
	for count < len(p.waiting) && (count == 0 || commands+len(p.waiting[count].commands) <= p.most) {
		commands += len(p.waiting[count].commands)
		count++
	}
	batch := p.waiting[:count:count]
	p.waiting = p.waiting[count:]
	if len(p.waiting) == 0 {
		p.waiting = nil
	}
	return batch
}

// adapt learns from an exchange how many commands to send at once, as TCP does with its window: twice as many as long
// as that takes no longer. Where each command takes its time, as behind a proxy that serves one after the other, so few
// that they are answered well in time, by more connections. What took far longer than that, took long for another
// reason.
func (p *pipeline) adapt(sent, answered int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base == 0 || p.base > took {
		p.base = took
	}
	inTime, eachTakesItsTime := max(p.limit/4, 2*p.base), 2*time.Duration(sent)*p.base >= took
	switch {
	case (answered < sent || took > inTime) && (answered == 0 || !eachTakesItsTime):
	case answered < sent:
		p.most = answered
	case took > inTime:
		p.most = max(1, int(int64(sent)*int64(inTime)/int64(took)))
	case sent > p.most/2:
		p.most = min(2*p.most, largestBatch)
	}
	p.base += min((took-p.base)/16, p.base/8) // it may have moved away
}

// exchange sends a batch and takes the replies. Its time limit begins here: what was spent in our own queue says
// nothing about Redis.
func (p *pipeline) exchange(batch []*group) {
	// The first one's trace is continued, not its end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(batch[0].ctx), p.limit)
	defer cancel()
	began := time.Now()
	var all []*command
	for _, g := range batch {
		all = append(all, g.commands...)
	}
	p.send(ctx, all, func(pipe redis.Pipeliner, c *command) *redis.Cmd {
		return pipe.EvalSha(ctx, c.script.hash, c.keys, c.args...)
	})
	var unknown []*command // scripts that Redis has not met, or has lost in a restart
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
			c.reply = reply.Val()
			// When the connection's set-up fails, the library leaves commands that were never sent without an error.
			if c.reply == nil && c.err == nil {
				c.err = errors.Join(failed, errNoReply)
			}
		case *redis.StringCmd:
			c.takeLook(reply.Val(), lefts[i], failed)
		}
	}
}

var errNoReply = errors.New("cache: Redis was not asked: the connection could not be set up")

func (c *command) takeLook(value string, left *redis.DurationCmd, failed error) {
	c.reply, c.left = value, left.Val()
	switch {
	case errors.Is(c.err, redis.Nil):
		c.err = nil
	case redis.HasErrorPrefix(c.err, "WRONGTYPE"):
		c.reply, c.err = "?", nil
	case c.err == nil && left.Err() != nil:
		c.err = left.Err()
	case c.err == nil && value == "" && c.left == 0:
		c.err = errors.Join(failed, errNoReply)
	}
}

// account judges Redis by what became of a batch, once for looks and once for scripts, and measures its steps. That it
// answered some commands in time and others not, is no evidence against it: we asked too much at once.
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

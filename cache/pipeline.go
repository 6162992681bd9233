package cache

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// fewLanes bounds the exchanges in progress at the same time; manyLanes does if few commands fit into one exchange
	// and more are waiting.
	fewLanes, manyLanes = 8, 24
	// patience is how long commands wait for an exchange to end before another one begins. It doubles with each lane: a
	// new connection costs exchanges of its own, which hurts most during a burst.
	patience = 2 * time.Millisecond
	// firstBatch and largestBatch bound an exchange, in commands; see adapt.
	firstBatch, largestBatch = 16, 1024
)

// A command is one script, or one look at a name, with its result.
type command struct {
	step   string  // for the metrics
	first  bool    // goes ahead of the queue: a lock must not expire behind it
	script *script // nil: a look at keys[0]
	keys   []string
	args   []any

	reply any           // of a script; of a look the value as a string: "" for no value, "?" for one of a wrong type
	left  time.Duration // of a look: the remaining life of the value
	err   error
}

// A pipeline sends commands to Redis. Commands that arrive during an exchange go out together in the next one. No
// caller waits for others to arrive, but a crowd costs a fraction of the system calls, here and in Redis. One exchange
// at a time is best for a nearby Redis. If it is far away, or one connection is silent, more exchanges begin beside the
// first, in lanes of their own.
//
// go-redis' AutoPipeline was measured and not used: it does not give up a command at its deadline, resends whole
// batches, and lets one silent connection block everybody.
type pipeline struct {
	client  redis.UniversalClient
	limit   time.Duration // of an exchange
	judge   func(write bool, err error)
	metrics *metrics

	mu      sync.Mutex
	waiting []*group
	running int
	closed  bool
	// hurry is set while a command waits: it opens another lane when that has lasted long enough.
	hurry *time.Timer
	// most is how many commands go out together; see adapt.
	most    int
	base    time.Duration // the shortest recent time of an exchange
	workers sync.WaitGroup
}

func newPipeline(client redis.UniversalClient, limit time.Duration, judge func(bool, error), m *metrics) *pipeline {
	return &pipeline{client: client, limit: limit, judge: judge, metrics: m, most: firstBatch}
}

// A group is what one caller sends together.
type group struct {
	ctx      context.Context //nolint:containedctx // for its trace
	since    time.Time
	commands []*command
	sent     chan struct{} // closed when they leave our own queue
	done     chan struct{}
}

// do carries out commands together, within the limit, waiting included. It returns the first of their errors; after an
// error of ctx the commands must not be read.
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

// twice is do for steps on which others depend. If the first try fails, or is not answered within half the limit after
// it was sent, the same commands are sent again on another connection. While they wait in our own queue they are not:
// that would only make the queue longer. build makes the commands of each try; twice returns those of the try that was
// answered.
func (p *pipeline) twice(ctx context.Context, build func() []*command) ([]*command, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	first := p.submit(ctx, build())
	select {
	case <-first.sent:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
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

// drop fails a group of looks that nobody waits for any more, and reports whether it did. Scripts are sent all the
// same: others depend on what they change.
func (g *group) drop() bool {
	if g.ctx.Err() == nil || slices.ContainsFunc(g.commands, func(c *command) bool { return c.script != nil }) {
		return false
	}
	for _, c := range g.commands {
		c.err = context.Cause(g.ctx)
	}
	close(g.done)
	return true
}

func newGroup(ctx context.Context, commands ...*command) *group {
	return &group{
		ctx: ctx, since: time.Now(), commands: commands, sent: make(chan struct{}), done: make(chan struct{}),
	}
}

func (p *pipeline) submit(ctx context.Context, commands []*command) *group {
	g := newGroup(ctx, commands...)
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

// addLane allows one more exchange. p.mu is held.
func (p *pipeline) addLane() {
	p.running++
	p.workers.Go(p.work)
}

// impatient returns how much longer the command at the head of the queue waits before another lane opens, or false if
// there are enough lanes. p.mu is held.
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

// watch arranges for another lane to open when a command has waited long enough. p.mu is held.
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

// work does exchanges until nothing waits, or the other lanes are fast enough without this one.
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

// close waits for the end of all commands, including those whose callers have given up.
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
	batch, passed, commands := p.waiting[:0], 0, 0
	for _, g := range p.waiting {
		if commands > 0 && commands+len(g.commands) > p.most {
			break
		}
		passed++
		if !g.drop() {
			batch = append(batch, g)
			commands += len(g.commands)
		}
	}
	p.waiting = p.waiting[passed:]
	if len(p.waiting) == 0 {
		p.waiting = nil
	}
	return batch
}

// adapt learns from an exchange how many commands to send at once, like TCP with its window: the number doubles as long
// as exchanges take no longer. Where each command takes its time, as behind a proxy that serves one after the other,
// the number falls until they are answered well in time, and more lanes open. If all were answered, but took far longer
// than that, there was another reason, such as a busy machine.
func (p *pipeline) adapt(sent, answered int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base == 0 || p.base > took {
		p.base = took
	}
	inTime, eachTakesItsTime := max(p.limit/4, 2*p.base), 2*time.Duration(sent)*p.base >= took
	switch {
	case answered == 0 || answered == sent && took > inTime && !eachTakesItsTime:
	case answered < sent:
		p.most = answered
	case took > inTime:
		p.most = max(1, int(int64(sent)*int64(inTime)/int64(took)))
	case sent > p.most/2:
		p.most = min(2*p.most, largestBatch)
	}
	p.base += min((took-p.base)/16, p.base/8) // the network path may have become longer
}

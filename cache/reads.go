package cache

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// readers is how many exchanges read at the same time.
const readers = 4

// reads looks up names in Redis. What is asked while all readers are waiting for Redis goes out together with the next
// exchange: nobody waits for others to come, but a crowd costs a fraction of the system calls, here and in Redis.
type reads struct {
	redis *Redis

	mu      sync.Mutex
	waiting []*read
	running int
	workers sync.WaitGroup
}

// A read is one name that is asked for, and what came of it.
type read struct {
	ctx  context.Context //nolint:containedctx // for its trace
	name string
	done chan struct{}

	raw  string // empty when there is no value, "?" when it is of a wrong type
	left time.Duration
	err  error
}

// get returns the value of name and how long it has to live, within the step limit, waiting included.
func (r *reads) get(ctx context.Context, name string) (raw string, left time.Duration, err error) {
	if r.redis.health.isDown() {
		return "", 0, ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, r.redis.limit)
	defer cancel()
	asked := &read{ctx: ctx, name: name, done: make(chan struct{})}
	r.mu.Lock()
	r.waiting = append(r.waiting, asked)
	if r.running < readers {
		r.running++
		r.workers.Go(r.work)
	}
	r.mu.Unlock()
	select {
	case <-asked.done:
		return asked.raw, asked.left, asked.err
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
}

// work reads until nobody waits.
func (r *reads) work() {
	for {
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		if len(batch) == 0 {
			r.running--
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		// The first one's trace is continued, not its end.
		err := r.redis.step(context.WithoutCancel(batch[0].ctx), "get", func(ctx context.Context) error { return r.exchange(ctx, batch) })
		for _, asked := range batch {
			if asked.err == nil && errors.Is(err, ErrUnavailable) {
				asked.err = err
			}
			close(asked.done)
		}
	}
}

// exchange reads a batch. Its error is the first of those that the reads have.
func (r *reads) exchange(ctx context.Context, batch []*read) (first error) {
	pipe := r.redis.client.Pipeline()
	values, lefts := make([]*redis.StringCmd, len(batch)), make([]*redis.DurationCmd, len(batch))
	for i, asked := range batch {
		values[i], lefts[i] = pipe.Get(ctx, asked.name), pipe.PTTL(ctx, asked.name)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, asked := range batch {
		asked.left = lefts[i].Val()
		switch raw, err := values[i].Result(); {
		case errors.Is(err, redis.Nil):
		case isWrongType(err):
			asked.raw = "?"
		case err != nil:
			asked.err = err
		default:
			asked.raw, asked.err = raw, lefts[i].Err()
		}
		if first == nil {
			first = asked.err
		}
	}
	return first
}

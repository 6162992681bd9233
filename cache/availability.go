package cache

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// failuresUntilDown is how many exchanges in a row must fail, over no less than a span: one lost packet is no outage,
	// and what fails at the same time is one event.
	failuresUntilDown = 3
	// probeInterval is about how often a Redis that fails is tried, idleInterval how often one that nobody asks, unless it
	// is told otherwise.
	probeInterval = 400 * time.Millisecond
	idleInterval  = 5 * time.Second
)

// availability decides whether Redis is asked at all: for reading and for writing apart, because a replica, a full
// Redis or one whose ACL lacks a command can be read. While it is down nobody waits for it; a prober finds out when it
// is back, and keeps an eye on a Redis that nobody asks.
type availability struct {
	probe func(context.Context)
	log   *slog.Logger
	span  time.Duration
	idle  time.Duration // how often a Redis that nobody asks is probed

	read, write direction
	// mu orders changes of state.
	mu     sync.Mutex
	since  time.Time // of the present state, when it is not up
	reason string
	logged string // the state that was logged last
	wake   chan struct{}
}

// A direction is reading or writing.
type direction struct {
	down atomic.Bool
	// failing is set from the first failure to the next success.
	failing atomic.Bool
	last    atomic.Int64 // Unix nanoseconds of the last success

	failures int       // guarded by availability.mu, as is
	since    time.Time // of the first failure in a row
}

// The states of Redis as log, page and metrics name them.
const (
	redisUp        = "up"
	redisReadOnly  = "read-only"
	redisWriteOnly = "write-only"
	redisDown      = "down"
	redisNotInUse  = "off"
	lostLog        = "Redis lost: tokens are kept in memory only, each sidecar asks the auth service for itself until it is back"
	unwritableLog  = "Redis cannot be written: tokens that are there are still used, new ones are not shared, forgets wait to be told"
	unreadableLog  = "Redis cannot be read: tokens in it are not used"
	backLog        = "Redis is back: tokens are shared again"
)

func newAvailability(limit, idle time.Duration, log *slog.Logger) *availability {
	return &availability{log: log, span: 2 * limit, idle: idle, logged: redisUp, wake: make(chan struct{}, 1)}
}

func (a *availability) readable() bool { return !a.read.down.Load() }
func (a *availability) writable() bool { return !a.write.down.Load() }

// record takes in the outcome of an exchange; nil is an answer.
func (a *availability) record(write bool, err error) {
	d := &a.read
	if write {
		d = &a.write
	}
	now := time.Now()
	if err == nil {
		d.last.Store(now.UnixNano())
		if d.failing.Load() {
			a.recovered(d, now)
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !d.failing.Swap(true) {
		d.failures, d.since = 0, now
		select {
		case a.wake <- struct{}{}: // it is looked at closely from now on
		default:
		}
	}
	d.failures++
	if d.down.Load() || d.failures < failuresUntilDown || now.Sub(d.since) < a.span {
		return
	}
	d.down.Store(true)
	a.changed(now, reasonOf(err))
}

func (a *availability) recovered(d *direction, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d.failing.Store(false)
	if d.down.Swap(false) {
		a.changed(now, "")
	}
}

// changed logs a new state.
func (a *availability) changed(now time.Time, reason string) {
	state := a.state()
	if state == a.logged {
		return
	}
	was := a.logged
	a.logged = state
	if was == redisUp {
		a.since = now
	}
	if reason != "" {
		a.reason = reason
	}
	why := slog.String("reason", a.reason)
	switch state {
	case redisUp:
		a.log.Info(backLog, slog.Duration("was_down_for", now.Sub(a.since)))
		a.reason = ""
	case redisReadOnly:
		a.log.Warn(unwritableLog, why)
	case redisWriteOnly:
		a.log.Warn(unreadableLog, why)
	default:
		a.log.Warn(lostLog, why)
	}
}

func (a *availability) state() string {
	switch {
	case a.readable() && a.writable():
		return redisUp
	case a.readable():
		return redisReadOnly
	case a.writable():
		return redisWriteOnly
	default:
		return redisDown
	}
}

// describe returns the state, why it is not up, and since when.
func (a *availability) describe() (state, reason string, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state(), a.reason, a.since
}

// run probes until ctx ends.
func (a *availability) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-timer.C:
			a.probe(ctx)
		}
		interval := a.idle
		if a.read.failing.Load() || a.write.failing.Load() {
			interval = min(probeInterval, a.span/2)
		} else if quiet := a.quietFor(time.Now()); quiet < a.idle {
			interval -= quiet
		}
		timer.Reset(interval*3/4 + rand.N(interval/2+1)) //nolint:gosec // jitter
	}
}

// quietFor is how long ago the direction that was silent for longer last worked.
func (a *availability) quietFor(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, min(a.read.last.Load(), a.write.last.Load())))
}

// reasonOf tells an error, and its remedy where it is known, without quoting what Redis sent beyond its leading code.
func reasonOf(err error) string {
	var reply redis.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "no answer within REDIS_TIMEOUT"
	case errors.As(err, &reply):
		return explainReply(reply.Error())
	default:
		return "connection failed"
	}
}

// isReply reports whether err is what Redis answered.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// replies are the errors of Redis that an operator can do something about.
var replies = []struct{ code, remedy string }{
	{"READONLY", "it is a read-only replica; point REDIS_URL at the master, or use REDIS_MODE=sentinel"},
	{"OOM", "its memory is full and nothing may be evicted; raise maxmemory or set maxmemory-policy"},
	{"NOPERM", "the ACL of the user lacks a command, key or channel; see docs/redis.md"},
	{"WRONGPASS", "wrong user or password; see REDIS_URL and REDIS_PASSWORD_FILE"},
	{"NOAUTH", "it wants a password; see REDIS_URL and REDIS_PASSWORD_FILE"},
	{"MISCONF", "it cannot write its snapshot to disk; see its log"},
	{"LOADING", "it is loading its data; wait"},
	{"MASTERDOWN", "it is a replica that has lost its master"},
	{"CLUSTERDOWN", "the cluster is not complete"},
	{"MOVED", "it is a cluster; use REDIS_MODE=cluster"},
	{"NOREPLICAS", "it has too few replicas to accept writes"},
	{"BUSY", "it is busy with a script of somebody else"},
}

func explainReply(reply string) string {
	for _, known := range replies {
		if strings.Contains(reply, known.code) {
			return known.code + ": " + known.remedy
		}
	}
	code, _, _ := strings.Cut(reply, " ")
	return "it answered " + code
}

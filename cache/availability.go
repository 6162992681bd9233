package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/health"
)

const (
	// failuresUntilDown is how many exchanges in a row must fail before Redis counts as down. They must also be spread
	// over availability.span: one lost packet is no outage, and failures at the same moment are one event.
	failuresUntilDown = 3
	// probeInterval is roughly how often a failing Redis is probed, and idleInterval how often one without traffic,
	// unless Options.ProbeEvery says otherwise.
	probeInterval = 400 * time.Millisecond
	idleInterval  = 5 * time.Second
)

// availability decides whether Redis is asked at all. Reading and writing are tracked separately, because a replica, a
// full Redis, or one whose ACL lacks a command can still be read. While Redis is down no caller waits for it; a prober
// finds out when it is back, and also watches a Redis that has no traffic.
type availability struct {
	probe func(context.Context)
	span  time.Duration
	idle  time.Duration // how often a Redis without traffic is probed

	read, write direction
	// mu orders changes of state.
	mu    sync.Mutex
	since time.Time // when the present state began; unused while up
	first string    // the cause of the outage's first failure
	cause string    // of the last failure
	known string    // the state to which since belongs
	wake  chan struct{}
}

// A direction is reading or writing.
type direction struct {
	down atomic.Bool
	// failing is set from the first failure to the next success.
	failing atomic.Bool
	last    atomic.Int64 // Unix nanoseconds of the last success

	failures int       // guarded by availability.mu, as is since
	since    time.Time // when the first failure in a row happened
}

// The states of Redis.
const (
	RedisUp        = "up"
	RedisReadOnly  = "read-only"
	RedisWriteOnly = "write-only"
	RedisDown      = "down"
	RedisOff       = "off" // none is configured
)

func newAvailability(limit, idle time.Duration) *availability {
	return &availability{span: 2 * limit, idle: idle, known: RedisUp, wake: make(chan struct{}, 1)}
}

func (a *availability) readable() bool { return !a.read.down.Load() }
func (a *availability) writable() bool { return !a.write.down.Load() }

// record notes the outcome of an exchange; a nil error means that Redis answered.
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
		case a.wake <- struct{}{}: // probe more often from here on
		default:
		}
	}
	d.failures++
	if !d.down.Load() && (d.failures < failuresUntilDown || now.Sub(d.since) < a.span) {
		return
	}
	if a.cause = causeOf(err); a.first == "" {
		a.first = a.cause
	}
	d.down.Store(true)
	a.changed(now)
}

func (a *availability) recovered(d *direction, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d.failing.Store(false)
	if d.down.Swap(false) {
		a.changed(now)
	}
}

// changed notes when the present state began.
func (a *availability) changed(now time.Time) {
	state := a.state()
	if state == a.known {
		return
	}
	a.known, a.since = state, now
	if state == RedisUp {
		a.first, a.cause = "", ""
	}
}

func (a *availability) state() string {
	switch {
	case a.readable() && a.writable():
		return RedisUp
	case a.readable():
		return RedisReadOnly
	case a.writable():
		return RedisWriteOnly
	default:
		return RedisDown
	}
}

// RedisState says how far Redis can be used.
type RedisState struct {
	// State is one of the states of Redis.
	State string
	// Cause is why Redis is not up, one of [Causes]; FirstCause is the cause with which the outage began.
	Cause, FirstCause string
	// Since is when the state began, zero if it was so from the start.
	Since time.Time
}

func (a *availability) describe() RedisState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return RedisState{State: a.state(), Cause: a.cause, FirstCause: a.first, Since: a.since}
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

// answeredSince reports whether anything was answered since then.
func (a *availability) answeredSince(then time.Time) bool {
	return max(a.read.last.Load(), a.write.last.Load()) >= then.UnixNano()
}

// quietFor returns how long ago the direction with the longer silence last worked.
func (a *availability) quietFor(now time.Time) time.Duration {
	return now.Sub(time.Unix(0, min(a.read.last.Load(), a.write.last.Load())))
}

// noAnswer is the cause when an exchange took too long.
const noAnswer = "no answer within REDIS_TIMEOUT"

// causeUnknown is the cause when an error matches nothing in the list.
const causeUnknown = "unexpected error"

// causeOf returns why an exchange failed. It quotes nothing of what Redis sent, except an error code from the list.
func causeOf(err error) string {
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return causeOfReply(reply.Error())
	}
	if cause := health.NetworkCause(err); cause != health.TimedOut {
		return cause
	}
	return noAnswer
}

// isReply reports whether err is an error reply from Redis.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

func causeOfReply(reply string) string {
	for _, known := range replies {
		if strings.Contains(reply, known.code) {
			return known.code
		}
	}
	// Within a script, Redis 6 and 7 report this without the error code.
	for _, forbidden := range []string{"ACL failure in script", "The user executing the script can't"} {
		if strings.Contains(reply, forbidden) {
			return "NOPERM"
		}
	}
	return causeUnknown
}

// Causes lists every cause for which Redis may be unusable.
func Causes() (all []string) {
	for _, cause := range health.NetworkCauses() {
		if cause != health.TimedOut {
			all = append(all, cause)
		}
	}
	for _, known := range replies {
		all = append(all, known.code)
	}
	return append(all, noAnswer, causeUnknown)
}

// Remedy returns what an operator can do about a cause.
func Remedy(cause string) string {
	for _, known := range replies {
		if cause == known.code {
			return known.remedy
		}
	}
	switch {
	case cause == noAnswer:
		return "check the load of Redis and the network to it"
	case strings.HasPrefix(cause, "TLS: "):
		return "check REDIS_URL and REDIS_CA_FILE"
	case cause == causeUnknown:
		return "see token_sidecar_redis_step_duration_seconds for the step, and the log of Redis"
	default:
		return "check REDIS_URL, that Redis runs, and the network policy"
	}
}

// replies are the error replies of Redis that an operator can do something about.
var replies = []struct{ code, remedy string }{
	{"READONLY", "it is a read-only replica: point REDIS_URL at the master, or use REDIS_MODE=sentinel"},
	{"OOM", "its memory is full and nothing may be evicted: raise maxmemory, or set a maxmemory-policy that evicts"},
	{"NOPERM", "the ACL of its user lacks a command, key or channel: compare it with docs/redis.md"},
	{"WRONGPASS", "wrong user or password: see REDIS_URL and REDIS_PASSWORD_FILE"},
	{"NOAUTH", "it wants a password: see REDIS_URL and REDIS_PASSWORD_FILE"},
	{"MISCONF", "it cannot write its snapshot to disk: see its log"},
	{"LOADING", "it is loading its data: wait"},
	{"MASTERDOWN", "it is a replica that has lost its master: restore the master or the link to it"},
	{"CLUSTERDOWN", "the cluster is not complete: restore the missing nodes"},
	{"MOVED", "it is a cluster: use REDIS_MODE=cluster"},
	{"NOREPLICAS", "it has too few replicas to accept writes: restore them"},
	{"BUSY", "it is busy with somebody else's script: let it end, or stop it"},
}

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
	// failuresUntilDown is how many steps in a row must fail: one lost packet is no outage.
	failuresUntilDown = 3
	// probeInterval is about how often a Redis that is down is tried.
	probeInterval = 500 * time.Millisecond
)

// health decides whether Redis is asked at all. While it is down nobody waits for it; a probe of its own
// finds out when it is back.
type health struct {
	probe func(context.Context) error
	onUp  func(context.Context)
	log   *slog.Logger

	failures atomic.Int32
	down     atomic.Bool
	since    atomic.Pointer[time.Time]
	ctx      context.Context //nolint:containedctx // the life of the prober, ended by close
	stop     context.CancelFunc
	probers  sync.WaitGroup
}

func newHealth(probe func(context.Context) error, log *slog.Logger) *health {
	h := &health{probe: probe, log: log, onUp: func(context.Context) {}}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

func (h *health) isDown() bool { return h.down.Load() }

// record counts the outcome of a step.
func (h *health) record(err error) {
	if err == nil {
		if h.failures.Load() != 0 {
			h.failures.Store(0)
		}
		return
	}
	if h.failures.Add(1) < failuresUntilDown || h.ctx.Err() != nil || !h.down.CompareAndSwap(false, true) {
		return
	}
	now := time.Now()
	h.since.Store(&now)
	h.log.Warn("Redis lost: tokens are kept in memory only, each sidecar asks the auth service for itself until it is back",
		slog.String("reason", reason(err)))
	h.probers.Go(h.untilUp)
}

// untilUp probes until Redis answers.
func (h *health) untilUp() {
	for {
		timer := time.NewTimer(probeInterval*3/4 + rand.N(probeInterval/2)) //nolint:gosec // jitter
		select {
		case <-h.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if h.probe(h.ctx) == nil {
			break
		}
	}
	h.failures.Store(0)
	h.down.Store(false)
	h.log.Info("Redis is back: tokens are shared again", slog.Duration("was_down_for", time.Since(*h.since.Load())))
	h.onUp(h.ctx)
}

func (h *health) close() {
	h.stop()
	h.probers.Wait()
}

// reason tells an error without quoting what Redis sent, beyond its leading error code.
func reason(err error) string {
	var reply redis.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within REDIS_TIMEOUT"
	case errors.As(err, &reply):
		code, _, _ := strings.Cut(reply.Error(), " ")
		return "it answered " + code
	default:
		return "connection failed"
	}
}

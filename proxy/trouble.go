package proxy

import (
	"log/slog"
	"sync"
	"time"
)

// summaryInterval is how often a trouble that goes on is told again.
const summaryInterval = time.Minute

// A trouble logs something that fails again and again: when it begins, once a minute with how often it happened
// since, and when it is over.
type trouble struct {
	log          *slog.Logger
	begins, ends string

	mu    sync.Mutex
	told  time.Time // zero: all is well
	since int
}

func (t *trouble) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since++
	if !t.told.IsZero() && time.Since(t.told) < summaryInterval {
		return
	}
	t.log.Warn(t.begins, slog.Int("times", t.since), slog.Any("error", err)) //nolint:sloglint // one of a few constants
	t.told, t.since = time.Now(), 0
}

func (t *trouble) succeeded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told.IsZero() {
		return
	}
	t.log.Info(t.ends, slog.Int("failures_since_last_told", t.since)) //nolint:sloglint // one of a few constants
	t.told, t.since = time.Time{}, 0
}

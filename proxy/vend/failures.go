package vend

import (
	"log/slog"
	"sync"
	"time"
)

// summaryInterval is how often a failure that recurs is logged again.
const summaryInterval = time.Minute

// A failureLog logs what fails again and again: when it begins, once a minute with how often it happened since, and
// when it is over.
type failureLog struct {
	log          *slog.Logger
	failed, over string // the messages

	mu     sync.Mutex
	logged time.Time // zero: all is well
	since  int
}

func (f *failureLog) recordFailure(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since++
	if !f.logged.IsZero() && time.Since(f.logged) < summaryInterval {
		return
	}
	f.log.Warn(f.failed, slog.Int("times", f.since), slog.Any("error", err)) //nolint:sloglint // one of a few constants
	f.logged, f.since = time.Now(), 0
}

func (f *failureLog) recordSuccess() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.logged.IsZero() {
		return
	}
	f.log.Info(f.over, slog.Int("failures_since_last_logged", f.since)) //nolint:sloglint // one of a few constants
	f.logged, f.since = time.Time{}, 0
}

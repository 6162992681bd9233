package health

import (
	"sync"
	"time"
)

// quiet is how long there must be no failure for a run of failures to be over.
const quiet = time.Minute

// A Streak tracks occasional failures. The zero Streak has seen none.
type Streak struct {
	mu  sync.Mutex
	run Run
}

// A Run is a series of failures without a quiet minute between them. The zero Run has none.
type Run struct {
	Since, Last time.Time
	Times       int
	// First is the cause of the first failure, Cause that of the last one.
	First, Cause string
}

// Any reports whether there is a failure in r.
func (r Run) Any() bool { return r.Times > 0 }

// Fail notes a failure.
func (s *Streak) Fail(cause string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run.Times == 0 || now.Sub(s.run.Last) >= quiet {
		s.run = Run{Since: now, First: cause}
	}
	s.run.Last, s.run.Cause = now, cause
	s.run.Times++
}

// Run returns the run in progress.
func (s *Streak) Run(now time.Time) Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.run.Last) >= quiet {
		return Run{}
	}
	return s.run
}

// End ends the run.
func (s *Streak) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = Run{}
}

package health

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// lookInterval is how often a Watcher checks the conditions by itself.
	lookInterval = 500 * time.Millisecond
	// tellInterval is the minimum time between two log lines for the same state of a part.
	tellInterval = time.Minute
	// repeatInterval is how often a bad state is logged again while it lasts.
	repeatInterval = 10 * time.Minute
	// maxEvents is how many events are kept.
	maxEvents = 50
)

// A Watcher follows the conditions of all parts, and logs their changes.
type Watcher struct {
	look func() []Condition
	log  *slog.Logger

	mu     sync.Mutex
	parts  map[string]*followed
	events []Event
}

// followed is the history of one part.
type followed struct {
	state string
	since time.Time

	told    Condition            // what was logged last
	toldAt  time.Time            // when that was
	states  map[string]time.Time // when each state was last logged
	changes int                  // since then
}

// NewWatcher returns a watcher of what look returns, which must be the same parts each time.
func NewWatcher(look func() []Condition, log *slog.Logger) *Watcher {
	return &Watcher{look: look, log: log, parts: map[string]*followed{}}
}

// Run checks the conditions until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		w.Conditions()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Conditions checks and returns the conditions of all parts.
func (w *Watcher) Conditions() []Condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	conditions, now := w.look(), time.Now()
	for i := range conditions {
		w.follow(&conditions[i], now)
	}
	return conditions
}

// Events are the last changes of state, the latest first.
func (w *Watcher) Events() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := append([]Event{}, w.events...) // not nil, which would be null in JSON
	slices.Reverse(events)
	return events
}

func (w *Watcher) follow(c *Condition, now time.Time) {
	f := w.parts[c.subject()]
	if f == nil {
		f = &followed{state: c.State, since: now, states: map[string]time.Time{}}
		f.told = Condition{State: c.State, Level: Good} // an initial good state is not logged
		w.parts[c.subject()] = f
	}
	if c.State != f.state {
		f.state, f.since = c.State, now
		f.changes++
	}
	if c.Since.IsZero() {
		c.Since = f.since
	}
	switch {
	case f.news(*c) && f.mayTell(*c, now):
		w.tell(*c, f, now)
	case c.Level.Degraded() && c.State == f.told.State && now.Sub(f.toldAt) >= repeatInterval:
		w.tell(*c, f, now)
	}
}

// news reports whether c differs from what was last logged.
func (f *followed) news(c Condition) bool {
	if !c.Level.Degraded() && !f.told.Level.Degraded() {
		return false
	}
	return c.State != f.told.State || c.Level != f.told.Level || c.Cause != f.told.Cause
}

// mayTell reports whether c, which is news, may be logged at now.
func (f *followed) mayTell(c Condition, now time.Time) bool {
	at, before := f.states[c.State]
	if before && now.Sub(at) < tellInterval {
		return false
	}
	return now.Sub(f.toldAt) >= tellInterval || c.Level.worse(f.told.Level)
}

func (w *Watcher) tell(c Condition, f *followed, now time.Time) {
	if f.news(c) {
		w.events = append(w.events, Event{
			Time: now.UTC(), Part: c.Title, Path: c.Path, Level: c.Level, State: c.State, Cause: c.Cause,
			Changes: max(1, f.changes),
		})
		w.events = w.events[max(0, len(w.events)-maxEvents):]
	}
	attrs := []any{slog.String("part", c.Part), slog.String("state", c.State)}
	for _, attr := range []struct{ name, value string }{
		{"path", c.Path},
		{"cause", c.Cause},
		{"first_cause", c.First},
		{"detail", c.Detail},
		{"means", c.Effect},
		{"remedy", c.Remedy},
		{"runbook", c.Alert},
	} {
		if attr.value != "" {
			attrs = append(attrs, slog.String(attr.name, attr.value))
		}
	}
	attrs = append(attrs, slog.Time("since", c.Since.UTC().Truncate(time.Second)))
	if f.changes > 1 {
		attrs = append(attrs, slog.Int("changes_since_last_logged", f.changes))
	}
	say := w.log.Info
	switch c.Level {
	case Warn:
		say = w.log.Warn
	case Bad:
		say = w.log.Error
	default:
	}
	say(c.Title+": "+c.State, attrs...)
	f.told, f.toldAt, f.changes = c, now, 0
	f.states[c.State] = now
}

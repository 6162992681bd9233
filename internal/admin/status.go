package admin

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"token-sidecar/internal/health"
)

// A Status is what the status page and the status command show. It contains no token and no user id.
type Status struct {
	Where
	// Serving is whether requests are served; false while starting or draining.
	Serving bool `json:"serving"`
	// Version and Started are about this process, Fingerprint about its settings. Now is the process's current time.
	Version     string    `json:"version"`
	Now         time.Time `json:"now"`
	Started     time.Time `json:"started"`
	Fingerprint string    `json:"settings_fingerprint"`
	// Conditions are those of all parts, Events their recent changes, the latest first.
	Conditions []health.Condition `json:"conditions"`
	Events     []health.Event     `json:"events"`
	// Tokens is how many are in memory, TokensLeft for how long they can be served.
	Tokens     int     `json:"tokens"`
	TokensLeft []Count `json:"tokens_left"`
	// Requests are the outcomes since the start, Failures the errors by errorCode, the latest first.
	Requests map[string]int64 `json:"requests"`
	Failures []Failure        `json:"failures"`
	// Settings are the ones in use, secrets hidden.
	Settings []Setting `json:"settings"`
	// History is the last hour, the oldest minute first.
	History []Minute `json:"history"`
}

// Where says which sidecar this is. Pod and Namespace are empty if POD_NAME and POD_NAMESPACE are not set. In a pod,
// Host is the pod's name, unless the pod uses the network of its node.
type Where struct {
	Host      string `json:"host"`
	Pod       string `json:"pod,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// Name is the most specific name that is known.
func (w Where) Name() string {
	name := cmp.Or(w.Pod, w.Host)
	if w.Namespace != "" {
		name = w.Namespace + "/" + name
	}
	return name
}

// A Count is a number with a name.
type Count struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// A Failure is one errorCode that callers got.
type Failure struct {
	Code  string    `json:"code"`
	Count int64     `json:"count"`
	Last  time.Time `json:"last"`
}

// A Setting is one setting in use.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// A Minute counts how the requests of one minute ended.
type Minute struct {
	Start    time.Time        `json:"start"`
	Requests map[string]int64 `json:"requests"`
}

// minutes is how far back the history goes.
const minutes = 60

// History keeps the outcomes of the last hour, by the minute.
type History struct {
	outcomes func() map[string]int64

	mu    sync.Mutex
	past  []Minute
	begun time.Time
	base  map[string]int64 // the totals when the current minute began
}

// NewHistory returns a history of the totals that outcomes returns.
func NewHistory(outcomes func() map[string]int64) *History {
	return &History{outcomes: outcomes, begun: time.Now(), base: outcomes()}
}

// Run records each minute until ctx ends.
func (h *History) Run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.turn()
		}
	}
}

func (h *History) turn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	total := h.outcomes()
	h.past = append(h.past, h.current(total))
	h.past = h.past[max(0, len(h.past)-minutes+1):]
	h.begun, h.base = time.Now(), total
}

// current is the minute in progress.
func (h *History) current(total map[string]int64) Minute {
	m := Minute{Start: h.begun.UTC().Truncate(time.Second), Requests: map[string]int64{}}
	for name, n := range total {
		if d := n - h.base[name]; d > 0 {
			m.Requests[name] = d
		}
	}
	return m
}

// Minutes returns the last hour, the oldest minute first.
func (h *History) Minutes() []Minute {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append([]Minute(nil), h.past...), h.current(h.outcomes()))
}

// Last returns the outcomes of roughly the last d, in whole minutes.
func (h *History) Last(d time.Duration) map[string]int64 {
	all := h.Minutes()
	total := map[string]int64{}
	for _, m := range all[max(0, len(all)-1-int(d/time.Minute)):] {
		for name, n := range m.Requests {
			total[name] += n
		}
	}
	return total
}

// Sum adds up the requests with those outcomes, or all requests if none is given.
func Sum(requests map[string]int64, outcomes ...string) (n int64) {
	if outcomes == nil {
		outcomes = slices.Collect(maps.Keys(requests))
	}
	for _, name := range outcomes {
		n += requests[name]
	}
	return n
}

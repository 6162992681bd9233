// Package health describes the condition of the sidecar's parts, in words for people.
//
// It promises: the status page, the status command, the log, the metric token_sidecar_degraded and the alerts show the
// same [Condition], and therefore name the same cause. A change for the worse is logged at once, and the same state of
// a part at most once a minute.
package health

import (
	"cmp"
	"time"
)

// A Level is how bad a state is.
type Level string

// The levels, from good to bad. None means that the part is not in use, or too little to judge.
const (
	None Level = "none"
	Good Level = "good"
	Warn Level = "warn"
	Bad  Level = "bad"
)

// Degraded reports whether something is wrong.
func (l Level) Degraded() bool { return l.rank() > 0 }

// worse reports whether l is worse than other.
func (l Level) worse(other Level) bool { return l.rank() > other.rank() }

func (l Level) rank() int {
	switch l {
	case Bad:
		return 2
	case Warn:
		return 1
	default:
		return 0
	}
}

// A Condition is the condition of one part.
type Condition struct {
	// Part is the part's short name, and Path the auth service's path if the part has a condition for each.
	Part string `json:"part"`
	Path string `json:"path,omitempty"`
	// Title is the part's name for people.
	Title string `json:"title"`
	Level Level  `json:"level"`
	// State is one of the part's few states.
	State string `json:"state"`
	// Figure is a number that says more than State, such as a share. Most conditions leave it empty.
	Figure string `json:"figure,omitempty"`
	// Cause is why the state is not good, from a fixed list; First is the cause with which it began, if that was a
	// different one.
	Cause string `json:"cause,omitempty"`
	First string `json:"first_cause,omitempty"`
	// Detail is what changes from moment to moment, such as the time to the next trial.
	Detail string `json:"detail,omitempty"`
	// Effect is what callers notice, Remedy what to do, Alert the section of docs/runbook.md with more.
	Effect string `json:"effect,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	Alert  string `json:"runbook,omitempty"`
	// Since is when the part entered this state; set by [Watcher], unless the part knows better.
	Since time.Time `json:"since"`
	// Minor conditions are shown only when something is wrong.
	Minor bool `json:"minor,omitempty"`
}

// Headline is the state as a word or a figure.
func (c Condition) Headline() string { return cmp.Or(c.Figure, c.State) }

// Shown reports whether c belongs into an overview of all parts.
func (c Condition) Shown() bool { return !c.Minor || c.Level.Degraded() }

func (c Condition) subject() string { return c.Part + c.Path }

// An Event is a change of state.
type Event struct {
	Time  time.Time `json:"time"`
	Part  string    `json:"part"`
	Path  string    `json:"path,omitempty"`
	Level Level     `json:"level"`
	State string    `json:"state"`
	Cause string    `json:"cause,omitempty"`
	// Changes is how many changes there were since the part's last event, including this one.
	Changes int `json:"changes"`
}

package upstream

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// A LocalGate is a [Gate] for one process. Its errors are always nil.
type LocalGate struct {
	mu    sync.Mutex
	paths map[string]*localHold
	tat   time.Time // of the rate limit
}

type localHold struct {
	hold
	status int
}

// NewLocalGate returns a gate without holds.
func NewLocalGate() *LocalGate { return &LocalGate{paths: map[string]*localHold{}} }

var _ Gate = (*LocalGate)(nil)

// Enter implements [Gate].
func (g *LocalGate) Enter(_ context.Context, ask Ask) (Pass, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	h := g.paths[ask.Path]
	if h == nil {
		h = &localHold{}
	}
	if left := h.left(now); left > 0 {
		return Pass{Held: left, Status: h.status}, nil
	}
	if !ask.Paid {
		wait, next := ask.Rate.Next(g.tat, now)
		if wait <= ask.Patience {
			g.tat = next
		}
		if wait > 0 {
			return Pass{Wait: wait}, nil
		}
	}
	_, trial := h.enter(now, ask.TrialLimit)
	return Pass{Trial: trialName(trial)}, nil
}

// Hold implements [Gate].
func (g *LocalGate) Hold(_ context.Context, path string, h Hold) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paths[path] == nil {
		g.paths[path] = &localHold{}
	}
	if g.paths[path].extend(time.Now(), h.For, trialNumber(h.Trial)) {
		g.paths[path].status = h.Status
	}
	return nil
}

// Release implements [Gate].
func (g *LocalGate) Release(_ context.Context, path, trial string, success bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.paths[path]; h != nil {
		h.release(time.Now(), trialNumber(trial), success)
	}
	return nil
}

// peek returns how long path is held, without taking a slot or becoming the trial.
func (g *LocalGate) peek(path string, now time.Time) Pass {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.paths[path]; h != nil {
		if left := h.left(now); left > 0 {
			return Pass{Held: left, Status: h.status}
		}
	}
	return Pass{}
}

// drop ends the hold of path, because the fleet's has ended.
func (g *LocalGate) drop(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.paths[path]; h != nil {
		h.hold = hold{turn: h.turn + 1}
	}
}

func trialName(trial uint64) string {
	if trial == 0 {
		return ""
	}
	return strconv.FormatUint(trial, 10)
}

// trialNumber returns 0, which is no trial, for a name that is not ours.
func trialNumber(name string) uint64 {
	trial, _ := strconv.ParseUint(name, 10, 64)
	return trial
}

package upstream

import "time"

// A hold holds attempts back until its end, and then lets one through, the trial. Starting the trial renews the hold
// for everybody else. If the trial fails or its owner dies, the hold thus continues by itself; only a successful trial
// ends it.
//
// The zero hold holds nothing back. A hold does no locking.
type hold struct {
	until time.Time
	// length is what the auth service asked for; each trial renews the hold by it.
	length time.Duration
	// turn numbers the trials and the events that supersede them: a trial with an earlier number changes nothing.
	turn uint64
}

// on reports whether the hold is in force: until its trial succeeds.
func (h *hold) on() bool { return !h.until.IsZero() }

// left is how much longer attempts are held back; 0 if the next one would go out.
func (h *hold) left(now time.Time) time.Duration { return max(0, h.until.Sub(now)) }

// enter returns how long the attempt is held back, or the number of its trial, which takes at most longest. Both are 0
// if the hold is not in force.
func (h *hold) enter(now time.Time, longest time.Duration) (left time.Duration, trial uint64) {
	if !h.on() {
		return 0, 0
	}
	if left := h.left(now); left > 0 {
		return left, 0
	}
	h.turn++
	h.until = now.Add(max(h.length, longest))
	return 0, h.turn
}

// extend holds attempts back for d from now, and reports whether it did. A shorter hold does not replace a longer one,
// unless it comes from the trial in progress.
func (h *hold) extend(now time.Time, d time.Duration, trial uint64) bool {
	if !h.ownedBy(trial) && h.left(now) >= d {
		return false
	}
	h.until, h.length = now.Add(d), d
	h.turn++
	return true
}

// release settles a trial: a success ends the hold, otherwise the next attempt is the trial. A trial that was
// superseded changes nothing.
func (h *hold) release(now time.Time, trial uint64, success bool) {
	switch {
	case !h.ownedBy(trial):
	case success:
		*h = hold{turn: h.turn}
	default:
		h.until = now
		h.turn++
	}
}

func (h *hold) ownedBy(trial uint64) bool { return trial != 0 && trial == h.turn && h.on() }

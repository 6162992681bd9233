package upstream

import "time"

// A hold keeps attempts back until a moment, and then lets one through, the trial. To be given the trial renews the
// hold for everybody else, so nothing has to happen for the hold to go on: a trial that fails, or whose owner dies, has
// already been paid for. Only the trial's success ends the hold.
//
// The zero hold keeps nobody back. It does no locking.
type hold struct {
	until time.Time
	// length is what the auth service asked for; each trial renews the hold for as long.
	length time.Duration
	// turn numbers the trials and what ends their say: a trial of an earlier turn was overtaken by a newer hold.
	turn uint64
}

// on reports whether the hold is in force: before its end, or until its trial succeeds.
func (h *hold) on() bool { return !h.until.IsZero() }

// left is how long attempts are kept back still; 0 when the next one would go out.
func (h *hold) left(now time.Time) time.Duration { return max(0, h.until.Sub(now)) }

// enter returns how long the attempt is kept back, or the turn of its trial, which takes at most longest. Both are 0
// when the hold is not in force.
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

// extend keeps attempts back for d from now on. A shorter hold does not replace a longer one, unless it is what the
// trial in progress was told. It reports whether it did.
func (h *hold) extend(now time.Time, d time.Duration, trial uint64) bool {
	if !h.ownedBy(trial) && h.left(now) >= d {
		return false
	}
	h.until, h.length = now.Add(d), d
	h.turn++
	return true
}

// release settles a trial: with success it ends the hold, without it the next attempt is the trial. A trial that was
// overtaken changes nothing.
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

package upstream

import (
	"context"
	"time"
)

// A Gate decides for a whole fleet when an attempt at the auth service may go out. It has two kinds of state: for each
// path a hold, which the auth service asked for with a Retry-After, and one rate limit for all paths. [LocalGate] keeps
// them for one process; package [token-sidecar/upstream/gatetest] has the tests that every Gate must pass.
//
// A Gate has one clock for all who share it. Its methods may be called concurrently, take a bounded time of their own
// beside ctx, and return an error only if they could not do what they were asked; the client then falls back to a
// LocalGate. An Enter that fails may have reserved a slot or begun a trial without harm: a lost slot means one attempt
// less, and the hold continues without its trial.
type Gate interface {
	// Enter is called once before an attempt goes out, and once more after each wait. In this order:
	//
	//  1. While the path is held, the pass says for how much longer (Held above zero) and with which Status. Nothing is
	//     reserved.
	//  2. Unless the attempt is Paid, it is subject to the rate limit; see [Rate]. If it must wait, Wait is above zero,
	//     and a slot at that time is reserved if it is within Patience. The hold does not change.
	//  3. The first attempt that arrives here after the hold is the trial: the pass names it, and the hold is renewed for
	//     everybody else, for its own length or for Ask.TrialLimit, whichever is longer.
	Enter(ctx context.Context, ask Ask) (Pass, error)

	// Hold holds back attempts at path for h.For from now, for everybody. A shorter hold does not replace a longer one,
	// unless h.Trial is the trial in progress. Any other trial in progress becomes irrelevant.
	//
	// A hold ends only by a successful trial. A Gate may drop a hold about which nobody has asked for ten minutes after
	// its time was over.
	Hold(ctx context.Context, path string, h Hold) error

	// Release settles the trial in progress. A success ends the hold. Without success, because the trial was given up
	// before it had an outcome, the next attempt is the trial. A trial that failed is not released: the hold was
	// renewed when it began. A trial that a newer hold has superseded changes nothing.
	Release(ctx context.Context, path, trial string, success bool) error
}

// An Ask describes an attempt that is about to go out.
type Ask struct {
	Path string
	Rate Rate
	// Patience is how long the attempt could wait for a slot of the rate limit; 0 means not at all.
	Patience time.Duration
	// Paid is set if the attempt has waited for the slot it was given.
	Paid bool
	// TrialLimit is the longest that the attempt takes if it becomes the trial.
	TrialLimit time.Duration
}

// A Pass is the reply of a [Gate]. The zero Pass means go.
type Pass struct {
	// Held, if above zero, is for how much longer the path is held, and Status is what the auth service had answered.
	Held   time.Duration
	Status int
	// Wait, if above zero, is the time until there is a slot.
	Wait time.Duration
	// Trial is the name of the trial if this attempt is one, and else empty.
	Trial string
}

// A Hold is a pause that the auth service asked for.
type Hold struct {
	For time.Duration
	// Status is what it answered, 429 or 5xx.
	Status int
	// Trial is the name of the attempt, if it was a trial.
	Trial string
}

// A Rate is a rate limit by the generic cell rate algorithm (GCRA, ITU-T I.371). The Gate keeps a single time, the
// theoretical arrival time (TAT), at which all slots given out so far would have been used at the steady rate. An
// attempt may go out at TAT - (Burst - 1 - Leave) × Interval or later, and moves the TAT to max(TAT, now) + Interval.
type Rate struct {
	// Interval is the time between attempts at the steady rate; 0 means no limit.
	Interval time.Duration
	// Burst is how many attempts may go out at once after a pause. At least 1.
	Burst int
	// Leave is how many of those this attempt must leave for others.
	Leave int
}

// RateOf returns the rate that lets at most perMinute attempts out in any minute, a tenth of them at once. A background
// attempt leaves half of those to callers. perMinute 0 means no limit.
func RateOf(perMinute int, background bool) Rate {
	if perMinute <= 0 {
		return Rate{}
	}
	r := Rate{Burst: max(1, perMinute/10)}
	// In a minute that begins with a full burst, Burst - 1 attempts come on top of the steady rate.
	steady := time.Duration(perMinute - r.Burst + 1)
	r.Interval = (time.Minute + steady - 1) / steady // rounded up, or there would be one too many
	if background {
		r.Leave = r.Burst / 2
	}
	return r
}

// Next applies the rate at now, given the TAT so far. It returns how long the attempt must wait, and the new TAT if it
// does.
func (r Rate) Next(tat, now time.Time) (wait time.Duration, next time.Time) {
	if r.Interval <= 0 {
		return 0, tat
	}
	if tat.Before(now) {
		tat = now
	}
	slack := time.Duration(r.Burst-1-r.Leave) * r.Interval
	return max(0, tat.Sub(now)-slack), tat.Add(r.Interval)
}

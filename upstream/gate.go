package upstream

import (
	"context"
	"time"
)

// A Gate decides for a whole fleet when an attempt at the auth service may go out. It keeps two things: for each path a
// hold, which the auth service asked for with a Retry-After, and one rate limit over all paths. [LocalGate] keeps them
// for one process; [token-sidecar/upstream/gatetest] is what every Gate must pass.
//
// A Gate has one clock for all who share it. Its methods may be called from many goroutines, take a bounded time of
// their own beside ctx, and return an error only if they could not do what they were asked: the client then falls back
// to a LocalGate. Whether an Enter that failed has reserved a slot or begun a trial does not matter: a slot lost is an
// attempt less, and the hold goes on without its trial.
type Gate interface {
	// Enter is asked once before an attempt goes out, and once more after each wait. In this order:
	//
	//  1. While the path is held, the pass tells for how much longer (Held above zero) and with which Status. Nothing is
	//     reserved.
	//  2. Unless the attempt is Paid, the rate limit is asked; see [Rate]. If it is to wait, Wait is above zero, and a
	//     slot at that moment is reserved if it is within Patience. The hold is left as it is.
	//  3. The first to get here when the hold is over is the trial: the pass names it, and the hold is renewed for
	//     everybody else, for its own length or for Ask.TrialLimit, whichever is longer.
	Enter(ctx context.Context, ask Ask) (Pass, error)

	// Hold keeps attempts at path back for h.For from now on, for everybody. A shorter hold does not replace a longer one,
	// unless h.Trial is the trial in progress. A trial that is in progress otherwise has no say any more.
	//
	// A hold does not end by itself, but by a successful trial. One that nobody has asked about for ten minutes after it
	// was over may be dropped.
	Hold(ctx context.Context, path string, h Hold) error

	// Release settles the trial in progress. With success the hold ends; without, because the trial was given up before it
	// could tell, the next attempt is the trial. A trial that failed is not released: the hold was renewed when it began.
	// A trial that a newer hold has overtaken changes nothing.
	Release(ctx context.Context, path, trial string, success bool) error
}

// An Ask is an attempt that would go out now.
type Ask struct {
	Path string
	Rate Rate
	// Patience is how long the attempt could wait for a slot of the rate limit; 0 is not at all.
	Patience time.Duration
	// Paid is set on an attempt that has waited for the slot it was given.
	Paid bool
	// TrialLimit is how long the attempt takes at most, should it be the trial.
	TrialLimit time.Duration
}

// A Pass is what a [Gate] answers. The zero Pass is: go.
type Pass struct {
	// Held, when above zero, is for how much longer the path is held, and Status what the auth service had answered.
	Held   time.Duration
	Status int
	// Wait, when above zero, is the time until there is a slot.
	Wait time.Duration
	// Trial names the trial that this attempt is; empty when it is none.
	Trial string
}

// A Hold is a pause that the auth service asked for.
type Hold struct {
	For time.Duration
	// Status is what it answered, 429 or 5xx.
	Status int
	// Trial is the attempt's own trial, if it was one.
	Trial string
}

// A Rate is a rate limit of the generic cell rate algorithm (GCRA, ITU-T I.371): the Gate keeps one moment, the
// theoretical arrival time (TAT), at which all slots given out so far would have been used at the steady pace. An
// attempt may go out at TAT - (Burst - 1 - Leave) × Interval or later, and moves max(TAT, now) by one Interval.
type Rate struct {
	// Interval is the steady pace; 0 is no limit.
	Interval time.Duration
	// Burst is how many attempts may go out at once after a rest. At least 1.
	Burst int
	// Leave is how many of them this attempt must leave for others.
	Leave int
}

// RateOf returns the rate that lets no more than perMinute attempts out in any minute, a tenth of them at once. A
// background attempt leaves half of those to callers. perMinute 0 is no limit.
func RateOf(perMinute int, background bool) Rate {
	if perMinute <= 0 {
		return Rate{}
	}
	r := Rate{Burst: max(1, perMinute/10)}
	// In a minute that begins with a full burst, Burst - 1 attempts come on top of the steady ones.
	steady := time.Duration(perMinute - r.Burst + 1)
	r.Interval = (time.Minute + steady - 1) / steady // rounded up, or there would be one too many
	if background {
		r.Leave = r.Burst / 2
	}
	return r
}

// Next applies the rate at now to the TAT so far. It returns how long the attempt has to wait, and the TAT from then on
// if it does.
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

package cache

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"sync/atomic"
	"time"
)

// gateSlack is how long Redis keeps a hold that is over, and the state of the rate limit.
const gateSlack = 10 * time.Minute

// A Gate keeps in Redis what the whole fleet must observe before it calls the auth service: named holds and one rate
// limit, all by the clock of Redis. Its promises are described at the interface Gate in upstream. Its methods take
// REDIS_TIMEOUT at most, and fail while Redis cannot be written.
type Gate struct {
	shared *shared
	names  string
	// heard is the last time that Redis told.
	heard atomic.Pointer[clockReading]
	// Skew is added to the clock of Redis. Tests set it.
	Skew func() time.Duration
}

// A clockReading is one moment by the clock of Redis and by ours.
type clockReading struct {
	redis int64 // µs
	here  time.Time
}

// Gate returns the gate that is shared by all who pass the same scope, or nil without Redis. The scope is no secret.
// Only its hash is used, and without a key, so that a fleet in the middle of a change of encryption keys still has one
// gate.
func (c *Cache) Gate(scope string) *Gate {
	if c.shared == nil {
		return nil
	}
	sum := sha256.Sum256([]byte(scope))
	return &Gate{
		shared: c.shared, Skew: func() time.Duration { return 0 },
		// The braces put all names of the gate into one cluster slot.
		names: keyPrefix + "{gate-" + base64.RawURLEncoding.EncodeToString(sum[:16]) + "}",
	}
}

// A GateAsk describes an attempt that is about to go out.
type GateAsk struct {
	Hold string // name of the hold
	// Interval and Burst are the rate limit, and Leave is how much of a burst the attempt leaves to others. An Interval
	// of 0 means no limit.
	Interval     time.Duration
	Burst, Leave int
	Patience     time.Duration // how long the attempt could wait for its slot
	Paid         bool          // whether it has waited for its slot
	TrialLimit   time.Duration // how long it takes at most if it becomes the trial
}

// A GatePass is the reply of a Gate. The attempt may go out if Held and Wait are 0.
type GatePass struct {
	Held   time.Duration
	Status int // the status that caused the hold
	Wait   time.Duration
	Trial  string // name of the trial if the attempt is one, else empty
}

// Enter asks whether an attempt may go out.
func (g *Gate) Enter(ctx context.Context, ask GateAsk) (GatePass, error) {
	trial, paid := strconv.FormatUint(NewID(), 36), 0
	if ask.Paid || ask.Interval <= 0 {
		paid = 1
	}
	reply, err := g.run(ctx, "enter", enterScript, []string{g.hold(ask.Hold), g.names + ":rate"},
		trial, paid, ask.Interval.Microseconds(), time.Duration(ask.Burst-1-ask.Leave)*ask.Interval/time.Microsecond,
		ask.Patience.Microseconds(), ask.TrialLimit.Microseconds(),
		(time.Duration(ask.Burst)*ask.Interval + g.shared.fetchLimit).Microseconds())
	if err != nil {
		return GatePass{}, err
	}
	values, _ := reply.([]any)
	if len(values) != 5 {
		return GatePass{}, errNoReply
	}
	held, _ := values[0].(int64)
	status, _ := values[1].(int64)
	wait, _ := values[2].(int64)
	pass := GatePass{
		Held: time.Duration(held) * time.Microsecond, Status: int(status), Wait: time.Duration(wait) * time.Microsecond,
	}
	pass.Trial, _ = values[3].(string)
	if moment, ok := values[4].(int64); ok {
		g.heard.Store(&clockReading{moment, time.Now()})
	}
	return pass, nil
}

// Hold holds attempts back for d from now on, because of an answer with that status. trial is the name of the trial
// that got the answer, if it was one. Redis is also told when the hold begins, so that the hold of a process that was
// frozen is over when it should be.
func (g *Gate) Hold(ctx context.Context, name string, d time.Duration, status int, trial string) error {
	from := ""
	if heard := g.heard.Load(); heard != nil {
		from = strconv.FormatInt(heard.redis+time.Since(heard.here).Microseconds(), 10)
	}
	_, err := g.run(ctx, "hold", holdScript, []string{g.hold(name)}, trial, d.Microseconds(), status, from)
	return err
}

// Release settles a trial.
func (g *Gate) Release(ctx context.Context, name, trial string, success bool) error {
	ended := 0
	if success {
		ended = 1
	}
	_, err := g.run(ctx, "release", releaseScript, []string{g.hold(name)}, trial, ended)
	return err
}

func (g *Gate) hold(name string) string { return g.names + ":" + name }

func (g *Gate) run(ctx context.Context, step string, s *script, keys []string, args ...any) (any, error) {
	if !g.shared.up.writable() {
		return nil, errUnavailable
	}
	args = append([]any{g.Skew().Microseconds(), gateSlack.Microseconds()}, args...)
	commands, err := g.shared.pipeline.twice(ctx, func() []*command {
		return []*command{{step: step, script: s, keys: keys, args: args}}
	})
	if err != nil {
		return nil, err
	}
	return commands[0].reply, nil
}

// luaGate is what the gate's scripts share. A hold consists of when it ends, how long it was made for, the status that
// caused it, and the trial in progress. Times and durations are in µs.
var luaGate = luaCommon + `
local time, slack = now() + ARGV[1], tonumber(ARGV[2])
local function number(n) return string.format('%.0f', n) end
local function setUntil(key, value, moment)
  redis.call('SET', key, value, 'PX', number(math.max(1, (moment - time + slack) / 1000)))
end
local function readHold(key)
  local ends, length, status, trial = string.match(get(key) or '', '^(%d+) (%d+) (%d+) (%w*)$')
  return tonumber(ends), tonumber(length), tonumber(status), trial
end
local function setHold(key, ends, length, status, trial)
  setUntil(key, table.concat({number(ends), number(length), status, trial}, ' '), ends)
end
`

// enterScript lets an attempt out, or says why not. If one attempt asks twice, it is the same trial.
//
// KEYS hold, rate
// ARGV skew, slack, name for the trial that it might become, 1 if it has waited for its slot, interval,
// burst tolerance, patience, longest trial, the furthest that slots are given out ahead
// returns how long it is held, the status of the hold, how long it has to wait, the trial it is (or empty), the time
var enterScript = newScript(luaGate + `
local ends, length, status, trial = readHold(KEYS[1])
if ends and trial == ARGV[3] then return {0, 0, 0, trial, time - ARGV[1]} end
-- The clock may have been set back: nothing lies further ahead than it was put, for a trial by its own limit.
if ends then
  local furthest = length
  if trial ~= '' then furthest = math.max(length, ARGV[8], slack) end
  if ends > time + furthest then
    ends = time + furthest
    setHold(KEYS[1], ends, length, status, trial)
  end
end
if ends and ends > time then return {ends - time, status, 0, '', time - ARGV[1]} end
if ARGV[4] == '0' then
  local tat = math.max(tonumber(get(KEYS[2]) or 0) or 0, time)
  tat = math.min(tat, time + ARGV[9])
  local wait = math.max(0, tat - time - ARGV[6])
  if wait <= tonumber(ARGV[7]) then setUntil(KEYS[2], number(tat + ARGV[5]), tat + ARGV[5]) end
  if wait > 0 then return {0, 0, wait, '', time - ARGV[1]} end
end
if not ends then return {0, 0, 0, '', time - ARGV[1]} end
setHold(KEYS[1], time + math.max(length, ARGV[8]), length, status, ARGV[3])
return {0, 0, 0, ARGV[3], time - ARGV[1]}
`)

// holdScript holds attempts back. A shorter hold replaces a longer one only if it comes from the trial in progress.
//
// KEYS hold   ARGV skew, slack, trial (or empty), duration, status, start (or empty: now)
var holdScript = newScript(luaGate + `
local ends, _, _, trial = readHold(KEYS[1])
local from = math.min((tonumber(ARGV[6]) or math.huge) + ARGV[1], time)
local till = from + ARGV[4]
if till <= time or ends and ends >= till and (trial == '' or trial ~= ARGV[3]) then return 0 end
setHold(KEYS[1], till, ARGV[4], ARGV[5], '')
return 1
`)

// releaseScript ends the hold if its trial succeeded, else it makes the next attempt the trial.
//
// KEYS hold   ARGV skew, slack, trial, 1 for a success
var releaseScript = newScript(luaGate + `
local ends, length, status, trial = readHold(KEYS[1])
if not ends or trial == '' or trial ~= ARGV[3] then return 0 end
if ARGV[4] == '1' then redis.call('DEL', KEYS[1]) else setHold(KEYS[1], time, length, status, '') end
return 1
`)

package test

import (
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/testbed"
)

// outage is how long a sidecar is frozen or cannot use Redis: until its locks have expired, others went on, and it has
// noticed.
const outage = 5 * lockLife / 2

// A breakage is what happens at one step: a fault of the exchange, or of a whole process.
type breakage struct {
	name string
	// before is called before Redis receives the step, after once it has executed it; either may be nil.
	before func(*pair, testbed.Step) testbed.Fault
	after  func(*pair)
	// exchange is set if nothing but a single exchange fails. That costs no fetch, and Redis is not lost.
	exchange bool
	// brief is set if Redis cannot be reached until the auth service is asked; later then decides about the steps that
	// follow.
	brief bool
	later func(*pair) testbed.Fault
	// undoes is set if Redis forgets the step.
	undoes bool
}

func breakages() (all []breakage) {
	for fault := testbed.ReplyLost; fault < testbed.ErrWRONGPASS; fault++ {
		all = append(all, breakage{
			name: fault.String(), exchange: true, before: func(*pair, testbed.Step) testbed.Fault { return fault },
		})
	}
	freeze := func(p *pair) { p.during(p.proxy.Freeze, p.proxy.Thaw) }
	kill := func(p *pair) {
		p.lost.Store(true)
		p.proxy.Down()
	}
	before := func(do func(*pair), fault testbed.Fault) func(*pair, testbed.Step) testbed.Fault {
		return func(p *pair, _ testbed.Step) testbed.Fault {
			do(p)
			return fault
		}
	}
	return append(all,
		breakage{name: "frozen before", before: before(freeze, testbed.None)},
		breakage{name: "frozen after", after: freeze},
		breakage{name: "killed before", before: before(kill, testbed.ResetBefore)},
		breakage{name: "killed after", after: kill},
		breakage{name: "Redis is read-only for a while", before: func(p *pair, s testbed.Step) testbed.Fault {
			p.during(p.proxy.ReadOnly, func() {
				if s.IsScript() { // else nothing may have been written meanwhile
					p.sees(cache.RedisReadOnly)
				}
				p.proxy.Heal()
			})
			return testbed.None
		}},
		breakage{name: "Redis cannot be reached for a while", before: before(func(p *pair) {
			p.during(p.proxy.Reset, func() {
				p.sees(cache.RedisDown)
				p.proxy.Heal()
			})
		}, testbed.ResetBefore)},
		unreachableUntilAsked(),
		failover(),
	)
}

// during begins an outage, and ends it when it has lasted long enough.
func (p *pair) during(begin, end func()) {
	p.frozen.Lock()
	begin()
	time.AfterFunc(outage, func() {
		end()
		p.frozen.Unlock()
	})
}

// sees checks what the first sidecar thinks of Redis.
func (p *pair) sees(state string) {
	if seen := p.parts[0].Tokens.Redis().State; seen != state {
		p.t.Errorf("Redis seems to be %s, and is %s", seen, state)
	}
}

// unreachableUntilAsked is an outage that is over when there is something to write.
func unreachableUntilAsked() breakage {
	return breakage{
		name: "Redis cannot be reached until the auth service is asked", brief: true,
		before: func(p *pair, _ testbed.Step) testbed.Fault {
			p.calledThen, p.brokenAt = p.auth.Counts().Calls, time.Now()
			return testbed.ResetBefore
		},
		later: func(p *pair) testbed.Fault {
			if p.auth.Counts().Calls == p.calledThen && time.Since(p.brokenAt) < stepLimit {
				return testbed.ResetBefore
			}
			return testbed.None
		},
	}
}

// failover is what happens when a replica takes over that has not received the step: Redis holds what it held before,
// and all connections end.
func failover() breakage {
	return breakage{
		name: "failover", undoes: true,
		before: func(p *pair, _ testbed.Step) testbed.Fault {
			p.replica = p.redis.Dump()
			return testbed.None
		},
		after: func(p *pair) { p.redis.TakeOver(p.replica) },
	}
}

// at makes b happen at one step of the first sidecar.
func (b breakage) at(p *pair, step int) {
	p.breaks = b
	p.proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if s.N > step && b.later != nil {
			<-p.broken
			return b.later(p)
		}
		if s.N != step {
			return testbed.None
		}
		defer close(p.broken)
		if b.before == nil {
			return testbed.None
		}
		return b.before(p, s)
	})
	p.proxy.AfterStep(func(s testbed.Step) {
		if s.N == step && b.after != nil {
			b.after(p)
		}
	})
}

package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/internal/testbed"
)

// crowded returns a pipeline that sends nothing: all its lanes are in use.
func crowded(limit time.Duration) *pipeline {
	return &pipeline{limit: limit, running: manyLanes, most: firstBatch}
}

// TestWhatWaitsIsNotSentAgain: repeating a command that is still in our own queue would only make the queue longer.
func TestWhatWaitsIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, built := crowded(time.Second), 0
		_, err := p.twice(t.Context(), func() []*command {
			built++
			return []*command{{step: "acquire", script: acquireScript}}
		})
		if !errors.Is(err, context.DeadlineExceeded) || built != 1 || len(p.waiting) != 1 {
			t.Errorf("%v, built %d times, %d wait", err, built, len(p.waiting))
		}
	})
}

// TestLooksThatNobodyWaitsForAreDropped: they are the first thing to save on when there is too much to do. Scripts are
// not dropped, because they change what others see.
func TestLooksThatNobodyWaitsForAreDropped(t *testing.T) {
	p := crowded(time.Second)
	gone, leave := context.WithCancel(t.Context())
	abandoned := p.submit(gone, []*command{{step: "abandoned"}})
	p.submit(gone, []*command{{step: "script", script: endScript}})
	p.submit(t.Context(), []*command{{step: "a"}})
	p.submit(gone, []*command{{step: "another"}})
	p.submit(t.Context(), []*command{{step: "b"}})
	p.submit(t.Context(), []*command{{step: "c"}})
	leave()
	p.most = 2
	var sent [][]string
	for range 2 {
		var steps []string
		for _, g := range p.take() {
			steps = append(steps, g.commands[0].step)
		}
		sent = append(sent, steps)
	}
	if !slices.EqualFunc(sent, [][]string{{"script", "a"}, {"b", "c"}}, slices.Equal[[]string]) || p.waiting != nil {
		t.Error(sent, p.waiting)
	}
	select {
	case <-abandoned.done:
		if err := abandoned.err(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	default:
		t.Error("it was not ended")
	}
}

// TestWhatCostsAFetchIsTriedAgain: as long as Redis answers others, who does not get the lock in time asks again
// instead of fetching without it, and who cannot share its token in time tries again before others fetch theirs.
func TestWhatCostsAFetchIsTriedAgain(t *testing.T) {
	for name, late := range map[string]*script{"acquire": acquireScript, "publish": endScript} {
		t.Run(name, func(t *testing.T) {
			proxy := testbed.StartRESPProxy(t, testbed.StartRedis(t).Addr)
			c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.LockLife = time.Minute })
			c.shared.insistFor = time.Minute
			const most = 2 // one step, which is sent twice
			var lost atomic.Int32
			silent, shared := make(chan struct{}), make(chan struct{})
			proxy.OnStep(func(s testbed.Step) testbed.Fault {
				if s.Args[0] == "EVALSHA" && s.Args[1] == late.hash && lost.Load() < most {
					if lost.Add(1) == most {
						close(silent)
					}
					return testbed.ReplyLost
				}
				return testbed.None
			})
			var others sync.WaitGroup
			defer others.Wait()
			defer close(shared)
			others.Go(func() { // they are answered on other connections
				select {
				case <-silent:
				case <-shared:
					return
				}
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for {
					if _, _, err := c.LookShared(t.Context(), NewKey("another")); err != nil {
						t.Error(err)
					}
					select {
					case <-tick.C:
					case <-shared:
						return
					}
				}
			})
			offer, err := c.Acquire(t.Context(), NewKey("late"), Want{})
			if err != nil || offer.Lease == nil || len(offer.Lease.fences) != 1 {
				t.Fatalf("%+v, %v, %d lost", offer, err, lost.Load())
			}
			e := newEntry("late", time.Hour)
			offer.Lease.Publish(t.Context(), e)
			if e.Fence == 0 || lost.Load() != most {
				t.Errorf("fence %d after %d lost replies: it is not known to be shared", e.Fence, lost.Load())
			}
		})
	}
}

// TestASilentRedisIsNotInsistedOn: where nobody is answered, a step is not tried again; callers wait for it.
func TestASilentRedisIsNotInsistedOn(t *testing.T) {
	proxy := testbed.StartRESPProxy(t, testbed.StartRedis(t).Addr)
	c := newCache(t, "redis://"+proxy.Addr, func(o *Options) { o.StepLimit = 200 * time.Millisecond })
	testbed.Until(t, "it is probed at the start", func() bool {
		return c.shared.up.read.last.Load() > 0 && c.shared.up.write.last.Load() > 0
	})
	var asked atomic.Int32
	proxy.OnStep(func(s testbed.Step) testbed.Fault {
		if s.Args[0] == "EVALSHA" && s.Args[1] == acquireScript.hash {
			asked.Add(1)
		}
		return testbed.ReplyLost
	})
	offer, err := c.Acquire(t.Context(), NewKey("u"), Want{})
	if err != nil || offer.Lease == nil || len(offer.Lease.fences) != 0 || asked.Load() > 2 {
		t.Errorf("%+v, %v, asked %d times", offer, err, asked.Load())
	}
	proxy.OnStep(nil)
	offer.Lease.Release(t.Context())
}

package audit

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// gapsIn returns the gaps that lines tell of.
func gapsIn(t *testing.T, lines string) (gaps []gap) {
	t.Helper()
	for text := range strings.Lines(lines) {
		var g gap
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if g.Event != "" {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

// TestWithheldWhileRecovering: answers that are withheld while the line after a gap is being written are told by the
// next line, although no request comes for it.
func TestWithheldWhileRecovering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{fails: syscall.EIO}
		trail := startTrail(t, v)
		_ = record(t, trail, "withheld")
		shut := make(chan struct{})
		v.fail(nil)
		v.turn(shut)
		time.Sleep(retryInterval)
		synctest.Wait() // the line is being written
		began := time.Now()
		for range 100 {
			if trail.Check() == nil {
				t.Error("an answer is not withheld")
			}
		}
		time.Sleep(time.Second)
		v.turn(nil)
		close(shut)
		synctest.Wait()
		got := gapsIn(t, v.lines.String())
		if len(got) != 2 || got[0].Withheld != 1 || got[1].Withheld != 100 || got[1].Since != stamp(began) {
			t.Errorf("%+v", got)
		}
		trail.Close()
	})
}

// TestEveryWithheldAnswerIsTold: whatever happens to writing, the lines tell of each withheld answer once.
func TestEveryWithheldAnswerIsTold(t *testing.T) {
	steps := rapid.SliceOfN(rapid.SampledFrom([]string{
		"shut", "open", "fail", "heal", "check", "check", "record", "record", "record", "wait", "long wait",
	}), 1, 60)
	rapid.Check(t, func(rt *rapid.T) {
		script := steps.Draw(rt, "steps")
		var told, withheld int
		synctest.Test(t, func(t *testing.T) { told, withheld = play(t, script) })
		if told != withheld {
			rt.Fatalf("%d answers were withheld, the lines tell of %d", withheld, told)
		}
	})
}

// play returns how many withheld answers the lines tell of, and how many there were.
func play(t *testing.T, script []string) (told, withheld int) {
	v := &valve{}
	trail := startTrail(t, v)
	var (
		shut   chan struct{}
		all    sync.WaitGroup
		failed atomic.Int64
	)
	count := func(err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	for _, step := range append(slices.Clone(script), "heal", "open", "long wait", "long wait") {
		switch step {
		case "shut":
			if shut == nil {
				shut = make(chan struct{})
				v.turn(shut)
			}
		case "open":
			if shut != nil {
				v.turn(nil)
				close(shut)
				shut = nil
			}
		case "fail":
			v.fail(syscall.EIO)
		case "heal":
			v.fail(nil)
		case "check":
			count(trail.Check())
		case "record":
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), retryInterval)
				defer cancel()
				count(trail.Record(ctx, anEvent("u")))
			})
		case "wait":
			time.Sleep(retryInterval / 4)
		case "long wait":
			time.Sleep(retryInterval)
		}
		if step != "record" { // those that come together are written together
			synctest.Wait()
		}
	}
	all.Wait()
	trail.Close()
	for _, g := range gapsIn(t, v.lines.String()) {
		told += g.Withheld
	}
	return told, int(failed.Load())
}

package upstream

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	"pgregory.net/rapid"
)

// A step is what happens next.
type step struct {
	user   string        // asks, unless empty
	leaves time.Duration // after which the caller leaves; 0: it stays
	who    string        // whose mood changes to mood, if any
	mood   *mood
	wait   time.Duration // before everything else
}

// steps draws a random script: callers, those of whom in leaving may leave, moods and time.
func steps(users []string, leaving func(user string) bool, who string, moods []mood) *rapid.Generator[[]step] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		s := step{wait: rapid.SampledFrom([]time.Duration{
			0, 0, 10 * time.Millisecond, time.Second, 7 * time.Second,
			31 * time.Second,
		}).Draw(t, "wait")}
		if rapid.IntRange(0, 9).Draw(t, "mood?") == 0 {
			m := rapid.SampledFrom(moods).Draw(t, "mood")
			s.who, s.mood = who, &m
			return s
		}
		s.user = rapid.SampledFrom(users).Draw(t, "user")
		if !leaving(s.user) {
			return s
		}
		s.leaves = rapid.SampledFrom([]time.Duration{0, 0, 0, 5 * time.Millisecond, time.Second}).Draw(t, "leaves")
		return s
	}), 1, 150)
}

// play runs a script. It calls done with the outcome of each call whose caller stayed, and returns after the last call.
func play(t *testing.T, s *service, c *Client, script []step, done func(user string, took time.Duration, err error)) {
	var callers sync.WaitGroup
	for _, step := range script {
		time.Sleep(step.wait)
		if step.mood != nil {
			s.is(step.who, *step.mood)
			continue
		}
		ctx, leave := context.WithCancel(t.Context())
		if step.leaves > 0 {
			time.AfterFunc(step.leaves, leave)
		}
		callers.Go(func() {
			defer leave()
			began := time.Now()
			_, err := c.Token(ctx, named(step.user))
			if ctx.Err() == nil {
				done(step.user, time.Since(began), err)
			}
		})
	}
	callers.Wait()
}

// TestOneBadKeyDelaysNobody: whatever one key does, everybody else gets a token in the time that the auth service
// takes, or twice that where another call goes first.
func TestOneBadKeyDelaysNobody(t *testing.T) {
	const latency = 5 * time.Millisecond
	moods := []mood{
		down, hangs, page, bare, gone,
		{err: context.DeadlineExceeded},
		{status: 503},
		{latency: 800 * time.Millisecond},
	}
	users := []string{"poisoned", "poisoned", "poisoned", "a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		failures := rapid.IntRange(1, 5).Draw(rt, "BREAKER_FAILURES")
		script := steps(users, func(user string) bool { return user == "poisoned" }, "poisoned", moods).Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			s := newService()
			s.is("", mood{latency: latency})
			s.is("poisoned", down)
			c := s.client(func(o *Options) { o.BreakerFailures, o.Timeout = failures, time.Second })
			var mu sync.Mutex
			play(t, s, c, script, func(user string, took time.Duration, err error) {
				mu.Lock()
				defer mu.Unlock()
				if user != "poisoned" && (err != nil || took > 2*latency) {
					problems = append(problems, fmt.Sprintf("%s: %v after %v", user, err, took))
				}
			})
		})
		if len(problems) > 0 {
			rt.Fatalf("%v", problems)
		}
	})
}

// A watch counts the attempts that go out while something holds calls back: each of them is a trial.
type watch struct {
	*service
	client *Client

	mu       sync.Mutex
	trials   int
	all      int
	refused  time.Time // when the service last gave an answer that may hold others back
	problems []string
}

// RoundTrip implements [http.RoundTripper].
func (w *watch) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.heldBack(r.URL.Path) {
		w.count(1)
		defer w.count(-1)
	}
	res, err := w.service.RoundTrip(r)
	if res != nil && res.StatusCode != http.StatusOK {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused = time.Now()
	}
	return res, err
}

func (w *watch) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all += max(0, n)
	if w.trials += n; w.trials > 1 {
		w.problems = append(w.problems, fmt.Sprintf("%d trials at once at %v", w.trials, time.Now()))
	}
}

// heldBack reports whether anything but one failing key holds calls back, and did so before: an attempt let through at
// the same moment is no trial.
func (w *watch) heldBack(path string) bool {
	now, c := time.Now(), w.client
	state, p := c.paths[path].breaker.state(now)
	if state != gobreaker.StateClosed && !p.OneKey && p.OpenedAt.Before(now) {
		return true
	}
	w.mu.Lock()
	refusedNow := !w.refused.Before(now)
	w.mu.Unlock()
	if refusedNow {
		return false
	}
	c.credentials.mu.Lock()
	defer c.credentials.mu.Unlock()
	c.fleet.local.mu.Lock()
	defer c.fleet.local.mu.Unlock()
	h := c.fleet.local.paths[path]
	return c.credentials.hold.on() || (h != nil && h.on())
}

// TestAtMostOneTrial: whatever the auth service does to everybody, while calls are held back there is one attempt at a
// time. No answer takes longer than allowed, and once the service is well, everybody gets a token.
func TestAtMostOneTrial(t *testing.T) {
	moods := []mood{
		{},
		{latency: 300 * time.Millisecond},
		down, hangs, page, wrong, bare,
		{status: 429},
		{status: 429, retryAfter: "2"},
		{status: 429, retryAfter: "7"},
		{status: 503, retryAfter: "1"},
		{status: 503, retryAfter: "60"},
		{status: 503, retryAfter: "3", latency: 300 * time.Millisecond},
		gone,
		{status: 500, latency: 900 * time.Millisecond},
		{err: context.DeadlineExceeded},
	}
	users := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	trials := 0
	rapid.Check(t, func(rt *rapid.T) {
		failures := rapid.IntRange(1, 5).Draw(rt, "BREAKER_FAILURES")
		script := steps(users, func(string) bool { return true }, "", moods).Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			w := &watch{service: newService()}
			w.client = w.service.client(func(o *Options) {
				o.BreakerFailures, o.Timeout, o.Transport = failures, time.Second,
					w
			})
			play(t, w.service, w.client, script, func(user string, took time.Duration, err error) {
				if took > w.client.Limit() {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.problems = append(w.problems, fmt.Sprintf("%s: %v after %v", user, err, took))
				}
			})
			w.heals()
			time.Sleep(2 * time.Minute)
			for _, user := range users {
				if _, err := w.client.Token(t.Context(), named(user)); err != nil {
					w.problems = append(w.problems, fmt.Sprintf("%s afterwards: %v", user, err))
				}
			}
			problems = w.problems
			trials += w.all
		})
		if len(problems) > 0 {
			rt.Fatalf("%v", problems)
		}
	})
	if trials < 10 {
		t.Errorf("only %d trials were seen", trials)
	}
}

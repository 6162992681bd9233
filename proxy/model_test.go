package proxy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

// A step is one thing that happens in the model test.
type step struct {
	kind     string // get, fresh, forget, reject, wait, mood
	user     int
	patience time.Duration // how long the caller of a get waits; 0: without limit
	wait     time.Duration
	mood     sandbox.Mood
}

func steps() *rapid.Generator[[]step] {
	moods := []sandbox.Mood{
		{},
		{},
		{},
		{ExpiresIn: 20},
		{ExpiresIn: 2},
		{LatencyMS: 300},
		{LatencyMS: 300, ExpiresIn: 20},
		{LatencyMS: 7000},
		{Status: 500},
		{Status: 429, RetryAfter: "3"},
		{Status: 403},
		{Status: 503, RetryAfter: "1"},
		{Fault: "hang"},
		{Fault: "cut"},
		{Fault: "half"},
		{Fault: "html"},
		{Fault: "negative_lifetime"},
	}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			kind: rapid.SampledFrom([]string{
				"get", "get", "get", "get", "fresh", "forget", "reject", "wait", "wait",
				"mood",
			}).Draw(t, "kind"),
			user: rapid.IntRange(0, 2).Draw(t, "user"),
			patience: rapid.SampledFrom([]time.Duration{
				0, 0, 0, time.Millisecond, 200 * time.Millisecond,
				6 * time.Second,
			}).Draw(t, "patience"),
			wait: rapid.SampledFrom([]time.Duration{
				time.Millisecond, 50 * time.Millisecond, time.Second, 4 * time.Second, 13 * time.Second, 40 * time.Second,
				time.Hour, 23*time.Hour + 48*time.Minute,
			}).Draw(t, "wait"),
			mood: rapid.SampledFrom(moods).Draw(t, "mood"),
		}
	}), 1, 40)
}

// seen is what the model knows about a token that a caller received.
type seen struct {
	token     string
	user      int
	servable  time.Time // the end of its life without the margin, by the auth service's clock
	forgotten time.Time // zero: it was not
	given     time.Time // when the first caller received it
	asked     time.Time // when the last caller who received it had asked
}

// A model checks what callers receive against what must never happen.
type model struct {
	mu       sync.Mutex
	tokens   map[string]*seen
	newest   map[string]string    // the latest token of each user from the auth service
	forgets  map[string]time.Time // of all tokens of a user
	problems []string
}

// A witness tells the model about every token from the auth service.
type witness struct {
	vend.AuthService
	model *model
}

func (w witness) Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	answer, err := w.AuthService.Token(ctx, req)
	if err == nil {
		w.model.mu.Lock()
		defer w.model.mu.Unlock()
		w.model.newest[req.UserID.Reveal()] = answer.Tokens[0].Reveal()
	}
	return answer, err
}

func (m *model) problem(format string, args ...any) {
	m.problems = append(m.problems, fmt.Sprintf(format, args...))
}

// known reports whether s must be cached for those who ask from began on. It need not be if the newest token has
// replaced it, or if all its callers had asked before everything was forgotten.
func (m *model) known(s *seen, began, now time.Time) bool {
	return s.token == m.newest[name(s.user)] && s.forgotten.IsZero() && s.given.Before(began) &&
		now.Before(s.servable.Add(-time.Second)) &&
		s.asked.After(m.forgets[name(s.user)])
}

func (m *model) answered(user int, began time.Time, got reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if limit := 3*5*time.Second + 2*time.Second; now.Sub(began) > limit {
		m.problem("an answer after %v", now.Sub(began))
	}
	if got.status != http.StatusOK {
		for _, s := range m.tokens {
			if s.user == user && m.known(s, began, now) {
				m.problem("user %d got %d %s though a good token is known", user, got.status, got.code())
			}
		}
		return
	}
	mine, left := sandbox.Inspect(got.token(), name(user), now)
	if !mine {
		m.problem("user %d got somebody else's token", user)
	}
	s := m.tokens[got.token()]
	if s == nil {
		told, _ := got.fields["expires_in"].(float64)
		life := time.Duration(told) * time.Second // at first sight its whole life, except for what the answer took
		margin := min(time.Minute, life/10)
		s = &seen{token: got.token(), user: user, servable: now.Add(left - margin), given: now}
		m.tokens[s.token] = s
	}
	if began.After(s.asked) {
		s.asked = began
	}
	if now.After(s.servable.Add(time.Second)) {
		m.problem("user %d got a token %v inside its margin", user, now.Sub(s.servable))
	}
	if !s.forgotten.IsZero() && s.forgotten.Before(began) {
		m.problem("user %d got a token that was forgotten %v before", user, began.Sub(s.forgotten))
	}
	if forgotten := m.forgets[name(user)]; s.given.Before(forgotten) && forgotten.Before(began) {
		m.problem("user %d got a token from before all was forgotten", user)
	}
}

// latest returns the last token that user received.
func (m *model) latest(user int) *seen {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last *seen
	for _, s := range m.tokens {
		if s.user == user && s.forgotten.IsZero() && (last == nil || s.given.After(last.given)) {
			last = s
		}
	}
	return last
}

// during runs forget, and stores the times before and after it in mark. A caller who asks in between may get either
// answer.
func (m *model) during(mark func(time.Time), forget func()) {
	marked := func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		mark(time.Now())
	}
	marked()
	forget()
	marked()
	time.Sleep(time.Nanosecond) // so that what follows is later
}

func name(user int) string { return fmt.Sprint("user-", user) }

// TestWhatNeverHappens runs random callers, cancellations, faults, forgets and waits against the model.
func TestWhatNeverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := steps().Draw(rt, "steps")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = play(t, script) })
		if len(problems) > 0 {
			rt.Fatalf("%v", problems)
		}
	})
}

func play(t *testing.T, script []step) []string {
	m := &model{tokens: map[string]*seen{}, newest: map[string]string{}, forgets: map[string]time.Time{}}
	w := newWorld(t, func(s *settings) {
		s.wrap = func(source vend.AuthService) vend.AuthService { return witness{source, m} }
	})
	var callers sync.WaitGroup
	for _, s := range script {
		switch s.kind {
		case "get", "fresh":
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			if s.patience > 0 {
				ctx, cancel = context.WithTimeout(ctx, s.patience)
			}
			r := request(http.MethodGet, "/token?client_user_id="+name(s.user), "").WithContext(ctx)
			if s.kind == "fresh" {
				r.Header.Set("Cache-Control", "no-cache")
			}
			callers.Go(func() {
				defer cancel()
				began := time.Now()
				got := w.do(r)
				if ctx.Err() == nil && (s.kind == "get" || got.status == http.StatusOK) {
					m.answered(s.user, began, got)
				}
			})
		case "forget":
			m.during(func(now time.Time) { m.forgets[name(s.user)] = now }, func() {
				w.do(request(http.MethodDelete, "/token?client_user_id="+name(s.user), ""))
			})
		case "reject":
			if last := m.latest(s.user); last != nil {
				m.during(func(now time.Time) { last.forgotten = now }, func() {
					w.do(request(http.MethodDelete, "/token?client_user_id="+name(s.user), "", "X-Rejected-Token-Hash",
						fmt.Sprintf("%x", hashOf(last.token))))
				})
			}
		case "wait":
			time.Sleep(s.wait)
		case "mood":
			w.auth.Set(s.mood)
		}
	}
	callers.Wait()
	if n := w.auth.Counts().Overlaps; n != 0 {
		m.problem("%d fetches of one key at once", n)
	}
	// Whatever happened, a healthy auth service is used again.
	w.auth.Set(sandbox.Mood{})
	time.Sleep(2 * time.Hour)
	if got := w.get("user-0"); got.status != http.StatusOK {
		m.problem("no recovery: %d %s", got.status, got.raw)
	}
	return m.problems
}

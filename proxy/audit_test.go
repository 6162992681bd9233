package proxy

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"token-sidecar/internal/audit"
	"token-sidecar/proxy/vend"
	"token-sidecar/upstream"
	"token-sidecar/upstream/sandbox"
)

// A scribe is an Auditor that takes that long for each line.
type scribe struct {
	mu       sync.Mutex
	takes    time.Duration
	outcomes []audit.Outcome
}

func (s *scribe) Check() error { return nil }

func (s *scribe) Record(ctx context.Context, e audit.Event) error {
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outcomes = append(s.outcomes, e.Outcome)
		return nil
	case <-ctx.Done():
		return audit.ErrUnavailable
	}
}

func (s *scribe) take(takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

func audited(t *testing.T, s *scribe, test func(t *testing.T, w *world)) {
	t.Helper()
	inWorld(t, func(c *settings) { c.proxy.Audit = s }, test)
}

// TestAnswerWaitsForItsLine: for a limited time, and then contains the lifetime that is left.
func TestAnswerWaitsForItsLine(t *testing.T) {
	s := &scribe{}
	audited(t, s, func(t *testing.T, w *world) {
		for _, takes := range []time.Duration{0, 900 * time.Millisecond} {
			s.take(takes)
			before := time.Now()
			got := w.mustGet("alice")
			if left, _ := got.fields["expires_in"].(float64); got.took < takes || left > 86400-takes.Seconds() {
				t.Errorf("after %v, with %v left", time.Since(before), left)
			}
		}
		s.take(time.Hour)
		if got := w.get("alice"); got.code() != errAudit.code || got.status != http.StatusServiceUnavailable ||
			got.took != auditPatience || got.header.Get("Retry-After") == "" || got.token() != "" {
			t.Errorf("%d after %v: %s", got.status, got.took, got.raw)
		}
	})
}

// An auth service that does not answer, and is not given up before the time limit.
type mute struct{ vend.AuthService }

func (mute) Token(ctx context.Context, _ upstream.Request) (*upstream.Answer, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestLineDoesNotBreakTheBound: no caller waits longer than promised, for the auth service and the audit log together.
func TestLineDoesNotBreakTheBound(t *testing.T) {
	const bound = 3*5*time.Second + 2*time.Second
	inWorld(t, func(c *settings) {
		c.proxy.Audit = &scribe{takes: time.Hour}
		c.wrap = func(s vend.AuthService) vend.AuthService { return mute{s} }
	}, func(t *testing.T, w *world) {
		for _, more := range []string{"", "&type=session"} {
			got := w.do(request(http.MethodGet, "/token?client_user_id=a"+more, ""))
			if got.code() != errAudit.code || got.took > bound || got.took < bound-time.Second {
				t.Errorf("%q: %d after %v: %s", more, got.status, got.took, got.raw)
			}
		}
	})
}

// TestTokenEndsWhileItsLineIsWritten: it is not served inside its margin.
func TestTokenEndsWhileItsLineIsWritten(t *testing.T) {
	s := &scribe{}
	audited(t, s, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{ExpiresIn: 20})
		w.mustGet("alice")
		w.auth.Set(sandbox.Mood{Status: 500}) // it cannot be renewed
		time.Sleep(17500 * time.Millisecond)
		s.take(900 * time.Millisecond) // the margin is 2 s
		if got := w.get("alice"); got.status != http.StatusGatewayTimeout || got.token() != "" {
			t.Errorf("%d: %s", got.status, got.raw)
		}
	})
}

// TestCallerLeavesItsLine: a caller who leaves while the line is being written still leaves one.
func TestCallerLeavesItsLine(t *testing.T) {
	s := &scribe{}
	audited(t, s, func(t *testing.T, w *world) {
		s.take(500 * time.Millisecond)
		ctx, leave := contextOf(t)
		time.AfterFunc(100*time.Millisecond, leave)
		w.do(request(http.MethodGet, "/token?client_user_id=alice", "").WithContext(ctx))
		if len(s.outcomes) != 1 || s.outcomes[0] != audit.Fetched {
			t.Errorf("%v", s.outcomes)
		}
	})
}

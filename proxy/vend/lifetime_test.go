package vend

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"token-sidecar/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLifetimeRule(t *testing.T) {
	rule := Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}
	for _, c := range []struct{ life, keepFor, lead time.Duration }{
		{24 * time.Hour, 24*time.Hour - time.Minute, 10 * time.Minute},
		{time.Hour, 59 * time.Minute, 10 * time.Minute},
		{10 * time.Minute, 9 * time.Minute, 2 * time.Minute},
		{20 * time.Second, 18 * time.Second, 4 * time.Second},
		{time.Second, 900 * time.Millisecond, 200 * time.Millisecond},
	} {
		if keepFor, lead := rule.keepFor(c.life), rule.lead(c.life); keepFor != c.keepFor || lead != c.lead {
			t.Errorf("life %v: kept for %v, renewed %v before; want %v, %v", c.life, keepFor, lead, c.keepFor, c.lead)
		}
	}
}

// TestLifetimeOrder: whatever the settings and the life, a token is fresh, then renewable, then unusable, and is never
// served to its very end.
func TestLifetimeOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := Lifetimes{
			Margin: time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "margin")),
			Ahead:  time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "ahead")),
		}
		life := time.Duration(rapid.Int64Range(1, int64(240*time.Hour)).Draw(t, "life"))
		e := &cache.Entry{ID: rapid.Uint64().Draw(t, "id"), Life: life, KeepFor: rule.keepFor(life)}
		from := rule.renewFrom(e)
		if e.KeepFor <= 0 || e.KeepFor > life || from < 0 || from > e.KeepFor {
			t.Fatalf("life %v: renewed from %v, kept for %v", life, from, e.KeepFor)
		}
		if earliest := e.KeepFor - rule.lead(life)*11/10; from < earliest-1 {
			t.Fatalf("renewed from %v, earliest %v", from, earliest)
		}
		if hold := rule.hold(e, rapid.IntRange(0, 100).Draw(t, "failures")); hold <= 0 || hold > time.Minute {
			t.Fatalf("backoff of %v", hold)
		}
	})
}

// TestTokensBornTogetherAreRenewedApart: so that they do not all go to the auth service at once.
func TestTokensBornTogetherAreRenewedApart(t *testing.T) {
	rule := Lifetimes{Margin: time.Minute, Ahead: 10 * time.Minute}
	spread := map[time.Duration]bool{}
	for range 1000 {
		e := &cache.Entry{ID: cache.NewID(), Life: 24 * time.Hour, KeepFor: rule.keepFor(24 * time.Hour)}
		spread[rule.renewFrom(e).Truncate(time.Second)] = true
	}
	if len(spread) < 50 {
		t.Errorf("1000 tokens are renewed at %d different seconds", len(spread))
	}
}

package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"token-sidecar/upstream/sandbox"
)

// TestEveryFormOfRetryAfter: callers see whole seconds, never more than a day. Others are held back that long too, but
// no longer than BREAKER_OPEN_FOR; the key itself is held until the end.
func TestEveryFormOfRetryAfter(t *testing.T) {
	const day, second, open = 24 * time.Hour, time.Second, 30 * time.Second
	in := func(layout string, d time.Duration) func() string {
		return func() string { return time.Now().UTC().Add(d).Format(layout) }
	}
	is := func(text string) func() string { return func() string { return text } }
	for name, c := range map[string]struct {
		form func() string
		want time.Duration
	}{
		"none":               {is(""), second},
		"seconds":            {is("7"), 7 * second},
		"fraction":           {is("2.5"), 3 * second},
		"zero":               {is("0"), second},
		"negative":           {is("-5"), second},
		"negative fraction":  {is("-2.5"), second},
		"64 bits":            {is("18446744073709551615"), day},
		"more than 64 bits":  {is("184467440737095516150000000000000000000"), day},
		"more than a float":  {is(strings.Repeat("9", 400)), day},
		"a sign":             {is("+7"), second},
		"hexadecimal":        {is("0x10"), second},
		"with a unit":        {is("7s"), second},
		"two":                {is("7, 8"), second},
		"date":               {in(http.TimeFormat, 20*second), 20 * second},
		"date of RFC 850":    {in("Monday, 02-Jan-06 15:04:05 GMT", 20*second), 20 * second},
		"date of asctime":    {in(time.ANSIC, 20*second), 20 * second},
		"date that is past":  {in(http.TimeFormat, -time.Hour), second},
		"date in ten years":  {in(http.TimeFormat, 87600*time.Hour), day},
		"date of no year":    {is("Thu, 01 Jan 0000 00:00:00 GMT"), second},
		"date without a day": {is("01 Jan 2026"), second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(s *settings) { s.upstream.BreakerOpenFor = open }, func(t *testing.T, w *world) {
				w.auth.Set(sandbox.Mood{Status: 429, RetryAfter: c.form()})
				got := w.get("alice")
				if after, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || got.status != 429 ||
					time.Duration(after)*second != c.want {
					t.Fatalf("%d, Retry-After %q, want %v", got.status, got.header.Get("Retry-After"), c.want)
				}
				w.auth.Set(sandbox.Mood{})
				before := w.calls()
				time.Sleep(min(c.want, open) - time.Millisecond)
				if w.get("bob").status != 429 || w.calls() != before {
					t.Errorf("%d calls for others within the pause", w.calls()-before)
				}
				time.Sleep(time.Millisecond)
				w.mustGet("bob")
				time.Sleep(max(0, c.want-open) - time.Millisecond)
				if c.want > open && w.get("alice").status != 429 {
					t.Error("the key itself was asked for within its Retry-After")
				}
				time.Sleep(time.Millisecond)
				w.mustGet("alice")
			})
		})
	}
}

// TestRateLimitResetReachesCallers: as Retry-After.
func TestRateLimitResetReachesCallers(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		w.auth.Set(sandbox.Mood{Status: 429, RateLimitResetIn: 20})
		if got := w.get("alice"); got.status != 429 || got.header.Get("Retry-After") != "20" {
			t.Errorf("%d, Retry-After %q", got.status, got.header.Get("Retry-After"))
		}
	})
}

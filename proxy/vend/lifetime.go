package vend

import (
	"time"

	"token-sidecar/cache"
)

// Lifetimes is the expiry rule: a token is fresh, then renewable, then unusable. It has no clock; callers pass the time
// or the age of the token.
type Lifetimes struct {
	// Margin is how long before its end a token stops being served; at most a tenth of its life.
	Margin time.Duration
	// Ahead is how long before its margin a token is renewed; at most a fifth of its life.
	Ahead time.Duration
}

// keepFor is how long a token with that life may be served.
func (l Lifetimes) keepFor(life time.Duration) time.Duration {
	return life - min(l.Margin, life/10)
}

// lead is how long before its margin a token with that life is renewed.
func (l Lifetimes) lead(life time.Duration) time.Duration { return min(l.Ahead, life/5) }

// renewFrom is the age from which a token is renewed. Tokens of the same age are renewed at different times, up to a
// tenth of the lead apart. The entry's ID decides, so that the whole fleet agrees.
func (l Lifetimes) renewFrom(e *cache.Entry) time.Duration {
	lead := l.lead(e.Life)
	early := time.Duration(float64(lead) / 10 * float64(e.ID%1024) / 1024)
	return e.KeepFor - lead - early
}

// renewable reports whether e may still be served but is due for renewal.
func (l Lifetimes) renewable(e *cache.Entry, now time.Time) bool {
	return l.lead(e.Life) > 0 && e.Age(now) >= l.renewFrom(e)
}

// SecondsLeft is what is left of life at that age, in whole seconds. It is never below 1, because clients read 0 as
// "never expires".
func SecondsLeft(life, age time.Duration) int64 {
	return int64(max(time.Second, life-age) / time.Second)
}

package admin

import (
	"context"
	"net/http"
	"time"
)

// What the whole port answers: so many requests a second, after so many at once. Further requests wait, so that a flood
// takes little from callers. With at most maxConns requests waiting, a probe's turn comes in a third of a second: the
// kubelet gives it one second.
const (
	pageRate, pageBurst   = 20, 100
	probeRate, probeBurst = 200, 100
)

// paced lets requests through at these rates. Probes have one of their own, lest the others delay them.
func paced(next http.Handler) http.Handler {
	pages, probes := newPace(pageRate, pageBurst), newPace(probeRate, probeBurst)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := pages
		if r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
			p = probes
		}
		if p.wait(r.Context()) != nil {
			panic(http.ErrAbortHandler) // nobody is there to read an answer
		}
		next.ServeHTTP(w, r)
	})
}

// A pace is a token bucket whose users take turns, in the order in which they came.
type pace struct {
	every time.Duration // between two requests
	saved time.Duration // how long a pause is made up for
	turn  chan struct{} // holds an element while somebody is next
	due   time.Time     // when the next one may pass; guarded by turn
}

func newPace(rate, burst int) *pace {
	every := time.Second / time.Duration(rate)
	return &pace{every: every, saved: time.Duration(burst-1) * every, turn: make(chan struct{}, 1)}
}

// wait returns once it is the caller's turn. If ctx ends before that, it takes no turn. It ignores ctx if there is no
// need to wait: ctx has also ended if a client has closed its half of the connection, and still reads the answer.
func (p *pace) wait(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
	default:
		select {
		case p.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() { <-p.turn }()
	now := time.Now()
	if earliest := now.Add(-p.saved); p.due.Before(earliest) {
		p.due = earliest
	}
	if p.due.After(now) {
		timer := time.NewTimer(p.due.Sub(now))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.due = p.due.Add(p.every)
	return nil
}

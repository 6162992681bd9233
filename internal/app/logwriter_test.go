package app

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// reader is the other end of a log.
type reader struct {
	mu    sync.Mutex
	gone  bool
	stuck chan struct{} // nil: it reads
	got   []string
}

func (r *reader) Write(b []byte) (int, error) {
	r.mu.Lock()
	stuck := r.stuck
	r.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return 0, errors.New("broken pipe")
	}
	for line := range strings.Lines(string(b)) {
		r.got = append(r.got, strings.TrimSuffix(line, "\n"))
	}
	return len(b), nil
}

func (r *reader) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// TestLogWriter: whatever the reader does, no line is written twice or out of order, each missing line is counted, and
// the reader is told once, in their place, how many are missing.
func TestLogWriter(t *testing.T) {
	for name, c := range map[string]struct{ leave, comeBack func(*reader) }{
		"stuck": {
			func(r *reader) { r.stuck = make(chan struct{}) },
			func(r *reader) { close(r.stuck); r.stuck = nil },
		},
		"gone": {func(r *reader) { r.gone = true }, func(r *reader) { r.gone = false }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &reader{}
				dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "x", Help: "x"})
				w := newLogWriter(r, func(lines int) error {
					_, err := fmt.Fprintf(r, "missed %d\n", lines)
					return err
				}, dropped)
				next := 0
				write := func(lines int) {
					for range lines {
						_, _ = fmt.Fprintf(w, "%0100d\n", next)
						next++
						if next%100 == 0 {
							synctest.Wait()
						}
					}
				}
				write(1000)
				synctest.Wait()
				if len(r.got) != 1000 {
					t.Fatalf("%d lines", len(r.got))
				}
				r.set(func() { c.leave(r) })
				write(10_000)
				synctest.Wait()
				r.set(func() { c.comeBack(r) })
				synctest.Wait()
				write(1000)
				w.Close()
				missed, told, expected := 0, 0, 0
				for _, line := range r.got {
					if n, err := fmt.Sscanf(line, "missed %d", &missed); n == 1 && err == nil {
						expected += missed
						told++
						continue
					}
					if line != fmt.Sprintf("%0100d", expected) {
						t.Fatalf("%q, want number %d", line, expected)
					}
					expected++
				}
				if expected != next || told != 1 || float64(missed) != testutil.ToFloat64(dropped) || missed < 5000 {
					t.Errorf("up to %d of %d, told %d times, missed %d, counted %v", expected, next, told, missed,
						testutil.ToFloat64(dropped))
				}
			})
		})
	}
}

// TestTheEndDoesNotWaitForTheLog: Close waits only briefly for the reader.
func TestTheEndDoesNotWaitForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{stuck: make(chan struct{})}
		w := newLogWriter(r, nil, prometheus.NewCounter(prometheus.CounterOpts{Name: "x", Help: "x"}))
		_, _ = io.WriteString(w, "line\n")
		began := time.Now()
		w.Close()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		close(r.stuck)
	})
}

package app

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// logBuffer bounds the lines waiting to be written, in bytes: a few thousand lines.
	logBuffer = 256 << 10
	// logFarewell is how long the process waits for the log's reader before it ends.
	logFarewell = 500 * time.Millisecond
)

// A logWriter writes lines in its own goroutine, so that logging never waits for the reader of the log, which may be a
// pipe that is full or closed at the other end. Lines for which there is no room are dropped and counted.
type logWriter struct {
	to io.Writer
	// resume tells the reader, once it reads again, how many lines are missing.
	resume  func(lines int) error
	dropped prometheus.Counter
	wake    chan struct{}
	done    chan struct{}

	mu      sync.Mutex
	waiting []byte
	missed  int // lines that were dropped after those in the buffer
	closed  bool
}

func newLogWriter(to io.Writer, resume func(lines int) error, dropped prometheus.Counter) *logWriter {
	w := &logWriter{
		to: to, resume: resume, dropped: dropped, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go w.run()
	return w
}

// Write buffers one line. It never waits and never fails.
func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	if w.closed || len(w.waiting)+len(line) > logBuffer {
		w.missed++
		w.dropped.Inc()
	} else {
		w.waiting = append(w.waiting, line...)
	}
	w.mu.Unlock()
	w.nudge()
	return len(line), nil
}

// Close waits until everything is written, for logFarewell at most.
func (w *logWriter) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.nudge()
	timer := time.NewTimer(logFarewell)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}

func (w *logWriter) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *logWriter) run() {
	defer close(w.done)
	var spare []byte
	untold := 0 // lines dropped before the next one, not yet reported
	for range w.wake {
		w.mu.Lock()
		lines, missed, closed := w.waiting, w.missed, w.closed
		w.waiting, w.missed = spare[:0], 0
		w.mu.Unlock()
		untold = w.tell(untold)
		untold = w.tell(w.write(lines, untold) + missed)
		spare = lines
		if closed {
			return
		}
	}
}

// tell reports dropped lines to the reader, and returns how many remain unreported.
func (w *logWriter) tell(dropped int) int {
	if dropped == 0 || w.resume(dropped) != nil {
		return dropped
	}
	return 0
}

// write writes lines, unless the dropped lines before them cannot be reported. It returns how many remain unreported.
func (w *logWriter) write(lines []byte, untold int) int {
	written := 0
	if untold == 0 && len(lines) > 0 {
		n, err := w.to.Write(lines)
		if err == nil {
			return 0
		}
		written = n
	}
	lost := bytes.Count(lines[written:], []byte("\n"))
	w.dropped.Add(float64(lost))
	return untold + lost
}

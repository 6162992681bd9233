package app

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// logBuffer bounds what waits to be written, in bytes: some thousand lines.
	logBuffer = 256 << 10
	// logFarewell is how long the end of the process waits for a reader of the log.
	logFarewell = 500 * time.Millisecond
)

// A logWriter writes lines in a goroutine of its own, so that nobody who logs waits for whoever reads the log: a pipe
// that is full, or whose other end is gone. What there is no room for is dropped and counted.
type logWriter struct {
	to io.Writer
	// resume tells the reader, once it reads again, how many lines it missed.
	resume  func(lines int) error
	dropped prometheus.Counter
	wake    chan struct{}
	done    chan struct{}

	mu      sync.Mutex
	waiting []byte
	missed  int // lines that were dropped after those that wait
	closed  bool
}

func newLogWriter(to io.Writer, resume func(lines int) error, dropped prometheus.Counter) *logWriter {
	w := &logWriter{
		to: to, resume: resume, dropped: dropped, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go w.run()
	return w
}

// Write takes one line. It never waits and never fails.
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

// Close waits until everything is written, but not for long.
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
	untold := 0 // lines that were dropped before what comes next
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

// tell tells the reader of lines that were dropped, and returns how many it is yet to be told of.
func (w *logWriter) tell(dropped int) int {
	if dropped == 0 || w.resume(dropped) != nil {
		return dropped
	}
	return 0
}

// write writes lines, unless the reader could not be told of those before, and returns how many it is to be told of.
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

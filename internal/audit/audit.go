// Package audit writes the audit log: a line of JSON for each token that was vended or refused.
//
// It promises: [Trail.Record] returns nil only once the operating system has the line, so that an answer sent after it
// is never without a line, even if the process is killed; it returns within its caller's deadline; a line contains
// keyed hashes of user ids and tokens, never the ids and tokens themselves. While lines cannot be written,
// [Trail.Check] says so; the first line after such a gap says when it began and how many answers were withheld. Those
// withheld while that line was being written are told by the next one, at once: none is told twice, or not at all.
package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"token-sidecar/internal/secret"
)

// ErrUnavailable means that the line of a request could not be written.
var ErrUnavailable = errors.New("audit: the line could not be written")

const (
	// mostWaiting bounds the lines waiting to be written, in bytes: about ten thousand lines.
	mostWaiting = 4 << 20
	// retryInterval is how often writing is tried again after a failure.
	retryInterval = time.Second
	// closeLimit bounds how long Close waits for the last lines.
	closeLimit = 2 * time.Second
)

// Options configure a [Trail]. Path and Key are required.
type Options struct {
	// Path is [Stdout] or the path of a file.
	Path string
	// Key is AUDIT_KEY_FILE, whose content [CheckKeys] has accepted.
	Key *secret.File
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
	// Wall is the wall clock. Default [time.Now].
	Wall func() time.Time
}

// A Trail is an audit trail. Its methods may be called concurrently.
//
// One goroutine writes. Lines that arrive during a write go out together with the next one.
type Trail struct {
	opts  Options
	sink  sink
	key   atomic.Pointer[Key]
	lines prometheus.Counter
	most  int // bound of the waiting bytes

	wake, moved chan struct{} // ask for a write, or for opening the file again
	stop, ended chan struct{}

	mu    sync.Mutex
	next  *batch // goes out with the next write
	state State  // after a failure, nothing is recorded until a write succeeds
	lapse lapse  // not reported by any line yet
}

// A batch consists of lines that are written together.
type batch struct {
	lines []byte
	count int           // callers who wait for it
	done  chan struct{} // closed once err is set
	err   error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// A lapse is a time during which answers were withheld, because their lines could not be written. Its since is zero if
// there was none.
type lapse struct {
	since    time.Time
	withheld int
}

// and combines l with a later one.
func (l lapse) and(later lapse) lapse {
	if l.since.IsZero() {
		return later
	}
	return lapse{since: l.since, withheld: l.withheld + later.withheld}
}

// Open opens the trail. Errors name the setting and the remedy.
func Open(opts Options) (*Trail, error) {
	to, err := openSink(opts.Path)
	if err != nil {
		return nil, fmt.Errorf("AUDIT_LOG: %w", err)
	}
	t, err := start(opts, to)
	if err != nil {
		_ = to.close()
	}
	return t, err
}

func start(opts Options, to sink) (*Trail, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Wall == nil {
		opts.Wall = time.Now
	}
	t := &Trail{
		opts: opts, sink: to, next: newBatch(), most: mostWaiting,
		wake: make(chan struct{}, 1), moved: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := t.useKey(); err != nil {
		return nil, fmt.Errorf("AUDIT_KEY_FILE: %w", err)
	}
	opts.Key.OnChange(func() {
		if err := t.useKey(); err != nil {
			opts.Log.Error("the new audit key cannot be used, the old one stays in force", slog.Any("error", err))
		}
	})
	t.register(opts.Registerer)
	go t.run()
	return t, nil
}

func (t *Trail) useKey() error {
	keys, err := ParseKeys(t.opts.Key.Text())
	if err == nil {
		t.key.Store(&keys[0])
	}
	return err
}

// Check returns [ErrUnavailable] while lines cannot be written; no token may be vended then.
func (t *Trail) Check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Since.IsZero() {
		return nil
	}
	return t.refuse(1)
}

// refuse returns [ErrUnavailable], and counts the answers that are withheld because of it. t.mu is held.
func (t *Trail) refuse(answers int) error {
	t.lapse = t.lapse.and(lapse{t.opts.Wall(), answers})
	return ErrUnavailable
}

// Record writes the line of e. It waits until that is done, or ctx ends. After an error the answer must be withheld;
// the line may still get written.
func (t *Trail) Record(ctx context.Context, e Event) error {
	line := e.line(t.opts.Wall(), *t.key.Load())
	t.mu.Lock()
	b := t.next
	if len(b.lines)+len(line) > t.most {
		defer t.mu.Unlock()
		t.fail(errFull)
		return t.refuse(1)
	}
	b.lines = append(b.lines, line...)
	b.count++
	t.mu.Unlock()
	notify(t.wake)
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-b.done: // just now, and flush has counted this answer if it failed
		return b.err
	default:
	}
	b.count--
	t.fail(errSlow)
	notify(t.wake)
	return t.refuse(1)
}

var (
	errFull = errors.New("too many lines wait to be written")
	errSlow = errors.New("writing takes too long")
)

// fail notes that lines cannot be written. t.mu is held.
func (t *Trail) fail(err error) {
	cause := causeOf(err)
	if t.state.Since.IsZero() {
		t.state = State{Since: t.opts.Wall(), First: cause}
	}
	t.state.Cause = cause
}

// Reopen opens the file again after it was moved away, as log rotation does. The next line would notice that as well.
func (t *Trail) Reopen() { notify(t.moved) }

// Close writes what waits and ends t. Record must not be called after it.
func (t *Trail) Close() {
	close(t.stop)
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case <-t.ended:
	case <-limit.C:
		t.opts.Log.Error("the audit log could not be written to its end; the callers of what it lacks got 503")
	}
}

// run writes until t is closed.
func (t *Trail) run() {
	defer close(t.ended)
	defer func() { _ = t.sink.close() }()
	for {
		var retry <-chan time.Time
		if t.hasFailed() {
			retry = time.After(retryInterval)
		}
		select {
		case <-t.wake:
		case <-retry:
		case <-t.moved:
			t.sink.reopen()
			continue
		case <-t.stop:
			t.flush()
			return
		}
		t.flush()
	}
}

func (t *Trail) hasFailed() bool { return !t.State().Since.IsZero() }

// flush writes what waits, after a line that reports a lapse if there was one.
func (t *Trail) flush() {
	t.mu.Lock()
	b, over := t.next, t.lapse
	t.next, t.lapse = newBatch(), lapse{}
	t.mu.Unlock()
	lines := b.lines
	if !over.since.IsZero() {
		lines = append(gapLine(t.opts.Wall(), over), lines...)
	}
	if len(lines) == 0 {
		return
	}
	err := t.sink.write(lines)
	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(b.done)
	if err != nil {
		t.lapse = over.and(t.lapse)
		t.fail(err)
		b.err = t.refuse(b.count)
		return
	}
	t.lines.Add(float64(bytes.Count(lines, []byte{'\n'})))
	t.state = State{}
	if !t.lapse.since.IsZero() { // it began during the write
		notify(t.wake)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *Trail) register(to prometheus.Registerer) {
	factory := promauto.With(to)
	t.lines = factory.NewCounter(prometheus.CounterOpts{
		Name: "token_sidecar_audit_lines_total",
		Help: "Lines written to the audit log. Absent without AUDIT_LOG.",
	})
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "token_sidecar_audit_writable",
		Help: "1 while the audit log can be written, else 0: callers then get 503 AUDIT_UNAVAILABLE. Absent without AUDIT_LOG.",
	}, func() float64 {
		if t.hasFailed() {
			return 0
		}
		return 1
	})
}

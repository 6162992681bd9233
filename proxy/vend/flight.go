package vend

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"token-sidecar/cache"
	"token-sidecar/upstream"
)

// shareFetch joins or starts the flight that fetches the token of key.
func (b *Broker) shareFetch(ctx context.Context, key cache.Key, req upstream.Request, want cache.Want) (Token, error) {
	for {
		t, err := b.share(ctx, key, func(ctx context.Context) (Token, error) { return b.fetch(ctx, key, req, want) })
		if !isPutOff(err) || req.Background {
			return t, err
		}
		// The flight was a renewal, which yields to callers.
	}
}

// A putOffError is the error of a renewal that did not go out. It does not count as a failure.
type putOffError struct{ error }

func (e putOffError) Unwrap() error { return e.error }

func isPutOff(err error) bool {
	var e putOffError
	return errors.As(err, &e)
}

// notAsked wraps err if it means that a renewal did not go out.
func notAsked(req upstream.Request, err error) error {
	var e *upstream.Error
	if req.Background && errors.As(err, &e) && e.Held() {
		return putOffError{err}
	}
	return err
}

// shared names what callers of key may share who come now.
func (b *Broker) shared(key cache.Key) string {
	return string(binary.BigEndian.AppendUint64(key[:], b.opts.Cache.Epoch(key)))
}

// share runs do once for all who ask for key at the same time, and returns its outcome to each of them, or
// the error of a caller's own context, which also bounds how long it waits.
func (b *Broker) share(ctx context.Context, key cache.Key, do func(context.Context) (Token, error)) (Token, error) {
	led := false
	result := b.fetches.DoChan(b.shared(key), func() (any, error) {
		led = true
		return b.fly(ctx, do)
	})
	select {
	case r := <-result:
		t, _ := r.Val.(Token)
		t.Collapsed = t.From == cache.None && (t.Collapsed || !led)
		t.At = time.Now()
		if r.Err == nil && !t.Entry.Usable(t.At) { // the caller may have waited long for the processor
			return Token{}, ErrTooLate
		}
		return t, r.Err
	case <-ctx.Done():
		return Token{}, context.Cause(ctx)
	}
}

// fly runs do independently of the caller's cancellation.
func (b *Broker) fly(ctx context.Context, do func(context.Context) (Token, error)) (Token, error) {
	if !b.begin() {
		return Token{}, context.Canceled
	}
	defer b.flights.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.flightLimit())
	defer cancel()
	defer context.AfterFunc(b.life, cancel)() //nolint:contextcheck // the broker's end, not the caller's
	return b.caught(func() (Token, error) { return do(ctx) })
}

// begin counts a flight, which must end with flights.Done. It returns false if b is closed.
func (b *Broker) begin() bool {
	b.closing.Lock()
	defer b.closing.Unlock()
	if b.life.Err() != nil {
		return false
	}
	b.flights.Add(1)
	return true
}

// caught runs do. A panic in it fails the callers, not the process.
func (b *Broker) caught(do func() (Token, error)) (t Token, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			b.metrics.panics.Inc()
			b.opts.Log.Error("a defect: fetching a token panicked; please report it",
				slog.String("type", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
			t, err = Token{}, ErrPanic
		}
	}()
	return do()
}

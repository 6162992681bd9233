package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"

	"golang.org/x/sync/singleflight"
)

// Tokens is what vending needs of a cache; see [cache.Cache].
type Tokens interface {
	Peek(key cache.Key, now time.Time) *cache.Entry
	Look(ctx context.Context, key cache.Key) (*cache.Entry, cache.Source)
	LookShared(ctx context.Context, key cache.Key) (*cache.Entry, cache.Source)
	Acquire(ctx context.Context, key cache.Key, avoid uint64) (*cache.Lease, *cache.Entry, error)
	Claim(ctx context.Context, key cache.Key, entry *cache.Entry, hold time.Duration) bool
	Forget(ctx context.Context, key cache.Key, hash *cache.Hash) error
}

// AuthService is what vending needs of the auth service; see [upstream.Client].
type AuthService interface {
	Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error)
	// Limit is how long Token may take at most.
	Limit() time.Duration
}

// vendor decides between cache and auth service.
//
// Callers of one key share one look in the caches, and then one flight, which fetches. A flight has a context
// and limit of its own, so callers may leave, the first one too, without the others noticing.
type vendor struct {
	tokens    Tokens
	source    AuthService
	lifetimes Lifetimes
	refused   *refusals
	metrics   *metrics
	log       *slog.Logger
	// fetching and renewing sum up what fails.
	fetching, renewing trouble
	// keepRefresh is given the refresh token of a user.
	keepRefresh func(ctx context.Context, user, token secret.Text)

	looks, fetches singleflight.Group

	life    context.Context //nolint:containedctx // that of all flights, ended by close
	end     context.CancelFunc
	flights sync.WaitGroup
}

// served is one vended token, and where it came from.
type served struct {
	entry     *cache.Entry
	from      cache.Source // None: fetched for this request
	collapsed bool         // by another request, here or in the fleet
	at        time.Time    // when it was handed out
}

const (
	// cacheBudget is what the cache's steps of a fetch may take beside the auth service.
	cacheBudget = 500 * time.Millisecond
	// answerBudget is what is left to answer in after a flight's limit.
	answerBudget = 500 * time.Millisecond
)

// flightLimit ends a flight, patience what a caller waits. With the auth service's limit of UPSTREAM_TIMEOUT x
// UPSTREAM_MAX_ATTEMPTS + 1 s they stay within the 2 s that are promised on top.
func (v *vendor) flightLimit() time.Duration { return v.source.Limit() + cacheBudget }
func (v *vendor) patience() time.Duration    { return v.flightLimit() + answerBudget*3/4 }

// vend returns a token for req, which was understood at now. With fresh it must be another one than the caches hold now.
func (v *vendor) vend(ctx context.Context, now time.Time, key cache.Key, req upstream.Request, fresh bool) (served, error) {
	if fresh {
		return v.vendFresh(ctx, key, req)
	}
	if s, ok := v.known(now, key, req); ok { //nolint:contextcheck // a renewal outlives the caller
		return s, nil
	}
	if err := v.refused.get(key); err != nil {
		v.metrics.negativeHits.Inc()
		return served{}, err
	}
	defer func() { v.metrics.waits.Observe(time.Since(now).Seconds()) }()
	s, err := v.look(ctx, key)
	if err != nil {
		return served{}, err
	}
	if s.entry != nil {
		v.renewIfDue(key, req, s.entry, s.at) //nolint:contextcheck // it outlives the caller
		return s, nil
	}
	ctx, cancel := context.WithDeadline(ctx, now.Add(v.patience()))
	defer cancel()
	return v.shareFetch(ctx, key, req, 0)
}

// known returns what memory holds. It does not wait.
func (v *vendor) known(now time.Time, key cache.Key, req upstream.Request) (served, bool) {
	entry := v.tokens.Peek(key, now)
	if entry == nil {
		return served{}, false
	}
	v.renewIfDue(key, req, entry, now)
	return served{entry: entry, from: cache.FromMemory, at: now}, true
}

// look looks in the caches, once for all who ask for key at the same time. It is done in the goroutine of the first of
// them, being short, but not under its context.
func (v *vendor) look(ctx context.Context, key cache.Key) (served, error) {
	found, err, _ := v.looks.Do(string(key[:]), func() (any, error) {
		return v.caught(func() (served, error) {
			entry, from := v.tokens.Look(context.WithoutCancel(ctx), key)
			return served{entry: entry, from: from}, nil
		})
	})
	s, _ := found.(served)
	s.at = time.Now()
	return s, err
}

// vendFresh learns which token there is, and fetches another one. What the caches hold stays until then.
func (v *vendor) vendFresh(ctx context.Context, key cache.Key, req upstream.Request) (served, error) {
	began := time.Now()
	defer func() { v.metrics.waits.Observe(time.Since(began).Seconds()) }()
	ctx, cancel := context.WithTimeout(ctx, v.patience())
	defer cancel()
	var avoid uint64
	if entry, _ := v.tokens.LookShared(ctx, key); entry != nil {
		avoid = entry.ID
	}
	for {
		// A flight that was under way may have been content with the token to avoid.
		s, err := v.shareFetch(ctx, key, req, avoid)
		if err != nil || s.entry.ID != avoid {
			return s, err
		}
	}
}

// shareFetch joins or begins the flight that fetches the token of key.
func (v *vendor) shareFetch(ctx context.Context, key cache.Key, req upstream.Request, avoid uint64) (served, error) {
	return v.share(ctx, &v.fetches, key, func(ctx context.Context) (served, error) {
		return v.fetch(ctx, key, req, avoid)
	})
}

// share runs do once for all who ask for key at the same time, and returns its outcome to each of them, or
// the error of a caller's own context, which also bounds how long it waits.
func (v *vendor) share(ctx context.Context, group *singleflight.Group, key cache.Key, do func(context.Context) (served, error)) (served, error) {
	led := false
	result := group.DoChan(string(key[:]), func() (any, error) {
		led = true
		return v.fly(ctx, do)
	})
	select {
	case r := <-result:
		s, _ := r.Val.(served)
		s.collapsed = s.from == cache.None && (s.collapsed || !led)
		s.at = time.Now()
		return s, r.Err
	case <-ctx.Done():
		return served{}, context.Cause(ctx)
	}
}

// fly runs do apart from the caller's cancellation.
func (v *vendor) fly(ctx context.Context, do func(context.Context) (served, error)) (served, error) {
	v.flights.Add(1)
	defer v.flights.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.flightLimit())
	defer cancel()
	defer context.AfterFunc(v.life, cancel)() //nolint:contextcheck // the vendor's end, not the caller's
	return v.caught(func() (served, error) { return do(ctx) })
}

// caught runs do. A panic in it fails its callers, not the process.
func (v *vendor) caught(do func() (served, error)) (s served, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			v.metrics.panics.Inc()
			v.log.Error("a defect: fetching a token panicked; please report it",
				slog.String("type", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
			s, err = served{}, errInternal
		}
	}()
	return do()
}

// fetch takes the fleet's turn for key and asks the auth service. It returns another sidecar's token when one
// turned up that is not avoid.
func (v *vendor) fetch(ctx context.Context, key cache.Key, req upstream.Request, avoid uint64) (served, error) {
	lease, entry, err := v.tokens.Acquire(ctx, key, avoid)
	if err != nil || entry != nil {
		return served{entry: entry, collapsed: true}, err
	}
	defer lease.Release(ctx)
	answer, err := v.ask(ctx, req)
	if err != nil {
		var e *upstream.Error
		if errors.As(err, &e) && e.Kind == upstream.Refused {
			v.refused.put(key, err)
		}
		return served{}, err
	}
	entry = v.entryOf(answer)
	lease.Publish(ctx, entry)
	return served{entry: entry}, nil
}

// direct asks for a token that is neither kept nor shared.
func (v *vendor) direct(ctx context.Context, req upstream.Request) (served, error) {
	ctx, cancel := context.WithTimeout(ctx, v.flightLimit())
	defer cancel()
	answer, err := v.ask(ctx, req)
	if err != nil {
		return served{}, err
	}
	return served{entry: v.entryOf(answer), at: time.Now()}, nil
}

func (v *vendor) ask(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	answer, err := v.source.Token(ctx, req)
	var e *upstream.Error
	switch {
	case err == nil:
		v.fetching.succeeded()
	case errors.As(err, &e) && e.Kind != upstream.Refused && e.Kind != upstream.ClientRefused:
		v.fetching.failed(err)
	}
	if err == nil && answer.RefreshToken.Reveal() != "" && req.UserID.Reveal() != "" {
		v.keepRefresh(context.WithoutCancel(ctx), req.UserID, answer.RefreshToken)
	}
	return answer, err
}

func (v *vendor) entryOf(answer *upstream.Answer) *cache.Entry {
	e := &cache.Entry{ID: cache.NewID(), Body: answer.Body, Sent: answer.Sent}
	for _, life := range answer.Lifetimes {
		e.AddHole(cache.Hole{Start: life.Start, End: life.End, Life: life.Life})
		if e.Life == 0 || life.Life < e.Life {
			e.Life = life.Life
		}
	}
	for _, token := range answer.Tokens {
		e.AddHash(cache.HashOf(token))
	}
	e.KeepFor = v.lifetimes.keepFor(e.Life)
	return e
}

// forget forgets the token of key, or only the one of that hash, and lets no flight under way be joined.
func (v *vendor) forget(ctx context.Context, key cache.Key, hash *cache.Hash) {
	v.refused.remove(key)
	if hash == nil {
		v.looks.Forget(string(key[:]))
		v.fetches.Forget(string(key[:]))
	}
	_ = v.tokens.Forget(ctx, key, hash)
}

// close ends all flights and waits for them.
func (v *vendor) close() {
	v.end()
	v.flights.Wait()
}

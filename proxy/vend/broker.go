// Package vend decides between the cache and the auth service. It knows no HTTP.
//
// It promises: a token of the requested user, before its margin, or an error, within [Broker.Longest]; concurrent
// callers of one key share one lookup in the caches and one fetch, and a caller who leaves does not fail the others; no
// caller waits for a renewal ahead of expiry; a refusal is cached briefly, other failures are not.
package vend

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"token-sidecar/cache"
	"token-sidecar/internal/health"
	"token-sidecar/internal/secret"
	"token-sidecar/upstream"
)

// Cache is what vending needs from the caches; see [cache.Cache].
type Cache interface {
	Peek(key cache.Key, now time.Time) *cache.Entry
	Look(ctx context.Context, key cache.Key) (*cache.Entry, cache.Source)
	LookShared(ctx context.Context, key cache.Key) (*cache.Entry, cache.Source, error)
	Former(key cache.Key) *cache.Entry
	Refusal(key cache.Key) (cache.Refusal, bool)
	Epoch(key cache.Key) uint64
	Acquire(ctx context.Context, key cache.Key, want cache.Want) (cache.Offer, error)
	Claim(ctx context.Context, key cache.Key, entry *cache.Entry, first, longest time.Duration) bool
	Forget(ctx context.Context, key cache.Key, hash *cache.Hash) (told bool)
}

// AuthService is what vending needs from the auth service; see [upstream.Client].
type AuthService interface {
	Token(ctx context.Context, req upstream.Request) (*upstream.Answer, error)
	// Held returns why req would be held back at present, nil if it would not be.
	Held(req upstream.Request) error
	// Limit is the longest time that Token may take.
	Limit() time.Duration
}

// A RefreshTokenKeeper keeps the newest refresh token of a user; see [RefreshTokenKey].
type RefreshTokenKeeper interface {
	KeepRefreshToken(ctx context.Context, key cache.Key, token secret.Text, sent time.Time)
}

// ErrPanic is what callers get whose fetch panicked; the log has the stack. ErrTooLate is what they get when the token
// arrived so late that it was inside its margin already.
var (
	ErrPanic   = errors.New("vend: a defect: fetching a token panicked")
	ErrTooLate = errors.New("vend: the token came too late to be served")
)

// Options configure a [Broker]. Cache, AuthService, AuthURL and ClientID are required.
type Options struct {
	Cache       Cache
	AuthService AuthService
	// AuthURL and ClientID are part of every key.
	AuthURL, ClientID string
	// Keeper, if set, is given every refresh token that arrives.
	Keeper RefreshTokenKeeper
	// Lifetimes says when tokens are served and renewed.
	Lifetimes Lifetimes
	// NegativeTTL is how long a refusal is cached; 0 turns that off.
	NegativeTTL time.Duration
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	// Log defaults to none.
	Log *slog.Logger
}

// A Broker vends tokens. Its methods may be called concurrently.
//
// Callers of one key share one look in the caches, and then one flight, which fetches. A flight has a context and a
// limit of its own, so that callers may leave, the first one too, without the others noticing. Nobody shares what began
// before a token of the key was forgotten: it may yield that token still.
type Broker struct {
	opts    Options
	client  string // see clientKey
	metrics *metrics
	// renewing tracks failing renewals.
	renewing health.Streak

	looks, fetches singleflight.Group

	life    context.Context //nolint:containedctx // of all flights, ended by Close
	end     context.CancelFunc
	flights sync.WaitGroup
	closing sync.Mutex // orders the start of flights and Close
}

// A Token is one vended token, and where it came from.
type Token struct {
	Entry     *cache.Entry
	From      cache.Source // None: fetched for this request
	Collapsed bool         // the fetch was shared with another request, to this sidecar or another
	At        time.Time    // when it was handed out
}

// Age is how old the token was when it was handed out.
func (t Token) Age() time.Duration { return t.Entry.Age(t.At) }

const (
	// cacheBudget is how long the steps in the cache may take during a fetch, besides the call of the auth service.
	cacheBudget = 500 * time.Millisecond
	// answerBudget is the time left for answering after a flight's deadline.
	answerBudget = 500 * time.Millisecond
)

// NewBroker returns a broker.
func NewBroker(opts Options) *Broker {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	b := &Broker{opts: opts, client: clientKey(opts.AuthURL, opts.ClientID), metrics: newMetrics(opts.Registerer)}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// flightLimit is the longest that a flight may take, and Longest the longest that a caller waits. With the auth
// service's limit of UPSTREAM_TIMEOUT x UPSTREAM_MAX_ATTEMPTS + 1 s, both stay within the promised 2 s on top of that
// product.
func (b *Broker) flightLimit() time.Duration { return b.opts.AuthService.Limit() + cacheBudget }

// Longest is the longest that [Broker.Vend] and [Broker.VendSession] may take.
func (b *Broker) Longest() time.Duration { return b.flightLimit() + answerBudget*3/4 }

// Vend returns a token for req, which was parsed at now, and which Known could not answer. With fresh, it returns
// another one than the caches hold.
func (b *Broker) Vend(ctx context.Context, now time.Time, req upstream.Request, fresh bool) (Token, error) {
	key := b.Key(req)
	if fresh {
		return b.vendFresh(ctx, key, req)
	}
	defer func() { b.metrics.waits.Observe(time.Since(now).Seconds()) }()
	t, err := b.look(ctx, key)
	if err != nil {
		return Token{}, err
	}
	if t.Entry != nil {
		b.renewIfDue(key, req, t.Entry, t.At) //nolint:contextcheck // it outlives the caller
		return t, nil
	}
	if err := b.refusal(key); err != nil {
		return Token{}, err
	}
	ctx, cancel := context.WithDeadline(ctx, now.Add(b.Longest()))
	defer cancel()
	return b.shareFetch(ctx, key, req, cache.Want{})
}

// refusal returns the cached refusal of key.
func (b *Broker) refusal(key cache.Key) error {
	remembered, ok := b.opts.Cache.Refusal(key)
	if !ok {
		return nil
	}
	b.metrics.negativeHits.Inc()
	return decodeRefusal(remembered)
}

// Refused returns the refusal that memory holds for req, if any. It never waits. Only callers who cannot wait should
// use it, because a token in Redis would have priority.
func (b *Broker) Refused(req upstream.Request) error { return b.refusal(b.Key(req)) }

// Known returns the token that memory holds for req, if any. It never waits.
func (b *Broker) Known(now time.Time, req upstream.Request) (Token, bool) {
	key := b.Key(req)
	entry := b.opts.Cache.Peek(key, now)
	if entry == nil {
		return Token{}, false
	}
	b.renewIfDue(key, req, entry, now)
	return Token{Entry: entry, From: cache.FromMemory, At: now}, true
}

// look looks in the caches, once for all concurrent callers of key. It runs in the goroutine of the first caller,
// because it is short, but not under that caller's context.
func (b *Broker) look(ctx context.Context, key cache.Key) (Token, error) {
	found, err, _ := b.looks.Do(b.shared(key), func() (any, error) {
		return b.caught(func() (Token, error) {
			entry, from := b.opts.Cache.Look(context.WithoutCancel(ctx), key)
			return Token{Entry: entry, From: from}, nil
		})
	})
	t, _ := found.(Token)
	t.At = time.Now()
	return t, err
}

// vendFresh finds out which token there is, and fetches another one. The caches keep the old one until then.
func (b *Broker) vendFresh(ctx context.Context, key cache.Key, req upstream.Request) (Token, error) {
	began := time.Now()
	defer func() { b.metrics.waits.Observe(time.Since(began).Seconds()) }()
	ctx, cancel := context.WithTimeout(ctx, b.Longest())
	defer cancel()
	avoid, _, err := b.opts.Cache.LookShared(ctx, key)
	want := cache.Want{Avoid: avoid, AvoidFirst: err != nil, Anyway: true}
	for {
		// A flight in progress may have accepted the token to avoid.
		t, err := b.shareFetch(ctx, key, req, want)
		if err != nil || avoid == nil || t.Entry.ID != avoid.ID {
			return t, err
		}
	}
}

// fetch acquires the fleet's lease of key and asks the auth service. It returns another sidecar's token if one arrives
// that want accepts.
func (b *Broker) fetch(ctx context.Context, key cache.Key, req upstream.Request, want cache.Want) (Token, error) {
	req.Key = key
	if err := b.opts.AuthService.Held(req); err != nil { // before any caller waits for a lease
		return Token{}, notAsked(req, err)
	}
	offer, err := b.opts.Cache.Acquire(ctx, key, want)
	switch {
	case err != nil:
		return Token{}, err
	case offer.Entry != nil:
		return Token{Entry: offer.Entry, Collapsed: true}, nil
	case offer.Refusal != nil:
		b.metrics.negativeHits.Inc()
		return Token{}, decodeRefusal(*offer.Refusal)
	}
	lease := offer.Lease
	defer lease.Release(ctx)
	entry, err := b.newEntry(ctx, key, req)
	if err != nil {
		if held := lease.Meanwhile(ctx); held != nil {
			return Token{Entry: held, Collapsed: true}, nil
		}
		if record, ttl := b.encodeRefusal(err); ttl > 0 {
			lease.Refuse(ctx, record, ttl)
		}
		return Token{}, notAsked(req, err)
	}
	if want.Avoid == nil || !entry.SharesToken(want.Avoid) {
		lease.Publish(ctx, entry)
	}
	return Token{Entry: entry}, nil
}

// newEntry asks the auth service for a token.
func (b *Broker) newEntry(ctx context.Context, key cache.Key, req upstream.Request) (*cache.Entry, error) {
	answer, err := b.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	entry := b.entryOf(answer, b.opts.Cache.Former(key))
	if !entry.Usable(time.Now()) {
		return nil, ErrTooLate
	}
	return entry, nil
}

// VendSession returns a token that is neither cached nor shared.
func (b *Broker) VendSession(ctx context.Context, req upstream.Request) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, b.flightLimit())
	defer cancel()
	answer, err := b.ask(ctx, req)
	if err != nil {
		return Token{}, err
	}
	t := Token{Entry: b.entryOf(answer, nil), At: time.Now()}
	if !t.Entry.Usable(t.At) {
		return Token{}, ErrTooLate
	}
	return t, nil
}

func (b *Broker) ask(ctx context.Context, req upstream.Request) (*upstream.Answer, error) {
	answer, err := b.opts.AuthService.Token(ctx, req)
	if err == nil && b.opts.Keeper != nil && answer.RefreshToken.Reveal() != "" && req.UserID.Reveal() != "" {
		key := RefreshTokenKey(b.opts.AuthURL, b.opts.ClientID, req.UserID)
		b.opts.Keeper.KeepRefreshToken(context.WithoutCancel(ctx), key, answer.RefreshToken, answer.Sent)
	}
	return answer, err
}

// entryOf makes an entry from answer. If the token is the same as former's, its life is not counted anew.
func (b *Broker) entryOf(answer *upstream.Answer, former *cache.Entry) *cache.Entry {
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
	e.KeepFor = b.opts.Lifetimes.keepFor(e.Life)
	if former != nil && e.SharesToken(former) {
		e.EndWith(former)
	}
	return e
}

// Forget forgets the token of req, or only the one of that hash. told is false while the fleet cannot be told.
func (b *Broker) Forget(ctx context.Context, req upstream.Request, hash *cache.Hash) (told bool) {
	return b.opts.Cache.Forget(ctx, b.Key(req), hash)
}

// FailingRenewals returns the recent renewals that failed.
func (b *Broker) FailingRenewals() health.Run { return b.renewing.Run(time.Now()) }

// Close ends all flights and waits for them. No call may be in progress.
func (b *Broker) Close() {
	b.closing.Lock()
	b.end()
	b.closing.Unlock()
	b.flights.Wait()
}

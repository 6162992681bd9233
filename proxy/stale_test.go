package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/proxy/vend"
)

// lateLooks are caches whose looks hold what they found until they are told to go on.
type lateLooks struct {
	*cache.Cache
	found, goOn chan struct{}
}

func (l lateLooks) Look(ctx context.Context, key cache.Key) (*cache.Entry, cache.Source) {
	entry, from := l.Cache.Look(ctx, key)
	if entry == nil {
		return entry, from
	}
	l.found <- struct{}{}
	<-l.goOn
	return entry, from
}

func (lateLooks) Peek(cache.Key, time.Time) *cache.Entry { return nil }

// TestRejectedWhileLookedUp: a look that began before a token was rejected, and whose reply comes late, is for those
// who asked before.
func TestRejectedWhileLookedUp(t *testing.T) {
	var late lateLooks
	inWorld(t, func(s *settings) {
		s.caches = func(c *cache.Cache) vend.Cache {
			late = lateLooks{c, make(chan struct{}), make(chan struct{})}
			return late
		}
	}, func(t *testing.T, w *world) {
		rejected := w.mustGet("alice").token()
		before := make(chan string)
		go func() { before <- w.mustGet("alice").token() }()
		<-late.found
		if got := w.do(request("DELETE", "/token?client_user_id=alice", "", "X-Rejected-Token-Hash",
			fmt.Sprintf("%x", hashOf(rejected)))); got.status != 204 {
			t.Fatalf("%d %s", got.status, got.raw)
		}
		after := make(chan string)
		go func() { after <- w.mustGet("alice").token() }()
		synctest.Wait()
		close(late.goOn)
		if <-before != rejected || <-after == rejected {
			t.Error("a rejected token is served to somebody who asked after that")
		}
	})
}

// blindLooks are caches whose Redis cannot say which token there is; they note what is wanted of them.
type blindLooks struct {
	*cache.Cache
	wanted *cache.Want
}

func (blindLooks) LookShared(context.Context, cache.Key) (*cache.Entry, cache.Source, error) {
	return nil, cache.None, errors.New("not asked")
}

func (b blindLooks) Acquire(ctx context.Context, key cache.Key, want cache.Want) (cache.Offer, error) {
	*b.wanted = want
	return b.Cache.Acquire(ctx, key, want)
}

// TestNoCacheWhileRedisCannotSay: whatever Redis holds at first may be the token to avoid.
func TestNoCacheWhileRedisCannotSay(t *testing.T) {
	var want cache.Want
	inWorld(t, func(s *settings) {
		s.caches = func(c *cache.Cache) vend.Cache { return blindLooks{c, &want} }
	}, func(t *testing.T, w *world) {
		if w.mustGet("alice", "Cache-Control", "no-cache"); !want.AvoidFirst || !want.Anyway {
			t.Errorf("wanted %+v", want)
		}
		if w.mustGet("bob"); want.AvoidFirst || want.Anyway {
			t.Errorf("without no-cache wanted %+v", want)
		}
	})
}

// unsure are caches that have a refusal of everything in memory, and tokens in Redis alone.
type unsure struct{ *cache.Cache }

func (unsure) Peek(cache.Key, time.Time) *cache.Entry { return nil }

func (unsure) Refusal(cache.Key) (cache.Refusal, bool) {
	return secret.Hide([]byte(`{"status":403}`)), true
}

// TestARefusalHidesNoGoodToken: Redis is asked for a token first.
func TestARefusalHidesNoGoodToken(t *testing.T) {
	inWorld(t, func(s *settings) {
		s.caches = func(c *cache.Cache) vend.Cache { return unsure{c} }
	}, func(t *testing.T, w *world) {
		token := w.mustGet("alice", "Cache-Control", "no-cache").token()
		if w.mustGet("alice").token() != token {
			t.Error("another token is served")
		}
		if got := w.get("bob"); got.status != http.StatusForbidden {
			t.Errorf("without a token: %d", got.status)
		}
	})
}

// slowLeases are caches in which nothing is found before a lease is asked for, which takes time.
type slowLeases struct{ *cache.Cache }

func (slowLeases) Peek(cache.Key, time.Time) *cache.Entry { return nil }

func (slowLeases) Look(context.Context, cache.Key) (*cache.Entry, cache.Source) {
	return nil, cache.None
}

func (s slowLeases) Acquire(ctx context.Context, key cache.Key, want cache.Want) (cache.Offer, error) {
	time.Sleep(100 * time.Millisecond)
	return s.Cache.Acquire(ctx, key, want)
}

// TestNoCacheBesideAFlight that is content with the token to avoid.
func TestNoCacheBesideAFlight(t *testing.T) {
	inWorld(t, func(s *settings) {
		s.caches = func(c *cache.Cache) vend.Cache { return slowLeases{c} }
	}, func(t *testing.T, w *world) {
		token := w.mustGet("alice").token()
		beside := make(chan string)
		go func() { beside <- w.mustGet("alice").token() }()
		synctest.Wait()
		if w.mustGet("alice", "Cache-Control", "no-cache").token() == token {
			t.Error("no-cache got the token that was there")
		}
		if <-beside != token {
			t.Error("whoever asked without no-cache got another token")
		}
	})
}

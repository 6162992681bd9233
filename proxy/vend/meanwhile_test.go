package vend

import (
	"context"
	"errors"
	"testing"
	"time"

	"token-sidecar/cache"
	"token-sidecar/internal/secret"
	"token-sidecar/internal/testbed"
	"token-sidecar/upstream"
)

// failing is an auth service that fails, after meanwhile.
type failing struct {
	meanwhile func()
	err       error
}

func (f failing) Token(context.Context, upstream.Request) (*upstream.Answer, error) {
	f.meanwhile()
	return nil, f.err
}

func (failing) Held(upstream.Request) error { return nil }
func (failing) Limit() time.Duration        { return time.Minute }

func sidecar(t *testing.T, server *testbed.Redis) *cache.Cache {
	t.Helper()
	client, err := cache.Connect(cache.Server{URL: secret.Hide(server.URL()), Mode: "single", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	keys := &cache.Keyring{}
	if err := keys.UseSecret(secret.Hide("secret")); err != nil {
		t.Fatal(err)
	}
	c := cache.New(cache.Options{
		MemorySize: 1 << 20, Client: client, Keys: keys, Trust: time.Minute, StepLimit: 2 * time.Second,
		LockLife: 2 * time.Second, FetchLimit: time.Minute,
	})
	t.Cleanup(c.Close)
	return c
}

// TestAFetchThatFailedWhileAnotherSucceeded: a sidecar that is frozen while it fetches wakes with a time-out, a token
// that is too old or a refusal, when another one has long shared a good token with the fleet.
func TestAFetchThatFailedWhileAnotherSucceeded(t *testing.T) {
	server := testbed.StartRedis(t)
	for name, fails := range map[string]error{
		"time-out": &upstream.Error{Kind: upstream.Timeout},
		"too late": ErrTooLate,
		"refused":  &upstream.Error{Kind: upstream.Refused, Status: 404, Code: "UNKNOWN_CLIENT_USER_ID"},
	} {
		t.Run(name, func(t *testing.T) {
			frozen, other := sidecar(t, server), sidecar(t, server)
			req := upstream.Request{UserID: secret.Hide(name)}
			var b *Broker
			good := &cache.Entry{ID: cache.NewID(), Sent: time.Now(), Life: time.Hour, KeepFor: time.Hour}
			shares := func() {
				server.Flush() // the lock has expired
				offer, err := other.Acquire(t.Context(), b.Key(req), cache.Want{})
				if err != nil || offer.Lease == nil {
					t.Fatal(offer, err)
				}
				offer.Lease.Publish(t.Context(), good)
			}
			b = NewBroker(Options{Cache: frozen, AuthService: failing{shares, fails}, NegativeTTL: time.Minute})
			defer b.Close()
			got, err := b.Vend(t.Context(), time.Now(), req, false)
			if err != nil || got.Entry.ID != good.ID {
				t.Fatalf("%+v, %v", got, err)
			}
			alone := NewBroker(Options{Cache: sidecar(t, testbed.StartRedis(t)), AuthService: failing{func() {}, fails}})
			defer alone.Close()
			if _, err := alone.Vend(t.Context(), time.Now(), req, false); !errors.Is(err, fails) {
				t.Errorf("without another's token: %v", err)
			}
		})
	}
}

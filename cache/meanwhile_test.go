package cache

import (
	"testing"

	"token-sidecar/internal/testbed"
)

// TestWhatOthersStoredMeanwhile: a holder that lost its lock while it was frozen finds the token of the one who took it.
func TestWhatOthersStoredMeanwhile(t *testing.T) {
	server := testbed.StartRedis(t)
	frozen, other := newCache(t, server.URL(), nil), newCache(t, server.URL(), nil)
	key := NewKey("u")
	first := fetchOnce(t, other, key, nil)
	offer, err := frozen.Acquire(t.Context(), key, Want{Avoid: first})
	if err != nil || offer.Lease == nil {
		t.Fatal(offer, err)
	}
	defer offer.Lease.Release(t.Context())
	if e := offer.Lease.Meanwhile(t.Context()); e != nil {
		t.Errorf("%v is the token to avoid", e)
	}
	server.Client().Del(t.Context(), frozen.shared.keys.names(key)[0].text+lockSuffix)
	second := fetchOnce(t, other, key, first)
	if e := offer.Lease.Meanwhile(t.Context()); e == nil || e.ID != second.ID {
		t.Errorf("%v, want the other's token", e)
	}
	unsure := &Lease{cache: frozen, key: key, want: Want{AvoidFirst: true}}
	if e := unsure.Meanwhile(t.Context()); e != nil {
		t.Errorf("%v may be the token to avoid", e)
	}
}

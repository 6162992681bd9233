package app

import (
	"context"

	"token-sidecar/cache"
	"token-sidecar/upstream"
)

// A fleetGate is the gate that the fleet keeps in Redis. The hold of a path is named after the path.
type fleetGate struct{ redis *cache.Gate }

// newGate returns the gate of all sidecars with the same auth service and client_id; nil without Redis.
func newGate(tokens *cache.Cache, authURL, clientID string) upstream.Gate {
	redis := tokens.Gate(authURL + "\n" + clientID)
	if redis == nil {
		return nil
	}
	return fleetGate{redis}
}

// Enter implements [upstream.Gate].
func (g fleetGate) Enter(ctx context.Context, ask upstream.Ask) (upstream.Pass, error) {
	pass, err := g.redis.Enter(ctx, cache.GateAsk{
		Hold: ask.Path, Interval: ask.Rate.Interval, Burst: ask.Rate.Burst, Leave: ask.Rate.Leave,
		Patience: ask.Patience, Paid: ask.Paid, TrialLimit: ask.TrialLimit,
	})
	return upstream.Pass(pass), err
}

// Hold implements [upstream.Gate].
func (g fleetGate) Hold(ctx context.Context, path string, h upstream.Hold) error {
	return g.redis.Hold(ctx, path, h.For, h.Status, h.Trial)
}

// Release implements [upstream.Gate].
func (g fleetGate) Release(ctx context.Context, path, trial string, success bool) error {
	return g.redis.Release(ctx, path, trial, success)
}

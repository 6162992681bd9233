package cache

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/health"
)

// In a cluster each PUBLISH crosses every node. What only one sidecar is told is therefore sent by sharded pub/sub,
// where Redis has it (version 7): it goes to the one node that has the slot of that sidecar's channel.

const (
	plainPrefix   = newsChannel + ":"
	shardedPrefix = newsChannel + ":s:"
	// longestShardedPause bounds how long it is before a channel that failed is subscribed again.
	longestShardedPause = time.Minute
	// newsArg is which argument of endScript holds the news for those who wait.
	newsArg = 6
)

func (s *shared) plainChannel() string { return plainPrefix + strconv.FormatUint(s.sender, 36) }

func (s *shared) shardedChannel() string { return shardedPrefix + strconv.FormatUint(s.sender, 36) }

// ownChannel is on which only this sidecar is told things.
func (s *shared) ownChannel() string {
	if s.sharded.Load() {
		return s.shardedChannel()
	}
	return s.plainChannel()
}

// wake tells those who wait on sharded channels, without waiting for it: it may be lost, as all news may.
func (s *shared) wake(ctx context.Context, news, channels any) {
	list, _ := channels.([]any)
	commands := make([]*command, 0, len(list))
	for _, channel := range list {
		if name, ok := channel.(string); ok {
			commands = append(commands, &command{step: "wake", script: wakeScript, keys: []string{name}, args: []any{news}})
		}
	}
	if len(commands) > 0 {
		s.pipeline.submit(context.WithoutCancel(ctx), commands)
	}
}

// listenSharded hands news of this sidecar's sharded channel to hear until ctx ends. While it cannot, in an older Redis
// or with an ACL that does not allow it, the plain channel serves.
func (s *shared) listenSharded(ctx context.Context, hear func(news)) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return
	}
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, longestShardedPause) {
		if s.hearSharded(ctx, cluster, hear) {
			pause = time.Second
		}
		waitFor(ctx, nil, pause)
	}
}

// hearSharded listens on one connection until it fails, and reports whether it ever worked.
func (s *shared) hearSharded(ctx context.Context, cluster *redis.ClusterClient, hear func(news)) (worked bool) {
	defer s.sharded.Store(false)
	sub := cluster.SSubscribe(ctx, s.shardedChannel())
	end := func() { _ = sub.Close() }
	defer end()
	defer context.AfterFunc(ctx, end)() // a read does not notice it
	silent := false
	for {
		message, err := sub.ReceiveTimeout(ctx, s.newsCheck)
		switch {
		case err != nil && health.NetworkCause(err) == health.TimedOut && !silent && ctx.Err() == nil:
			if silent = true; sub.Ping(ctx) != nil {
				return worked
			}
			continue
		case err != nil:
			return worked
		}
		silent = false
		switch m := message.(type) {
		case *redis.Subscription:
			s.sharded.Store(true)
			worked = true
		case *redis.Message:
			if n, ok := s.keys.openNews(m.Payload, s.sender); ok {
				hear(n)
			}
		}
	}
}

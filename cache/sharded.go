package cache

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/health"
)

// In a cluster, each PUBLISH goes to every node. Messages for a single sidecar are therefore sent by sharded pub/sub
// where Redis has it (version 7): these go only to the node with the slot of that sidecar's channel.

const (
	plainPrefix   = newsChannel + ":"
	shardedPrefix = newsChannel + ":s:"
	// longestShardedPause bounds the pause before subscribing again to a channel that failed.
	longestShardedPause = time.Minute
	// newsArg is the index of the argument of endScript that holds the message for those who wait.
	newsArg = 6
)

func (s *shared) plainChannel() string { return plainPrefix + strconv.FormatUint(s.sender, 36) }

func (s *shared) shardedChannel() string { return shardedPrefix + strconv.FormatUint(s.sender, 36) }

// ownChannel is the channel for messages to this sidecar alone.
func (s *shared) ownChannel() string {
	if s.sharded.Load() {
		return s.shardedChannel()
	}
	return s.plainChannel()
}

// wake sends news to those who wait on sharded channels. It does not wait for the outcome: messages may be lost.
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

// listenSharded passes messages on this sidecar's sharded channel to hear until ctx ends. The plain channel is used
// while this fails, as it does with an older Redis or an ACL that does not allow it.
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

// hearSharded listens on one connection until that fails, and reports whether it ever worked.
func (s *shared) hearSharded(ctx context.Context, cluster *redis.ClusterClient, hear func(news)) (worked bool) {
	defer s.sharded.Store(false)
	sub := cluster.SSubscribe(ctx, s.shardedChannel())
	end := func() { _ = sub.Close() }
	defer end()
	defer context.AfterFunc(ctx, end)() // a blocked read does not notice that ctx has ended
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

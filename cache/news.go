package cache

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// News is what the sidecars of a fleet tell each other, by Redis pub/sub: that a key's tokens were forgotten,
// or that the turn to fetch it has ended. It may be lost: then MEMORY_CACHE_TTL bounds how long a forgotten
// token is served elsewhere, and waiting sidecars look again by themselves.
//
// go-redis' client-side caching would do the first half, but in version 9.23 it serves neither cluster nor
// sentinel clients, and empties itself when Redis is lost, which is when memory is needed most.
type news struct {
	kind byte
	key  Key
	hash *Hash // newsForget only; nil: whatever token there is
}

const (
	newsForget byte = 'f'
	newsWake   byte = 'w'
)

// sealNews encrypts n: a key in the clear could be matched against guessed user ids. The sender stands where
// a token has its entry id.
func (k sealKey) sealNews(n news, sender uint64) []byte {
	plain := append([]byte{n.kind}, n.key[:]...)
	if n.hash != nil {
		plain = append(plain, n.hash[:]...)
	}
	return k.seal(plain, newsChannel, sender)
}

// openNews is the inverse of sealNews. ok is false for what cannot be read, and for what self sent.
func (k *Keyring) openNews(raw string, self uint64) (n news, ok bool) {
	plain, sender, err := k.open(raw, newsChannel)
	if err != nil || sender == self || len(plain) < 1+len(n.key) {
		return n, false
	}
	n.kind = plain[0]
	n.key = Key(plain[1 : 1+len(n.key)])
	if rest := plain[1+len(n.key):]; len(rest) == len(Hash{}) {
		hash := Hash(rest)
		n.hash = &hash
	}
	return n, true
}

// ownChannel carries what only this sidecar is told.
func (r *Redis) ownChannel() string { return newsChannel + ":" + strconv.FormatUint(r.sender, 36) }

// listen hands news to hear until ctx ends, and calls lost when some may have been missed.
func (r *Redis) listen(ctx context.Context, hear func(news), lost func()) {
	// Subscribed lazily by the library, which also connects again for ever.
	sub := r.client.Subscribe(ctx, newsChannel, r.ownChannel())
	defer func() { _ = sub.Close() }()
	messages := sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(r.newsCheck), redis.WithChannelSize(1024))
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			switch m := message.(type) {
			case *redis.Subscription:
				lost()
			case *redis.Message:
				if n, ok := r.keys.openNews(m.Payload, r.sender); ok {
					hear(n)
				}
			}
		}
	}
}

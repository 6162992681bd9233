package cache

import (
	"context"
	"encoding/binary"

	"github.com/redis/go-redis/v9"
)

// News is a message between the sidecars of a fleet, sent by Redis pub/sub: the tokens of a key were forgotten, or the
// lease of the key has ended. It may be lost. MEMORY_CACHE_TTL then bounds how long other sidecars serve a forgotten
// token, and waiting sidecars check without being woken.
//
// The client-side caching of go-redis would do the first, but in version 9.23 it supports neither cluster nor sentinel
// clients, and empties itself when the connection to Redis is lost, which is when memory is needed most.
type news struct {
	kind byte
	key  Key
	hash *Hash // newsForget only; nil: whatever token there is
}

const (
	newsForget byte = 'f'
	newsWake   byte = 'w'
)

// sealNews encrypts n: a key in the clear could be compared with those of guessed user ids.
func (k sealKey) sealNews(n news, sender uint64) []byte {
	plain := binary.BigEndian.AppendUint64([]byte{n.kind}, sender)
	plain = append(plain, n.key[:]...)
	if n.hash != nil {
		plain = append(plain, n.hash[:]...)
	}
	return k.seal(plain, newsChannel)
}

// openNews is the inverse of sealNews. ok is false for what cannot be read, and for what self sent.
func (k *Keyring) openNews(raw string, self uint64) (n news, ok bool) {
	const head = 1 + 8
	plain, err := k.open(raw, newsChannel)
	if err != nil || len(plain) < head+len(n.key) || binary.BigEndian.Uint64(plain[1:head]) == self {
		return n, false
	}
	n.kind = plain[0]
	n.key = Key(plain[head : head+len(n.key)])
	if rest := plain[head+len(n.key):]; len(rest) == len(Hash{}) {
		hash := Hash(rest)
		n.hash = &hash
	}
	return n, true
}

// listen passes news to hear until ctx ends, and calls lost when some may have been missed.
func (s *shared) listen(ctx context.Context, hear func(news), lost func()) {
	// The library subscribes lazily, and reconnects without limit.
	sub := s.client.Subscribe(ctx, newsChannel, s.plainChannel())
	defer func() { _ = sub.Close() }()
	messages := sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(s.newsCheck),
		redis.WithChannelSize(1024))
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
				if n, ok := s.keys.openNews(m.Payload, s.sender); ok {
					hear(n)
				}
			}
		}
	}
}

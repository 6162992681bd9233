package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// keyPrefix begins every name in Redis. The number is the version of the format: another one never reads
	// these, so an upgrade that changes the format starts with an empty cache.
	keyPrefix = "token-sidecar:v1:"
	// newsChannel carries what the sidecars tell each other.
	newsChannel = keyPrefix + "news"
	// tombstoneLife is how long at least it is remembered that a token was forgotten: the life of tokens that
	// may still lie in some sidecar's memory.
	tombstoneLife = 24 * time.Hour
)

// Redis is a [Store] that a fleet shares. Each of its calls is bounded by the step limit; after a few
// failures in a row it is down, which makes every call fail at once until a probe gets through.
type Redis struct {
	client  redis.UniversalClient
	keys    *Keyring
	health  *health
	reads   *reads
	metrics *metrics
	wall    func() time.Time
	limit   time.Duration
	sender  uint64 // tells our news from others'
	// newsCheck is how often a silent connection is asked whether it is still one. A fleet asks as often as it has
	// sidecars, so not more often than the trust in memory needs.
	newsCheck time.Duration
}

func newRedis(opts Options, m *metrics) *Redis {
	r := &Redis{client: opts.Client, keys: opts.Keys, metrics: m, wall: opts.Wall, limit: opts.StepLimit, sender: NewID(), newsCheck: max(time.Second, opts.Trust/4)}
	r.health = newHealth(r.probe, opts.Log)
	r.reads = &reads{redis: r}
	return r
}

// probe tries whether Redis can be written to: a replica, or one that is full, is of no use.
func (r *Redis) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	return r.client.Set(ctx, keyPrefix+"{probe}", "1", time.Second).Err()
}

// found is what a look at one name yields.
type found struct {
	entry *Entry // nil: nothing usable
	raw   string // the value as it stands, empty when there is none
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, key Key) (*Entry, error) {
	f, err := r.look(ctx, key)
	return f.entry, err
}

// look reads the value of key under the first key's name, then under those of former keys.
func (r *Redis) look(ctx context.Context, key Key) (f found, err error) {
	for _, sealer := range r.keys.all() {
		name := sealer.nameOf(key)
		if f, err = r.read(ctx, name); err != nil || f.raw != "" {
			return f, err
		}
	}
	return f, nil
}

func (r *Redis) read(ctx context.Context, name string) (found, error) {
	raw, left, err := r.reads.get(ctx, name)
	if err != nil {
		return found{}, err
	}
	return r.understand(raw, name, left), nil
}

// understand opens a value. What cannot be opened is counted, and is none.
func (r *Redis) understand(raw, name string, left time.Duration) found {
	f := found{raw: raw}
	if raw == "" || raw[0] == tombstoneMark {
		return f
	}
	plain, id, err := r.keys.open(raw, name)
	if err == nil {
		f.entry, err = decode(plain, id, r.wall(), left)
	}
	if err != nil {
		r.metrics.unreadable.Inc()
		return found{raw: raw}
	}
	if !f.entry.Usable(time.Now()) {
		f.entry = nil
	}
	return f
}

// Put implements [Store].
func (r *Redis) Put(ctx context.Context, key Key, entry *Entry) error {
	return r.set(ctx, key, entry, "")
}

// seed puts entry unless something is there.
func (r *Redis) seed(ctx context.Context, key Key, entry *Entry) error {
	return r.set(ctx, key, entry, "NX")
}

func (r *Redis) set(ctx context.Context, key Key, entry *Entry, mode string) error {
	left := entry.KeepFor - time.Since(entry.Sent)
	if left < time.Millisecond {
		return nil
	}
	sealer := r.keys.all()[0]
	name := sealer.nameOf(key)
	value := sealer.seal(encode(entry, r.wall()), name, entry.ID)
	return r.step(ctx, "put", func(ctx context.Context) error {
		err := r.client.SetArgs(ctx, name, value, redis.SetArgs{Mode: mode, TTL: left.Truncate(time.Millisecond)}).Err()
		if errors.Is(err, redis.Nil) { // NX, and something is there
			return nil
		}
		return err
	})
}

// Forget implements [Store], and tells the fleet.
func (r *Redis) Forget(ctx context.Context, key Key, hash *Hash) error {
	for _, sealer := range r.keys.all() {
		if err := r.bury(ctx, sealer, key, hash); err != nil {
			return err
		}
	}
	return nil
}

// bury puts a tombstone in the place of a value. With a hash it compares first, and again when the value
// changed under its hands.
func (r *Redis) bury(ctx context.Context, sealer sealKey, key Key, hash *Hash) error {
	name := sealer.nameOf(key)
	news := sealer.sealNews(news{kind: newsForget, key: key, hash: hash}, r.sender)
	for range 3 {
		seen := found{}
		if hash != nil {
			var err error
			if seen, err = r.read(ctx, name); err != nil {
				return err
			}
			if seen.entry != nil && !seen.entry.Has(hash) {
				return nil // a newer one is there already
			}
		}
		var buried int
		err := r.step(ctx, "forget", func(ctx context.Context) (err error) {
			buried, err = forgetScript.Run(ctx, r.client, []string{name},
				seen.raw, newTombstone(hash), tombstoneLife.Milliseconds(), newsChannel, news).Int()
			return err
		})
		if err != nil || buried == 1 {
			return err
		}
	}
	return nil
}

// turn is what asking for a lock yields.
type turn struct {
	got      bool
	found    found
	lockLeft time.Duration
}

// acquire asks for the lock of a key; see acquireScript.
func (r *Redis) acquire(ctx context.Context, name, owner string, lockLife time.Duration, avoid uint64) (t turn, err error) {
	var avoided []byte
	if avoid != 0 {
		avoided = binary.BigEndian.AppendUint64(nil, avoid)
	}
	for range 2 {
		var reply []any
		err = r.step(ctx, "acquire", func(ctx context.Context) (err error) {
			reply, err = acquireScript.Run(ctx, r.client, []string{name, name + lockSuffix, name + waitSuffix},
				owner, lockLife.Milliseconds(), waitLife.Milliseconds(), avoided, r.ownChannel()).Slice()
			return err
		})
		if err != nil || len(reply) != 4 {
			return turn{}, err
		}
		what, _ := reply[0].(string)
		raw, _ := reply[1].(string)
		left, _ := reply[2].(int64)
		lockLeft, _ := reply[3].(int64)
		t = turn{got: what == "got", found: r.understand(raw, name, time.Duration(left)*time.Millisecond), lockLeft: time.Duration(lockLeft) * time.Millisecond}
		if what != "found" || t.found.entry != nil {
			return t, nil
		}
		// It is a value, but not one that can be used: ask again for the lock, to replace it.
		avoided = []byte(raw[min(valueIDOffset, len(raw)):min(valueIDEnd, len(raw))])
	}
	return turn{}, nil
}

// publish stores entry, when there is one, and ends the turn of owner; see publishScript.
func (r *Redis) publish(ctx context.Context, sealer sealKey, key Key, owner, seen string, entry *Entry) (stored int, err error) {
	name := sealer.nameOf(key)
	var value []byte
	life := int64(0)
	if entry != nil {
		life = (entry.KeepFor - time.Since(entry.Sent)).Milliseconds()
		if life > 0 {
			value = sealer.seal(encode(entry, r.wall()), name, entry.ID)
		}
	}
	err = r.step(ctx, "publish", func(ctx context.Context) (err error) {
		stored, err = publishScript.Run(ctx, r.client, []string{name, name + lockSuffix, name + waitSuffix, name + renewSuffix},
			owner, value, life, seen, sealer.sealNews(news{kind: newsWake, key: key}, r.sender)).Int()
		return err
	})
	return stored, err
}

// extend keeps a lock that is still held by owner. That it fails matters to nobody: a lost lock costs one
// more fetch.
func (r *Redis) extend(ctx context.Context, lock, owner string, life time.Duration) {
	_ = r.step(ctx, "extend", func(ctx context.Context) error {
		return extendScript.Run(ctx, r.client, []string{lock}, owner, life.Milliseconds()).Err()
	})
}

// claim reserves the renewal of a key for hold; when somebody has it already, it tells for how long still.
func (r *Redis) claim(ctx context.Context, key Key, hold time.Duration) (ok bool, left time.Duration, err error) {
	name := r.keys.all()[0].nameOf(key) + renewSuffix
	err = r.step(ctx, "claim", func(ctx context.Context) error {
		pipe := r.client.Pipeline()
		set, pttl := pipe.SetNX(ctx, name, "1", hold), pipe.PTTL(ctx, name)
		_, err := pipe.Exec(ctx)
		ok, left = set.Val(), pttl.Val()
		return err
	})
	return ok, left, err
}

// step runs one exchange with Redis within the step limit, unless Redis is down.
func (r *Redis) step(ctx context.Context, name string, do func(context.Context) error) error {
	if r.health.isDown() {
		return ErrUnavailable
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	began := time.Now()
	err := do(ctx)
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	r.metrics.step(name, time.Since(began), err)
	if err != nil && parent.Err() != nil {
		return err // the caller gave up: no verdict on Redis
	}
	r.health.record(err)
	return err
}

func isWrongType(err error) bool { return redis.HasErrorPrefix(err, "WRONGTYPE") }

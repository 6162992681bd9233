package cache

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"token-sidecar/internal/secret"
)

const (
	// keyPrefix begins every name in Redis. It contains the version of the format. Versions do not read each other's
	// values, so an upgrade that changes the format starts with an empty cache.
	keyPrefix = "token-sidecar:v2:"
	// newsChannel carries the messages between sidecars.
	newsChannel = keyPrefix + "news"

	lockSuffix    = ":lock"
	waitSuffix    = ":wait"
	refusalSuffix = ":refusal"
	renewSuffix   = ":renew"
	refreshSuffix = ":refresh"
	goneSuffix    = ":gone"

	// waitLife is how long Redis remembers that a sidecar waits for a lease to end.
	waitLife = time.Minute
	// tombstoneLife is how long at least it is remembered that a token was forgotten: the life of tokens that
	// may still lie in some sidecar's memory. Where none is known to exist, briefLife is enough, unless fetches or the
	// trust in memory take longer.
	tombstoneLife = 24 * time.Hour
	briefLife     = 2 * time.Minute
)

// errUnavailable is the error of a step that was not tried because Redis is known to be down.
var errUnavailable = errors.New("cache: Redis is down, not asked")

// shared is what the sidecars of a fleet keep in Redis. Each of its steps ends within the step limit. While Redis is
// down for what a step needs, the step fails at once.
type shared struct {
	client   redis.UniversalClient
	keys     *Keyring
	pipeline *pipeline
	up       *availability
	metrics  *metrics
	wall     func() time.Time
	sender   uint64 // tells our own messages from others'
	// sharded is set while messages for this sidecar alone come by sharded pub/sub.
	sharded atomic.Bool
	// fetchLimit is the longest that a fetch may take.
	fetchLimit time.Duration
	// newsCheck is how often a silent subscription is tested. Every sidecar of the fleet does this, so it happens no
	// more often than the trust in memory requires.
	newsCheck time.Duration
	// insistFor is how long a step may be repeated. Callers wait for it, and their fetch needs time as well.
	insistFor time.Duration
}

func newShared(opts Options, m *metrics) *shared {
	s := &shared{
		client: opts.Client, keys: opts.Keys, metrics: m, wall: opts.Wall, sender: NewID(), fetchLimit: opts.FetchLimit,
		newsCheck: max(time.Second, opts.Trust/4),
		insistFor: 700 * time.Millisecond,
		up:        newAvailability(opts.StepLimit, opts.ProbeEvery),
	}
	s.up.probe = s.probe
	s.pipeline = newPipeline(opts.Client, opts.StepLimit, s.up.record, m)
	return s
}

// probe tries what the steps need: a script that writes, and a look.
func (s *shared) probe(ctx context.Context) {
	key := keyPrefix + "{probe}"
	_ = s.pipeline.do(ctx, &command{
		step: "probe", script: probeScript, keys: []string{key},
		args: []any{time.Minute.Milliseconds()},
	},
		&command{step: "probe", keys: []string{key}})
}

// insist is [pipeline.twice] for steps whose failure costs another fetch. A step that is not answered in time is tried
// again if Redis answered others meanwhile: a burst on a busy machine delays many.
func (s *shared) insist(ctx context.Context, build func() []*command) (commands []*command, err error) {
	for began := time.Now(); ; {
		if !s.up.writable() {
			return nil, errUnavailable
		}
		tried := time.Now()
		commands, err = s.pipeline.twice(ctx, build)
		if err == nil || ctx.Err() != nil || causeOf(err) != noAnswer ||
			!s.up.answeredSince(tried) || time.Since(began) >= s.insistFor {
			return commands, err
		}
	}
}

// A sight is the result of a look at the names of one key.
type sight struct {
	entry      *Entry // nil: nothing usable
	tombstones []buried
	// fence is that of the value under the first name, empty without a value.
	fence string
	empty bool // whether no name has a value of ours
}

// A buried is a tombstone, with the sealing key of its marks.
type buried struct {
	head head
	key  sealKey
}

// forgets reports whether one of the tombstones forgets e.
func (s sight) forgets(e *Entry) bool {
	return slices.ContainsFunc(s.tombstones, func(b buried) bool { return b.head.forgets(e, b.key) })
}

// newest returns the fence of the newest tombstone, 0 without one.
func (s sight) newest() (fence Fence) {
	for _, b := range s.tombstones {
		fence = max(fence, b.head.fence)
	}
	return fence
}

// look reads the values of key under all its names in one exchange. The newest counts.
func (s *shared) look(ctx context.Context, key Key) (sight, error) {
	if !s.up.readable() {
		return sight{}, errUnavailable
	}
	names := s.keys.names(key)
	commands := make([]*command, len(names))
	for i, n := range names {
		commands[i] = &command{step: "get", keys: []string{n.text}}
	}
	if err := s.pipeline.do(ctx, commands...); err != nil {
		return sight{}, err
	}
	seen := sight{empty: true}
	for i, c := range commands {
		raw, _ := c.reply.(string)
		s.take(&seen, raw, names[i], c.left)
		if i == 0 {
			seen.fence = fenceIn(raw)
		}
	}
	return seen, nil
}

// take adds a value to what was seen. A value that cannot be opened is counted, and otherwise ignored.
func (s *shared) take(seen *sight, raw string, n name, left time.Duration) {
	if raw == "" {
		return
	}
	seen.empty = false
	if raw[0] == tombstoneKind { // a token's head is parsed only once, where it is opened
		if h, ok := parseHead(raw); ok {
			seen.tombstones = append(seen.tombstones, buried{h, n.key})
			return
		}
	}
	e, err := s.keys.parseToken(raw, n, s.wall(), left)
	if err != nil {
		s.metrics.unreadable.Inc()
		return
	}
	if e.Usable(time.Now()) && (seen.entry == nil || e.newerThan(seen.entry)) {
		seen.entry = e
	}
}

// fenceIn returns the fence in a stored value, as text. It is empty if the value is neither a token nor a tombstone.
func fenceIn(raw string) string {
	if len(raw) < fenceEnd || raw[0] != tokenKind && raw[0] != tombstoneKind {
		return ""
	}
	return raw[1:fenceEnd]
}

// A grant is the reply to an acquire.
type grant struct {
	got      bool
	fence    string
	seen     sight
	refusal  *Refusal
	left     time.Duration // the remaining life of the refusal
	lockLeft time.Duration
}

// acquire asks for the lock of one name; see acquireScript.
func (s *shared) acquire(ctx context.Context, n name, l *Lease) (grant, error) {
	avoid, anyway, lockLife := l.replaces, "0", l.cache.lockLife
	if l.want.Anyway {
		anyway = "1"
	}
	for range 2 {
		commands, err := s.insist(ctx, func() []*command {
			return []*command{{
				step: "acquire", script: acquireScript,
				keys: []string{n.text, n.text + lockSuffix, n.text + waitSuffix, n.text + refusalSuffix},
				args: []any{
					l.owner, lockLife.Milliseconds(), waitLife.Milliseconds(), avoid, s.ownChannel(), anyway,
					s.fetchLimit.Microseconds(),
				},
			}}
		})
		if err != nil {
			return grant{}, err
		}
		reply, _ := commands[0].reply.([]any)
		if len(reply) != 4 {
			return grant{}, errNoReply
		}
		what, _ := reply[0].(string)
		raw, _ := reply[1].(string)
		ms, _ := reply[2].(int64)
		left := time.Duration(ms) * time.Millisecond
		g := grant{got: what == "got"}
		switch what {
		case "refused":
			plain, err := s.keys.open(raw, n.text+refusalSuffix)
			if err != nil {
				return g, err
			}
			why := secret.Hide(plain)
			g.refusal, g.left = &why, left
			return g, nil
		case "wait":
			wait, _ := reply[3].(int64)
			g.lockLeft = time.Duration(wait) * time.Millisecond
		case "got":
			g.fence, _ = reply[3].(string)
		}
		g.seen.empty = true
		s.take(&g.seen, raw, n, left)
		if what != "found" || g.seen.entry != nil {
			return g, nil
		}
		// There is a value, but an unusable one: ask again for the lock, in order to replace it.
		avoid = raw[min(fenceEnd, len(raw)):min(idEnd, len(raw))]
	}
	return grant{}, errUnreadable
}

// An ending is how a lease ends: with a token, with a refusal for ttl, or with neither.
type ending struct {
	entry   *Entry
	refusal *Refusal
	ttl     time.Duration
}

// end ends a lease under all its names; see endScript. stored is the worst outcome of storing the token under them.
func (s *shared) end(ctx context.Context, l *Lease, how ending) (stored int64, fence Fence, err error) {
	names := s.keys.names(l.key)
	commands, err := s.insist(ctx, func() []*command {
		commands := make([]*command, len(names))
		for i, n := range names {
			commands[i] = s.endCommand(l, n, how)
		}
		return commands
	})
	if err != nil {
		return 0, 0, err
	}
	stored = 1
	for _, c := range commands {
		reply, _ := c.reply.([]any)
		if len(reply) != 3 {
			return 0, 0, errNoReply
		}
		s.wake(ctx, c.args[newsArg], reply[2])
		result, _ := reply[0].(int64)
		stored = min(stored, result)
		text, _ := reply[1].(string)
		fence = max(fence, parseFence(text))
	}
	return stored, fence, nil
}

func (s *shared) endCommand(l *Lease, n name, how ending) *command {
	kind, content, life := "nothing", "", int64(0)
	switch {
	case how.entry != nil:
		if life = (how.entry.KeepFor - how.entry.Age(time.Now())).Milliseconds(); life > 0 {
			kind, content = "token", formatToken(how.entry, n, s.wall())
		}
	case how.refusal != nil && how.ttl >= time.Millisecond:
		kind, life = "refusal", how.ttl.Milliseconds()
		content = string(n.key.seal(how.refusal.Reveal(), n.text+refusalSuffix))
	}
	return &command{
		step: "publish", script: endScript,
		keys: []string{
			n.text, n.text + lockSuffix, n.text + waitSuffix, n.text + refusalSuffix, n.text + renewSuffix,
			n.text + goneSuffix,
		},
		args: []any{
			l.owner, l.fences[n.text], kind, content, life, l.replaces,
			n.key.sealNews(news{kind: newsWake, key: l.key}, s.sender), s.fetchLimit.Microseconds(), uint64(l.after),
		},
	}
}

// extend extends the locks of leases that are still held. Its failure may be ignored: a lost lock costs one more fetch.
func (s *shared) extend(ctx context.Context, leases []*Lease, life time.Duration) {
	var commands []*command
	for _, l := range leases {
		for text, fence := range l.fences {
			commands = append(commands, &command{
				step: "extend", first: true, script: extendScript, keys: []string{text + lockSuffix},
				args: []any{l.owner, life.Milliseconds(), fence},
			})
		}
	}
	if len(commands) > 0 && s.up.writable() {
		_ = s.pipeline.do(ctx, commands...)
	}
}

// forget buries the tokens of a key, or the one of that hash, under all names, and tells the fleet; life is that of a
// tombstone where nothing was. It returns the fence of what stands under the first name then.
func (s *shared) forget(ctx context.Context, f pendingForget, life time.Duration) (fence string, err error) {
	if !s.up.writable() {
		return "", errUnavailable
	}
	key, hash := f.key, f.hash()
	commands, err := s.pipeline.twice(ctx, func() []*command {
		var commands []*command
		for _, n := range s.keys.names(key) {
			mark := ""
			if hash != nil {
				mark = n.key.mark(*hash)
			}
			commands = append(commands, &command{
				step: "forget", script: forgetScript, keys: []string{n.text, n.text + refusalSuffix, n.text + goneSuffix},
				args: []any{
					mark, tombstoneLife.Milliseconds(), life.Milliseconds(), newsChannel,
					n.key.sealNews(news{kind: newsForget, key: key, hash: hash}, s.sender), formatFence(f.before),
				},
			})
		}
		return commands
	})
	if err != nil {
		return "", err
	}
	fence, _ = commands[0].reply.(string)
	return fence, nil
}

// seed stores a token from memory, provided that the value there still has the fence seen; empty means no value. It
// reports whether that very token was forgotten.
func (s *shared) seed(ctx context.Context, key Key, entry *Entry, seen string) (forgotten bool, err error) {
	left := (entry.KeepFor - entry.Age(time.Now())).Milliseconds()
	if left < 1 {
		return false, nil
	}
	if !s.up.writable() {
		return false, errUnavailable
	}
	n := s.keys.names(key)[0]
	put := &command{
		step: "put", script: seedScript, keys: []string{n.text, n.text + goneSuffix},
		args: []any{formatToken(entry, n, s.wall()), formatFence(entry.Fence), left, seen},
	}
	if err := s.pipeline.do(ctx, put); err != nil {
		return false, err
	}
	return put.reply == int64(-1), nil
}

// claim reserves the renewal of a key. If another sidecar has reserved it, claim returns for how much longer. See
// claimScript.
func (s *shared) claim(
	ctx context.Context, key Key, first, longest time.Duration,
) (ok bool, left time.Duration, err error) {
	if !s.up.writable() {
		return false, 0, errUnavailable
	}
	owner := strconv.FormatUint(NewID(), 36)
	name := s.keys.names(key)[0].text + renewSuffix
	commands, err := s.pipeline.twice(ctx, func() []*command {
		return []*command{{
			step: "claim", script: claimScript, keys: []string{name},
			args: []any{owner, first.Milliseconds(), longest.Milliseconds()},
		}}
	})
	if err != nil {
		return false, 0, err
	}
	reply, _ := commands[0].reply.([]any)
	if len(reply) != 2 {
		return false, 0, errNoReply
	}
	granted, _ := reply[0].(int64)
	ms, _ := reply[1].(int64)
	return granted == 1, time.Duration(ms) * time.Millisecond, nil
}

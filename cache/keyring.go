package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"token-sidecar/internal/secret"
)

const (
	// formerLife bounds how long a former secret opens and names.
	formerLife = 24 * time.Hour
	// maxFormer is how many former secrets are kept; each costs a further name in Redis at every step.
	maxFormer = 3
)

// A Keyring seals what goes to Redis. The first key seals and names, every key opens. It can be replaced
// while in use; the zero Keyring has no key and must be given one first.
type Keyring struct {
	mu   sync.Mutex // orders changes
	keys atomic.Pointer[[]sealKey]
}

// sealKey is one key with what is derived from it.
type sealKey struct {
	id   [4]byte
	name []byte // HMAC key for names
	aead cipher.AEAD
	// longest is how long the longest-lived token that is known to be sealed with it is kept, in nanoseconds.
	longest *atomic.Int64
	former  *former // nil: in force
}

// A former key is one that was replaced at a time, and ends so long after it.
type former struct {
	since time.Time
	life  time.Duration
}

// UseSecret derives a key of a secret by HKDF (RFC 5869) and puts it in force. The former one opens and names for as
// long as the tokens that were sealed with it are kept, at most a day. Those that other sidecars sealed are taken to be
// kept as long as those that this one has sealed or opened; without any, the former one is kept for a day.
func (k *Keyring) UseSecret(s secret.Text) error {
	root, err := hkdf.Key(sha256.New, []byte(s.Reveal()), nil, "token-sidecar/v1/client-secret", 32)
	if err != nil {
		return fmt.Errorf("cannot derive a key: %w", err)
	}
	key, err := derive(root)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	keys := []sealKey{key}
	for _, old := range k.current() {
		if old.id == key.id { // it is in force, or again
			keys[0].longest = old.longest
			continue
		}
		if old.former == nil {
			old.former = &former{since: now, life: formerLife}
			if longest := time.Duration(old.longest.Load()); longest > 0 {
				old.former.life = min(longest, formerLife)
			}
		}
		if !old.ended(now) && len(keys) <= maxFormer {
			keys = append(keys, old)
		}
	}
	k.keys.Store(&keys)
	return nil
}

// UseKeys takes the content of ENCRYPTION_KEYS_FILE: base64 of 32 bytes, one a line.
func (k *Keyring) UseKeys(content secret.Text) error {
	roots, err := parseKeys(content.Reveal())
	if err != nil {
		return err
	}
	return k.use(roots)
}

// CheckKeys reports what is wrong with the content of ENCRYPTION_KEYS_FILE.
func CheckKeys(content string) error {
	_, err := parseKeys(content)
	return err
}

func parseKeys(content string) ([][]byte, error) {
	var roots [][]byte
	for i, line := range strings.Split(content, "\n") {
		line = secret.Trim(line)
		if line == "" {
			continue
		}
		root, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(root) != 32 {
			return nil, fmt.Errorf("line %d is not base64 of 32 bytes; make one with: openssl rand -base64 32", i+1)
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return roots, nil
}

func (k *Keyring) use(roots [][]byte) error {
	keys := make([]sealKey, len(roots))
	for i, root := range roots {
		key, err := derive(root)
		if err != nil {
			return err
		}
		keys[i] = key
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys.Store(&keys)
	return nil
}

func derive(root []byte) (sealKey, error) {
	material, err := hkdf.Expand(sha256.New, root, "token-sidecar/v1/redis", 68)
	if err != nil {
		return sealKey{}, fmt.Errorf("cannot derive a key: %w", err)
	}
	block, err := aes.NewCipher(material[:32])
	if err != nil {
		return sealKey{}, fmt.Errorf("cannot derive a key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealKey{}, fmt.Errorf("cannot derive a key: %w", err)
	}
	return sealKey{
		id: [4]byte(material[64:68]), name: material[32:64], aead: aead, longest: new(atomic.Int64),
	}, nil
}

// all returns the keys that have not ended, the first one first.
func (k *Keyring) all() []sealKey {
	keys := *k.keys.Load()
	if len(keys) == 1 {
		return keys
	}
	now := time.Now()
	if !slices.ContainsFunc(keys, func(key sealKey) bool { return key.ended(now) }) {
		return keys
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(k.current()), func(key sealKey) bool { return key.ended(now) })
	k.keys.Store(&left)
	return left
}

// current returns the keys, those that have ended too, or none.
func (k *Keyring) current() []sealKey {
	if keys := k.keys.Load(); keys != nil {
		return *keys
	}
	return nil
}

// ended reports whether k is a former key whose time is over.
func (k sealKey) ended(now time.Time) bool {
	return k.former != nil && since(k.former.since, now) >= k.former.life
}

// keeps notes that a token that is kept so long is sealed with k.
func (k sealKey) keeps(life time.Duration) {
	for {
		longest := k.longest.Load()
		if int64(life) <= longest || k.longest.CompareAndSwap(longest, int64(life)) {
			return
		}
	}
}

// Format hides the key.
func (sealKey) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[hidden]")) }

// A name is that of a token in Redis under one key.
type name struct {
	key  sealKey
	text string
}

// names are those of key under every key of the ring, the first one's first: a sidecar that has any of the ring's keys
// finds the token under one of them, and meets the others at its lock.
func (k *Keyring) names(key Key) []name {
	keys := k.all()
	names := make([]name, len(keys))
	for i, sealer := range keys {
		names[i] = name{sealer, sealer.nameOf(key)}
	}
	return names
}

// nameOf is the name of a token in Redis: an HMAC, because a plain hash of a policy number can be guessed. The
// braces put all names of one token in one cluster slot.
func (k sealKey) nameOf(key Key) string {
	return keyPrefix + "{" + base64.RawURLEncoding.EncodeToString(k.hmac("", key[:])) + "}"
}

// hmac is a keyed hash of content for one purpose.
func (k sealKey) hmac(purpose string, content []byte) []byte {
	mac := hmac.New(sha256.New, k.name)
	mac.Write([]byte(purpose))
	mac.Write(content)
	return mac.Sum(nil)
}

// seal encrypts plain; context says what and where it is, and must be the same to open it.
func (k sealKey) seal(plain []byte, context string) []byte {
	out := make([]byte, sealedHead, sealedHead+len(plain)+k.aead.Overhead())
	copy(out, k.id[:])
	_, _ = rand.Read(out[len(k.id):]) // never fails
	return k.aead.Seal(out, out[len(k.id):], plain, append(k.id[:], context...))
}

// sealedHead is the length of key id and nonce.
const sealedHead = 4 + 12

// open is the inverse of seal, with whichever key did it.
func (k *Keyring) open(sealed, context string) ([]byte, error) {
	if len(sealed) < sealedHead {
		return nil, errUnreadable
	}
	for _, key := range k.all() {
		if sealed[:len(key.id)] != string(key.id[:]) {
			continue
		}
		plain, err := key.aead.Open(nil, []byte(sealed[len(key.id):sealedHead]), []byte(sealed[sealedHead:]),
			append(key.id[:], context...))
		if err == nil {
			return plain, nil
		}
	}
	return nil, errUnreadable
}

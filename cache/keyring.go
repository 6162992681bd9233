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
	// formerLife bounds how long a former secret is used for opening values and for names.
	formerLife = 24 * time.Hour
	// maxFormer is how many former secrets are kept; each one adds a name in Redis to every step.
	maxFormer = 3
)

// A Keyring seals what is stored in Redis. The first key seals and names; every key opens. Keys can be replaced while
// the Keyring is in use. The zero Keyring has no keys and must be given some first.
type Keyring struct {
	mu   sync.Mutex // orders changes
	keys atomic.Pointer[[]sealKey]
}

// A sealKey is one key with the keys derived from it.
type sealKey struct {
	id   [4]byte
	name []byte // HMAC key for names
	aead cipher.AEAD
	// longest is the longest life, in nanoseconds, of the tokens known to be sealed with the key.
	longest *atomic.Int64
	former  *former // nil: in use
}

// former says when a key was replaced, and how long after that it ends.
type former struct {
	since time.Time
	life  time.Duration
}

// UseSecret derives a key from a secret by HKDF (RFC 5869) and puts it first. The former key is kept for opening and
// for names as long as tokens sealed with it live, at most a day. Tokens sealed by other sidecars are assumed to live
// as long as those that this one has sealed or opened. If there were none, the former key is kept for a day.
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
		if old.id == key.id { // it is the first already, or again
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

// UseKeys takes the content of ENCRYPTION_KEYS_FILE: 32 bytes in base64 on each line.
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

// all returns the keys that have not ended, the first key first.
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

// current returns all keys, including those that have ended.
func (k *Keyring) current() []sealKey {
	if keys := k.keys.Load(); keys != nil {
		return *keys
	}
	return nil
}

// ended reports whether k is a former key past its end.
func (k sealKey) ended(now time.Time) bool {
	return k.former != nil && since(k.former.since, now) >= k.former.life
}

// keeps notes that a token with that life was sealed with k.
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

// A name is what a token is called in Redis under one sealing key.
type name struct {
	key  sealKey
	text string
}

// names returns the names of key under every sealing key, the first key's first. A sidecar that has any of these keys
// finds the token under one of the names, and waits for the same lock.
func (k *Keyring) names(key Key) []name {
	keys := k.all()
	names := make([]name, len(keys))
	for i, sealer := range keys {
		names[i] = name{sealer, sealer.nameOf(key)}
	}
	return names
}

// nameOf returns the name of a token in Redis: an HMAC, because the user id behind a plain hash can be guessed. The
// braces put all names of one token into one cluster slot.
func (k sealKey) nameOf(key Key) string {
	return keyPrefix + "{" + base64.RawURLEncoding.EncodeToString(k.hmac("", key[:])) + "}"
}

// hmac returns a keyed hash of content for one purpose.
func (k sealKey) hmac(purpose string, content []byte) []byte {
	mac := hmac.New(sha256.New, k.name)
	mac.Write([]byte(purpose))
	mac.Write(content)
	return mac.Sum(nil)
}

// seal encrypts plain. context says what the value is and where it is stored, and must be the same to open it.
func (k sealKey) seal(plain []byte, context string) []byte {
	out := make([]byte, sealedHead, sealedHead+len(plain)+k.aead.Overhead())
	copy(out, k.id[:])
	_, _ = rand.Read(out[len(k.id):]) // never fails
	return k.aead.Seal(out, out[len(k.id):], plain, append(k.id[:], context...))
}

// sealedHead is the length of key id and nonce.
const sealedHead = 4 + 12

// open is the inverse of seal; it finds the key by the id in the value.
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

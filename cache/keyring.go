package cache

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"token-sidecar/internal/secret"
)

// A Keyring seals what goes to Redis. The first key seals and names, every key opens. It can be replaced
// while in use; the zero Keyring has no key and must be given one first.
type Keyring struct{ keys atomic.Pointer[[]sealKey] }

// sealKey is one key with what is derived from it.
type sealKey struct {
	id   [4]byte
	name []byte // HMAC key for names
	aead cipher.AEAD
}

// UseSecrets derives one key of each secret by HKDF (RFC 5869). The first is the one in force; a former one
// keeps what it sealed readable.
func (k *Keyring) UseSecrets(secrets ...secret.Text) error {
	roots := make([][]byte, len(secrets))
	for i, s := range secrets {
		root, err := hkdf.Key(sha256.New, []byte(s.Reveal()), nil, "token-sidecar/v1/client-secret", 32)
		if err != nil {
			return fmt.Errorf("cannot derive a key: %w", err)
		}
		roots[i] = root
	}
	return k.use(roots)
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
		line = strings.TrimSpace(line)
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
	return sealKey{id: [4]byte(material[64:68]), name: material[32:64], aead: aead}, nil
}

// all returns the keys, the first one first.
func (k *Keyring) all() []sealKey { return *k.keys.Load() }

// Format hides the key.
func (sealKey) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("[hidden]")) }

// nameOf is the name of a token in Redis: a HMAC, because a plain hash of a policy number can be guessed. The
// braces put all names of one token in one cluster slot.
func (k sealKey) nameOf(key Key) string {
	mac := hmac.New(sha256.New, k.name)
	mac.Write(key[:])
	sum := base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	return keyPrefix + "{" + sum + "}"
}

// seal encrypts plain for the given name and entry id.
func (k sealKey) seal(plain []byte, name string, id uint64) []byte {
	out := make([]byte, 0, valueIDEnd+12+len(plain)+16)
	out = append(out, valueVersion)
	out = append(out, k.id[:]...)
	out = binary.BigEndian.AppendUint64(out, id)
	nonce := make([]byte, k.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	extra := append(out[:valueIDEnd:valueIDEnd], name...)
	return k.aead.Seal(append(out, nonce...), nonce, plain, extra)
}

// open is the inverse of seal, with whichever key did it.
func (k *Keyring) open(raw, name string) (plain []byte, id uint64, err error) {
	nonceEnd := valueIDEnd + 12
	if len(raw) < nonceEnd || raw[0] != valueVersion {
		return nil, 0, errUnreadable
	}
	for _, key := range k.all() {
		if raw[1:valueIDOffset] != string(key.id[:]) {
			continue
		}
		extra := append([]byte(raw[:valueIDEnd]), name...)
		plain, err := key.aead.Open(nil, []byte(raw[valueIDEnd:nonceEnd]), []byte(raw[nonceEnd:]), extra)
		if err == nil {
			return plain, binary.BigEndian.Uint64([]byte(raw[valueIDOffset:valueIDEnd])), nil
		}
	}
	return nil, 0, errUnreadable
}

// Package seal encrypts small secrets: AES-256-GCM, bound to their owner.
//
// A sealed value can be opened only with the key that its key id names and for the owner it was
// sealed for: a row copied to another user opens as an error, never as a password. Every failure
// is an error; nothing falls back to clear text. It does not store anything.
//
// Keys come from a key file or from passphrases; a ring may hold both. The first key seals, the others open
// what they sealed until [Keyring.Reseal] has put the first in their place.
//
// A Keyring is immutable and safe for concurrent use.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// KeySize is the size of a key in bytes.
const KeySize = 32

// ErrOpen is what Open returns for anything that is not a value sealed for this owner by a key of
// this ring. It does not say which part was wrong.
var ErrOpen = errors.New("sealed value cannot be opened: wrong key, wrong owner, or damaged")

const (
	// current begins each value that is sealed: "v2.<key id>.<base64url(salt | nonce | ciphertext | tag)>". The
	// value has an AES key of its own, HKDF-Expand (RFC 5869 section 2.3) of the key with the salt.
	current = "v2"
	// direct begins values of earlier builds, which are opened still: the key itself is the AES key, and
	// there is no salt.
	direct = "v1"
	// saltSize makes the keys of 2^64 values differ, so no bound on values a key is in sight.
	saltSize = 16
)

// Keyring seals with its first key and opens with any.
type Keyring struct {
	keys []key
}

type key struct {
	id     string
	secret [KeySize]byte
}

func newKey(secret [KeySize]byte) key {
	sum := sha256.Sum256(secret[:])
	return key{id: hex.EncodeToString(sum[:4]), secret: secret}
}

// LogValue keeps keys out of logs.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("[keys redacted]") }

// Format keeps keys out of formatted text, whatever the verb.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[keys redacted]")) }

// NewKeyFile returns the text of a fresh key file.
func NewKeyFile() (string, error) {
	var b [KeySize]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	return "# Posthorn seal key. Whoever has this file and the database can read stored mail passwords.\n" +
		"# The first key seals; the others are kept to open what they sealed.\n" +
		hex.EncodeToString(b[:]) + "\n", nil
}

// ParseKeyFile reads a key file: a key of 64 hexadecimal digits a line, "#" begins a comment.
func ParseKeyFile(text string) (*Keyring, error) {
	ring := &Keyring{}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		raw, err := hex.DecodeString(line)
		if err != nil || len(raw) != KeySize {
			return nil, fmt.Errorf("seal key file line %d: a key is %d hexadecimal digits", i+1, 2*KeySize)
		}
		ring.keys = append(ring.keys, newKey([KeySize]byte(raw)))
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("seal key file holds no key")
	}
	return ring, nil
}

// Join returns a ring of the keys of all rings, in their order. The first seals.
func Join(rings ...*Keyring) *Keyring {
	all := &Keyring{}
	for _, r := range rings {
		for _, k := range r.keys {
			if !slices.ContainsFunc(all.keys, func(have key) bool { return have.id == k.id }) {
				all.keys = append(all.keys, k)
			}
		}
	}
	return all
}

// Seal encrypts plaintext for owner, a string that names the row ("credential/3@1"). It cannot fail: a machine
// without random numbers ends the process.
func (k *Keyring) Seal(owner string, plaintext []byte) string {
	first := k.keys[0]
	salt := make([]byte, saltSize, saltSize+12+len(plaintext)+16)
	_, _ = rand.Read(salt)                                                                     // never fails (crypto/rand)
	box := first.record(salt).Seal(salt, nil, plaintext, associated(current, first.id, owner)) //nolint:gosec // the AEAD makes its own random nonce
	return current + "." + first.id + "." + base64.RawURLEncoding.EncodeToString(box)
}

// Open decrypts what Seal made for the same owner, or returns ErrOpen.
func (k *Keyring) Open(owner, sealed string) ([]byte, error) {
	version, id, body := split(sealed)
	box, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || version == "" {
		return nil, ErrOpen
	}
	i := slices.IndexFunc(k.keys, func(key key) bool { return key.id == id })
	if i < 0 {
		return nil, fmt.Errorf("%w (no key %q in the ring)", ErrOpen, id)
	}
	var aead cipher.AEAD
	switch version {
	case current:
		if len(box) < saltSize {
			return nil, ErrOpen
		}
		aead, box = k.keys[i].record(box[:saltSize]), box[saltSize:]
	case direct:
		aead = gcm(k.keys[i].secret[:])
	default:
		return nil, ErrOpen
	}
	plaintext, err := aead.Open(nil, nil, box, associated(version, id, owner))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// split takes a sealed value apart; the version is "" when it is none.
func split(sealed string) (version, id, body string) {
	version, rest, _ := strings.Cut(sealed, ".")
	id, body, ok := strings.Cut(rest, ".")
	if !ok {
		return "", "", ""
	}
	return version, id, body
}

// Reseal returns a value sealed anew with the first key, or, when it is so already, the value itself and
// false.
func (k *Keyring) Reseal(owner, sealed string) (string, bool, error) {
	if version, id, _ := split(sealed); version == current && id == k.keys[0].id {
		return sealed, false, nil
	}
	plaintext, err := k.Open(owner, sealed)
	if err != nil {
		return "", false, err
	}
	return k.Seal(owner, plaintext), true, nil
}

// KeyID names the key that seals. It tells nothing of it to whom has no guess of it.
func (k *Keyring) KeyID() string { return k.keys[0].id }

// record is the cipher of one value.
func (k key) record(salt []byte) cipher.AEAD {
	secret, err := hkdf.Expand(sha256.New, k.secret[:], "posthorn/record/"+string(salt), KeySize)
	if err != nil {
		panic(err) // a constant length that it knows
	}
	return gcm(secret)
}

// gcm makes its own nonces: 96 random bits, safe to 2^32 values a key (NIST SP 800-38D section 8.3).
func gcm(secret []byte) cipher.AEAD {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // a constant length that it knows
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // it is AES
	}
	return aead
}

// Derive returns keys for another purpose, such as a MAC, that tell nothing of the sealing keys: one for
// each key of the ring in its order. What the first makes, the others may have made before a rotation.
func (k *Keyring) Derive(purpose string) ([][]byte, error) {
	derived := make([][]byte, len(k.keys))
	for i, key := range k.keys {
		var err error
		derived[i], err = hkdf.Key(sha256.New, key.secret[:], nil, "posthorn/"+purpose, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
	}
	return derived, nil
}

func associated(version, keyID, owner string) []byte {
	return []byte(version + "|" + keyID + "|" + owner)
}

// Package seal encrypts small secrets at rest: AES-256-GCM, bound to their owner.
//
// A sealed value can be opened only with the key that its key id names and for the owner it was
// sealed for: a row copied to another user opens as an error, never as a password. Every failure
// is an error; nothing falls back to clear text. It does not store anything.
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
	"strings"
)

// KeySize is the size of a key in bytes.
const KeySize = 32

// ErrOpen is what Open returns for anything that is not a value sealed for this owner by a key of
// this ring. It does not say which part was wrong.
var ErrOpen = errors.New("sealed value cannot be opened: wrong key, wrong owner, or damaged")

// version begins each sealed value: "v1.<key id>.<base64url(nonce | ciphertext | tag)>".
const version = "v1"

// Keyring seals with its first key and opens with any.
type Keyring struct {
	keys []key
}

type key struct {
	id     string
	secret [KeySize]byte
	aead   cipher.AEAD
}

// LogValue keeps keys out of logs.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue("[keys redacted]") }

// String keeps keys out of formatted text.
func (k *Keyring) String() string { return "[keys redacted]" }

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
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, fmt.Errorf("seal key file line %d: %w", i+1, err)
		}
		// 96-bit random nonces are safe to 2^32 values a key (NIST SP 800-38D section 8.3).
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("seal key file line %d: %w", i+1, err)
		}
		sum := sha256.Sum256(raw)
		ring.keys = append(ring.keys, key{id: hex.EncodeToString(sum[:4]), secret: [KeySize]byte(raw), aead: aead})
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("seal key file holds no key")
	}
	return ring, nil
}

// Seal encrypts plaintext for owner, a string that names the row ("credential/3@1").
func (k *Keyring) Seal(owner string, plaintext []byte) string {
	first := k.keys[0]
	box := first.aead.Seal(nil, nil, plaintext, associated(first.id, owner)) //nolint:gosec // the AEAD makes its own random nonce
	return version + "." + first.id + "." + base64.RawURLEncoding.EncodeToString(box)
}

// Open decrypts what Seal made for the same owner, or returns ErrOpen.
func (k *Keyring) Open(owner, sealed string) ([]byte, error) {
	v, rest, _ := strings.Cut(sealed, ".")
	id, body, ok := strings.Cut(rest, ".")
	if !ok || v != version {
		return nil, ErrOpen
	}
	box, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, ErrOpen
	}
	for _, key := range k.keys {
		if key.id != id {
			continue
		}
		plaintext, err := key.aead.Open(nil, nil, box, associated(id, owner))
		if err != nil {
			return nil, ErrOpen
		}
		return plaintext, nil
	}
	return nil, fmt.Errorf("%w (no key %q in the ring)", ErrOpen, id)
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

func associated(keyID, owner string) []byte {
	return []byte(version + "|" + keyID + "|" + owner)
}

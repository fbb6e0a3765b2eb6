package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Argon2id with these takes 64 MiB and, on one core, a fifth of a second: the second choice that RFC 9106
// section 4 recommends. They are not told by what is sealed, so they never change.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
)

// NewSalt returns a salt for FromPassphrase, as text. An installation makes one, once, and all its nodes use
// it.
func NewSalt() string {
	var b [saltSize]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// FromPassphrase returns a ring of the one key that a passphrase and a salt make. It is slow by design: it is
// for the start of a process.
func FromPassphrase(passphrase, salt string) (*Keyring, error) {
	raw, err := base64.RawURLEncoding.DecodeString(salt)
	if err != nil || len(raw) != saltSize {
		return nil, errors.New("make key of passphrase: the salt is damaged")
	}
	if passphrase == "" {
		return nil, errors.New("make key of passphrase: it is empty")
	}
	secret := argon2.IDKey([]byte(passphrase), raw, argonTime, argonMemory, argonThreads, KeySize)
	return &Keyring{keys: []key{newKey([KeySize]byte(secret))}}, nil
}

// KeyCheck tells nodes whether they can open what each other seals, and others nothing of the keys but whether
// two are the same: a value for the key that seals and, after commas, one for each other key. Two nodes fit when
// the first value of each is among those of the other.
func (k *Keyring) KeyCheck() string {
	checks := make([]string, len(k.keys))
	for i, key := range k.keys {
		check, err := hkdf.Key(sha256.New, key.secret[:], nil, "posthorn/key-check", 8)
		if err != nil {
			panic(err) // a constant length that it knows
		}
		checks[i] = hex.EncodeToString(check)
	}
	return strings.Join(checks, ",")
}

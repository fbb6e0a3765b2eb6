package fake

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// DeviceKeys are those of an app that wants its notifications encrypted for itself, whatever way they take.
type DeviceKeys struct {
	key  *ecdh.PrivateKey
	auth []byte
}

// NewDeviceKeys makes the keys of one app on one device.
func NewDeviceKeys() (*DeviceKeys, error) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate device key: %w", err)
	}
	d := &DeviceKeys{key: key, auth: make([]byte, 16)}
	_, _ = rand.Read(d.auth) // never fails
	return d, nil
}

// JSON is what the app registers.
func (d *DeviceKeys) JSON() []byte {
	enc := base64.RawURLEncoding.EncodeToString
	return fmt.Appendf(nil, `{"p256dh":%q,"auth":%q}`, enc(d.key.PublicKey().Bytes()), enc(d.auth))
}

// Open decrypts what the app received, in base64url.
func (d *DeviceKeys) Open(sealed string) ([]byte, error) {
	body, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return nil, fmt.Errorf("decode base64url: %w", err)
	}
	return decryptPush(d.key, d.auth, body)
}

// decryptPush opens a Web Push message: one record of the aes128gcm content coding (RFC 8188), with a
// key agreed as RFC 8291 section 3 says. key and auth are the receiver's, 16 bytes of auth.
func decryptPush(key *ecdh.PrivateKey, auth, body []byte) ([]byte, error) {
	// RFC 8188 section 2.1: salt (16), record size (4), length of the key id (1), key id.
	if len(body) < 21 {
		return nil, errors.New("the body is shorter than its header")
	}
	salt, size, idLen := body[:16], binary.BigEndian.Uint32(body[16:20]), int(body[20])
	if idLen != 65 { // RFC 8291 section 4: the key id is the sender's public key
		return nil, fmt.Errorf("the key id has %d bytes, not the 65 of a P-256 point", idLen)
	}
	if len(body) < 21+idLen {
		return nil, errors.New("the body ends within its key id")
	}
	sender, err := ecdh.P256().NewPublicKey(body[21 : 21+idLen])
	if err != nil {
		return nil, fmt.Errorf("parse sender key: %w", err)
	}
	record := body[21+idLen:]
	if size < 18 {
		return nil, errors.New("the record size is below 18")
	}
	// RFC 8291 section 4: a single record, and a record size greater than it.
	if uint64(len(record)) >= uint64(size) {
		return nil, fmt.Errorf("the record of %d bytes is not below the record size of %d", len(record), size)
	}

	shared, err := key.ECDH(sender)
	if err != nil {
		return nil, fmt.Errorf("agree on a key: %w", err)
	}
	info := "WebPush: info\x00" + string(key.PublicKey().Bytes()) + string(sender.Bytes())
	input, err := hkdf.Key(sha256.New, shared, auth, info, 32)
	if err != nil {
		return nil, fmt.Errorf("derive input key: %w", err)
	}
	cek, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, fmt.Errorf("derive content key: %w", err)
	}
	nonce, err := hkdf.Key(sha256.New, input, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, fmt.Errorf("derive nonce: %w", err)
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make GCM: %w", err)
	}
	padded, err := gcm.Open(nil, nonce, record, nil)
	if err != nil {
		return nil, errors.New("the record does not authenticate")
	}
	// RFC 8188 section 2: the last record ends in 0x02 and any number of zeros.
	plain := bytes.TrimRight(padded, "\x00")
	if len(plain) == 0 || plain[len(plain)-1] != 2 {
		return nil, errors.New("the padding delimiter is not 0x02")
	}
	return plain[:len(plain)-1], nil
}

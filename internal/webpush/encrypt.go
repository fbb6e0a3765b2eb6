package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	// MaxBody is the longest plaintext, in bytes. Push services need not accept more than 4096 bytes of
	// body (RFC 8030 section 7.2), of which 86 are the header, 1 the delimiter and 16 the tag.
	MaxBody = maxRequest - headerSize - delimiterSize - tagSize

	maxRequest    = 4096
	recordSize    = 4096 // the rs field; our only record is never longer
	saltSize      = 16
	keySize       = 65                                // an uncompressed point on P-256
	headerSize    = saltSize + 4 + 1 + keySize        // RFC 8188 section 2.1: salt, rs, idlen, keyid
	delimiterSize = 1                                 // 0x02, which ends the plaintext of the last record
	tagSize       = 16                                // AES-GCM
	bucket        = 128                               // see paddedSize
	maxContent    = MaxBody + delimiterSize           // plaintext, delimiter and padding
	keyInfo       = "WebPush: info\x00"               // RFC 8291 section 3.4
	cekInfo       = "Content-Encoding: aes128gcm\x00" // RFC 8188 section 2.2
	nonceInfo     = "Content-Encoding: nonce\x00"     // RFC 8188 section 2.3
)

// Encrypt returns plain as the aes128gcm header and one record (RFC 8291 section 4), which is the body of
// a push request, and as good on any other way to a device. Key pair and salt are new for each message,
// as section 3.1 and RFC 8188 section 3 demand. The two P-256 operations are nearly all of its cost.
func Encrypt(keys Keys, plain []byte) ([]byte, error) {
	receiver, err := ecdh.P256().NewPublicKey(keys.P256dh)
	if err != nil {
		return nil, fmt.Errorf("read the receiver's public key: %w", err)
	}
	if len(keys.Auth) != authSize {
		return nil, fmt.Errorf("the receiver's auth secret has %d bytes, not %d", len(keys.Auth), authSize)
	}
	if len(plain) > MaxBody {
		return nil, fmt.Errorf("%d bytes of plaintext, at most %d fit", len(plain), MaxBody)
	}
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a sender key: %w", err)
	}
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails
	return sealRecord(receiver, keys.Auth, sender, salt, plain, paddedSize(len(plain)))
}

// EncryptedSize returns how many bytes Encrypt makes of n.
func EncryptedSize(n int) int { return headerSize + paddedSize(n) + tagSize }

// paddedSize returns how many bytes of content, the delimiter included, a plaintext of n bytes becomes.
// Without padding the push service reads the exact length of sender and subject off each message, which
// is enough to tell one newsletter, or one correspondent, from another. Whole buckets of 128 bytes leave
// it a handful of sizes; 4 KB for everything would leave one, at the price of traffic on every phone.
func paddedSize(n int) int {
	n += delimiterSize
	return min((n+bucket-1)/bucket*bucket, maxContent)
}

// sealRecord is encrypt with everything random given; size is the content's, at least len(plain)+1.
func sealRecord(receiver *ecdh.PublicKey, auth []byte, sender *ecdh.PrivateKey, salt [saltSize]byte, plain []byte, size int) ([]byte, error) {
	secret, err := sender.ECDH(receiver)
	if err != nil {
		return nil, fmt.Errorf("agree on a key: %w", err)
	}
	public := sender.PublicKey().Bytes()
	// RFC 8291 section 3.4, which has HKDF (RFC 5869) in as many steps.
	prk := mac(auth, secret)
	ikm := mac(prk[:], []byte(keyInfo), receiver.Bytes(), public, []byte{1})
	prk = mac(salt[:], ikm[:])
	cek := mac(prk[:], []byte(cekInfo), []byte{1})
	nonce := mac(prk[:], []byte(nonceInfo), []byte{1})
	block, err := aes.NewCipher(cek[:16])
	if err != nil {
		return nil, fmt.Errorf("set up AES: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("set up GCM: %w", err)
	}

	out := make([]byte, headerSize+size, headerSize+size+tagSize)
	copy(out, salt[:])
	binary.BigEndian.PutUint32(out[saltSize:], recordSize)
	out[saltSize+4] = keySize
	copy(out[saltSize+5:], public)
	content := out[headerSize:]
	copy(content, plain)
	content[len(plain)] = 2 // the rest of content is the padding, already zero
	return gcm.Seal(out[:headerSize], nonce[:12], content, nil), nil
}

// mac is HMAC-SHA-256 (RFC 2104) of a key of at most 64 bytes and a message of at most 192, without the
// sixty allocations that crypto/hkdf makes for a notification.
func mac(key []byte, message ...[]byte) [sha256.Size]byte {
	const block = sha256.BlockSize
	var inner [block + 192]byte
	var outer [block + sha256.Size]byte
	copy(inner[:block], key)
	copy(outer[:block], key)
	for i := range block {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	n := block
	for _, part := range message {
		n += copy(inner[n:], part)
	}
	sum := sha256.Sum256(inner[:n])
	copy(outer[block:], sum[:])
	return sha256.Sum256(outer[:])
}

package webpush

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

func b64(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// receiver is a browser: the private half of a subscription.
type receiver struct {
	key  *ecdh.PrivateKey
	auth []byte
}

func newReceiver(t testing.TB) receiver {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := receiver{key: key, auth: make([]byte, authSize)}
	_, _ = rand.Read(r.auth)
	return r
}

func (r receiver) subscription(endpoint string) Subscription {
	return Subscription{Endpoint: endpoint, Keys: Keys{P256dh: r.key.PublicKey().Bytes(), Auth: r.auth}}
}

// decrypt is written from the text of RFC 8188 section 2 and RFC 8291 section 3.4, on HMAC alone, so that
// it shares nothing with the code under test.
func (r receiver) decrypt(body []byte) ([]byte, error) {
	if len(body) < 21 || len(body) < 21+int(body[20]) {
		return nil, errors.New("short header")
	}
	salt, rs, keyid := body[:16], binary.BigEndian.Uint32(body[16:20]), body[21:21+int(body[20])]
	record := body[21+len(keyid):]
	if rs < 18 || len(record) > int(rs) || len(record) < 17 {
		return nil, fmt.Errorf("%d bytes of content for records of %d", len(record), rs)
	}
	sender, err := ecdh.P256().NewPublicKey(keyid)
	if err != nil {
		return nil, err
	}
	secret, err := r.key.ECDH(sender)
	if err != nil {
		return nil, err
	}
	mac := func(key []byte, parts ...[]byte) []byte {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	prkKey := mac(r.auth, secret)
	ikm := mac(prkKey, []byte("WebPush: info"), []byte{0}, r.key.PublicKey().Bytes(), keyid, []byte{1})
	prk := mac(salt, ikm)
	cek := mac(prk, []byte("Content-Encoding: aes128gcm"), []byte{0, 1})[:16]
	nonce := mac(prk, []byte("Content-Encoding: nonce"), []byte{0, 1})[:12]
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	content, err := gcm.Open(nil, nonce, record, nil)
	if err != nil {
		return nil, err
	}
	content = bytes.TrimRight(content, "\x00")
	if len(content) == 0 || content[len(content)-1] != 2 {
		return nil, errors.New("the delimiter of the last record is not 2")
	}
	return content[:len(content)-1], nil
}

// TestRFC8291 is the example of RFC 8291 section 5, with the values of appendix A.
func TestRFC8291(t *testing.T) {
	sender, err := ecdh.P256().NewPrivateKey(b64(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.P256().NewPrivateKey(b64(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	r := receiver{key: key, auth: b64(t, "BTBZMqHH6r4Tts7J_aSIgg")}
	plain := []byte("When I grow up, I want to be a watermelon")
	got, err := sealRecord(key.PublicKey(), r.auth, sender, [16]byte(b64(t, "DGv6ra1nlYgDCS1FRnbzlw")), plain, len(plain)+1)
	if err != nil {
		t.Fatal(err)
	}
	want := b64(t, "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml"+
		"mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT"+
		"pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN")
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if back, err := r.decrypt(want); err != nil || !bytes.Equal(back, plain) {
		t.Errorf("the test's own decryptor made %q of the example, %v", back, err)
	}
}

func TestEncryptSizes(t *testing.T) {
	r := newReceiver(t)
	sub := r.subscription("")
	plain := make([]byte, MaxBody)
	_, _ = rand.Read(plain)
	for _, c := range []struct{ n, size int }{
		{0, 128},
		{1, 128},
		{126, 128},
		{127, 128},
		{128, 256},
		{255, 256},
		{256, 384},
		{1000, 1024},
		{3967, 3968},
		{3968, 3994},
		{3992, 3994},
		{MaxBody, 3994},
	} {
		body, err := Encrypt(sub.Keys, plain[:c.n])
		if err != nil {
			t.Fatalf("encrypt %d bytes: %v", c.n, err)
		}
		if want := 86 + c.size + 16; len(body) != want || want > 4096 || EncryptedSize(c.n) != want {
			t.Errorf("%d bytes became %d, want %d", c.n, len(body), want)
		}
		if back, err := r.decrypt(body); err != nil || !bytes.Equal(back, plain[:c.n]) {
			t.Errorf("%d bytes did not come back: %v", c.n, err)
		}
	}
}

func TestEncryptIsFreshEachTime(t *testing.T) {
	sub := newReceiver(t).subscription("")
	salts, senders := map[string]bool{}, map[string]bool{}
	for range 50 {
		body, err := Encrypt(sub.Keys, []byte("same"))
		if err != nil {
			t.Fatal(err)
		}
		salts[string(body[:16])], senders[string(body[21:86])] = true, true
	}
	if len(salts) != 50 || len(senders) != 50 {
		t.Errorf("%d salts and %d sender keys in 50 messages", len(salts), len(senders))
	}
}

func TestEncryptRefusesBadKeys(t *testing.T) {
	good := newReceiver(t).subscription("")
	off := bytes.Clone(good.P256dh)
	off[64] ^= 1
	for name, keys := range map[string]Keys{
		"no key":        {Auth: good.Auth},
		"off the curve": {P256dh: off, Auth: good.Auth},
		"infinity":      {P256dh: []byte{0}, Auth: good.Auth},
		"short auth":    {P256dh: good.P256dh, Auth: good.Auth[:15]},
	} {
		if _, err := Encrypt(keys, nil); err == nil {
			t.Errorf("%s: encrypted", name)
		}
	}
}

// The budget of webpush.cpu_us: encryption and the cached header may cost at most 1.25 times the two
// P-256 operations that no implementation can avoid. Compare the two benchmarks of one run.
func BenchmarkEncrypt(b *testing.B) {
	sub := newReceiver(b).subscription("https://push.example.com/x")
	s := newSender(b, nil)
	for _, size := range []int{200, 1000, MaxBody} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			plain := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Encrypt(sub.Keys, plain); err != nil {
					b.Fatal(err)
				}
				if _, err := s.vapid.authorization("https://push.example.com", s.now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAgreement(b *testing.B) {
	receiver := newReceiver(b).key.PublicKey()
	b.ReportAllocs()
	for b.Loop() {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := key.ECDH(receiver); err != nil {
			b.Fatal(err)
		}
	}
}

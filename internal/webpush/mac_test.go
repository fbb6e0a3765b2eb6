package webpush

import (
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"
)

// TestMAC compares with the standard library's.
func TestMAC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "key")
		parts := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 48), 0, 4).Draw(t, "parts")
		want := hmac.New(sha256.New, key)
		for _, p := range parts {
			want.Write(p)
		}
		if got := mac(key, parts...); !hmac.Equal(got[:], want.Sum(nil)) {
			t.Fatalf("%x", got)
		}
	})
}

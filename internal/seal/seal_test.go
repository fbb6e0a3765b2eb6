package seal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func ring(t *testing.T, text string) *Keyring {
	t.Helper()
	k, err := ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKey(t *testing.T) string {
	t.Helper()
	text, err := NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOpenWantsOwnerKeyAndIntegrity(t *testing.T) {
	old, fresh := newKey(t), newKey(t)
	a := ring(t, old)
	sealed := a.Seal("credential/3@1", []byte("päss"))
	if strings.Contains(sealed, "päss") || a.Seal("credential/3@1", []byte("päss")) == sealed {
		t.Fatal("sealed value shows its content")
	}
	// After a rotation the old key still opens, and the new one seals.
	rotated := ring(t, fresh+old)
	for name, k := range map[string]*Keyring{"same": a, "rotated": rotated} {
		got, err := k.Open("credential/3@1", sealed)
		if err != nil || string(got) != "päss" {
			t.Errorf("%s ring: %q, %v", name, got, err)
		}
	}
	if _, err := a.Open("credential/3@1", rotated.Seal("credential/3@1", nil)); !errors.Is(err, ErrOpen) {
		t.Errorf("old ring opened a value of the new key: %v", err)
	}
	for name, bad := range map[string]string{
		"empty": "", "clear": "päss", "cut": sealed[:len(sealed)-2], "version": "v2" + sealed[2:],
		"garbage": "v1.00000000.!!", "flipped": flip(sealed),
	} {
		if got, err := a.Open("credential/3@1", bad); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: opened as %q, %v", name, got, err)
		}
	}
	if _, err := a.Open("credential/4@1", sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("opened for another owner: %v", err)
	}
}

// flip changes one bit in the middle of the ciphertext.
func flip(sealed string) string {
	b := []byte(sealed)
	if b[20] == 'A' {
		b[20] = 'B'
	} else {
		b[20] = 'A'
	}
	return string(b)
}

func TestKeyFileErrors(t *testing.T) {
	for _, text := range []string{"", "# only a comment", "abcd", strings.Repeat("zz", KeySize)} {
		if _, err := ParseKeyFile(text); err == nil {
			t.Errorf("accepted %q", text)
		}
	}
}

func TestDerivedKeysDiffer(t *testing.T) {
	k := ring(t, newKey(t))
	a, err := k.Derive("alias")
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Derive("other")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a[0], b[0]) || bytes.Equal(a[0], k.keys[0].secret[:]) {
		t.Error("derived keys are not separate")
	}
	old := strings.Repeat("0f", KeySize)
	rotated, err := ring(t, newKey(t)+old).Derive("alias")
	if err != nil {
		t.Fatal(err)
	}
	before, err := ring(t, old).Derive("alias")
	if err != nil || len(rotated) != 2 || !bytes.Equal(rotated[1], before[0]) {
		t.Errorf("a rotation lost the old derived key: %v", err)
	}
}

func TestKeysStayOutOfLogs(t *testing.T) {
	text := newKey(t)
	secret := strings.TrimSpace(text[strings.LastIndex(strings.TrimSpace(text), "\n"):])
	k := ring(t, text)
	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("x", slog.Any("ring", k))
	fmt.Fprintf(&buf, "%v %+v", k, k)
	if strings.Contains(buf.String(), secret) {
		t.Errorf("key in %s", buf.String())
	}
}

func FuzzOpen(f *testing.F) {
	k, err := ParseKeyFile(strings.Repeat("0f", KeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Seal("o", []byte("x")))
	f.Add("v1.a.b")
	f.Fuzz(func(t *testing.T, sealed string) {
		if got, err := k.Open("other owner", sealed); err == nil {
			t.Errorf("opened %q as %q", sealed, got)
		}
	})
}

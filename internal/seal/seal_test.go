package seal

import (
	"bytes"
	"encoding/hex"
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

func keyFile(t *testing.T) string {
	t.Helper()
	text, err := NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOpenWantsOwnerKeyAndIntegrity(t *testing.T) {
	old, fresh := keyFile(t), keyFile(t)
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
		"empty": "", "clear": "päss", "cut": sealed[:len(sealed)-2], "version": "v1" + sealed[2:], "unknown version": "v3" + sealed[2:],
		"short":   "v2." + a.KeyID() + ".AAAA",
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
	k := ring(t, keyFile(t))
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
	rotated, err := ring(t, keyFile(t)+old).Derive("alias")
	if err != nil {
		t.Fatal(err)
	}
	before, err := ring(t, old).Derive("alias")
	if err != nil || len(rotated) != 2 || !bytes.Equal(rotated[1], before[0]) {
		t.Errorf("a rotation lost the old derived key: %v", err)
	}
}

func TestKeysStayOutOfLogs(t *testing.T) {
	text := keyFile(t)
	secret := strings.TrimSpace(text[strings.LastIndex(strings.TrimSpace(text), "\n"):])
	k := ring(t, text)
	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("x", slog.Any("ring", k))
	fmt.Fprintf(&buf, "%v %+v %#v %x %s %d", k, k, k, k, k, k)
	if raw, _ := hex.DecodeString(secret); len(raw) != KeySize || strings.Contains(buf.String(), secret) ||
		strings.Contains(buf.String(), fmt.Sprintf("%d", raw)[1:]) {
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
	f.Add(ofEarlierBuild)
	f.Fuzz(func(t *testing.T, sealed string) {
		if got, err := k.Open("other owner", sealed); err == nil {
			t.Errorf("opened %q as %q", sealed, got)
		}
	})
}

// ofEarlierBuild is "päss", sealed for "credential/3@1" under the key 0f0f… by the first version.
const ofEarlierBuild = "v1.9b68d49b.S-INby2RdtlFUqpM2crxlXTD5iZrMq-_n7Gly5rnB8lk"

func TestOpensWhatEarlierBuildsSealed(t *testing.T) {
	k := ring(t, strings.Repeat("0f", KeySize))
	got, err := k.Open("credential/3@1", ofEarlierBuild)
	if err != nil || string(got) != "päss" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := k.Open("credential/3@2", ofEarlierBuild); !errors.Is(err, ErrOpen) {
		t.Errorf("for another owner: %v", err)
	}
	fresh, changed, err := k.Reseal("credential/3@1", ofEarlierBuild)
	if err != nil || !changed || !strings.HasPrefix(fresh, current+"."+k.KeyID()+".") {
		t.Errorf("%s, %v, %v", fresh, changed, err)
	}
}

func TestReseal(t *testing.T) {
	old, fresh := ring(t, keyFile(t)), ring(t, keyFile(t))
	sealed := old.Seal("o", []byte("x"))
	both := Join(fresh, old, old)
	if len(both.keys) != 2 {
		t.Errorf("%d keys", len(both.keys))
	}
	moved, changed, err := both.Reseal("o", sealed)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if got, err := fresh.Open("o", moved); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if again, changed, err := both.Reseal("o", moved); err != nil || changed || again != moved {
		t.Errorf("sealed twice: %v, %v", changed, err)
	}
	for _, c := range []struct{ owner, sealed string }{{"other", sealed}, {"o", "x"}, {"o", ""}, {"o", fresh.Seal("other", nil)[:20]}} {
		if got, changed, err := both.Reseal(c.owner, c.sealed); err == nil && changed {
			t.Errorf("%v: resealed as %q", c, got)
		}
	}
	if got, _, err := fresh.Reseal("o", sealed); !errors.Is(err, ErrOpen) || got != "" {
		t.Errorf("without the old key: %q, %v", got, err)
	}
}

func TestPassphrase(t *testing.T) {
	salt := NewSalt()
	passphrase := func(p, salt string) *Keyring {
		t.Helper()
		k, err := FromPassphrase(p, salt)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one := passphrase("correct horse battery", salt)
	sealed := one.Seal("o", []byte("x"))
	if got, err := passphrase("correct horse battery", salt).Open("o", sealed); err != nil || string(got) != "x" {
		t.Errorf("another node: %q, %v", got, err)
	}
	for name, other := range map[string]*Keyring{
		"passphrase": passphrase("Correct horse battery", salt), "salt": passphrase("correct horse battery", NewSalt()),
	} {
		if _, err := other.Open("o", sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("another %s opens it: %v", name, err)
		}
	}
	for _, c := range [][2]string{{"", salt}, {"x", ""}, {"x", "AAAA"}, {"x", "?"}} {
		if k, err := FromPassphrase(c[0], c[1]); err == nil || k != nil {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestKeyCheck(t *testing.T) {
	a, b := ring(t, keyFile(t)), ring(t, keyFile(t))
	one, two := a.KeyCheck(), b.KeyCheck()
	if one == two || one != a.KeyCheck() || len(one) != 16 {
		t.Errorf("%s, %s", one, two)
	}
	if got := Join(b, a).KeyCheck(); got != two+","+one {
		t.Errorf("%s is not %s and %s", got, two, one)
	}
}

func BenchmarkOpen(b *testing.B) {
	k, err := ParseKeyFile(strings.Repeat("0f", KeySize))
	if err != nil {
		b.Fatal(err)
	}
	sealed := k.Seal("credential/3@1", make([]byte, 80))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open("credential/3@1", sealed); err != nil {
			b.Fatal(err)
		}
	}
}

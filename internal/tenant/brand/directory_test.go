package brand

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func testKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func testEntry() Entry {
	return Entry{
		Name: "blue", Title: "Blue Mail", Colour: Colour{28, 110, 164}, OnColour: white, BaseURL: "https://push.blue.example", Hosts: []string{"push.blue.example"},
		Domains: []string{}, Contact: "help@blue.example", SignIn: "password", Branding: "https://push.example.org/api/v1/providers/blue",
		Logo: &LogoLink{URL: "https://push.example.org/api/v1/providers/blue/logo", MediaType: SVG, SHA256: strings.Repeat("0a", 32)},
	}
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("directory.json", parsed); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("directory.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The documents are what their schema says, and the schema says something of each of their fields.
func TestDocumentsKeepTheirSchema(t *testing.T) {
	t.Parallel()
	s := schema(t)
	palette, err := NewPalette(Colour{28, 110, 164}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bare := Entry{Name: "b", Title: "B", Hosts: []string{}, Domains: []string{}, SignIn: "oidc", Branding: "/api/v1/providers/b"}
	for _, doc := range []any{
		Directory{Version: 1, Issuer: "https://push.example.org", Providers: []Entry{testEntry(), bare}},
		Directory{Version: 1, Providers: []Entry{}},
		Branding{Version: 1, Provider: testEntry(), Palette: palette},
	} {
		d, err := Sign(doc, testKey())
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(d.Body, &v); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			t.Errorf("%s: %v", d.Body, err)
		}
		// Each field is known: with another name it is refused.
		for at, broken := range renamed(v) {
			if s.Validate(broken) == nil {
				t.Errorf("%s may have any name", at)
			}
		}
	}
	var v any
	if err := json.Unmarshal([]byte(`{"version":1,"issuer":"","providers":[{"name":"B"}]}`), &v); err != nil || s.Validate(v) == nil {
		t.Errorf("an entry of nothing is valid: %v", err)
	}
}

// renamed is a document with one of its fields called otherwise, for each of them.
func renamed(v any) map[string]any {
	all := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			m := maps.Clone(v)
			delete(m, k)
			m[k+"x"] = inner
			all[k] = m
			for at, other := range renamed(inner) {
				m := maps.Clone(v)
				m[k] = other
				all[k+"."+at] = m
			}
		}
	case []any:
		for i, inner := range v {
			for at, other := range renamed(inner) {
				l := slices.Clone(v)
				l[i] = other
				all["[]."+at] = l
			}
		}
	}
	return all
}

func TestSign(t *testing.T) {
	t.Parallel()
	key := testKey()
	doc := Directory{Version: 1, Issuer: "https://push.example.org", Providers: []Entry{testEntry()}}
	d, err := Sign(doc, key)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"issuer":"https://push.example.org","providers":[{"name":"blue","title":"Blue Mail","colour":"#1c6ea4","on_colour":"#ffffff",` +
		`"base_url":"https://push.blue.example","hosts":["push.blue.example"],"domains":[],"contact":"help@blue.example","sign_in":"password",` +
		`"logo":{"url":"https://push.example.org/api/v1/providers/blue/logo","media_type":"image/svg+xml","sha256":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"},` +
		`"branding":"https://push.example.org/api/v1/providers/blue"}]}`
	if string(d.Body) != want {
		t.Errorf("%s\nwant\n%s", d.Body, want)
	}
	sum := sha256.Sum256(d.Body)
	public := key.Public().(ed25519.PublicKey)
	if d.Digest != hex.EncodeToString(sum[:]) || !ed25519.Verify(public, d.Body, d.Signature) {
		t.Error("digest or signature are of something else")
	}
	if !regexp.MustCompile(`^keyid="[0-9a-f]{16}"; alg="ed25519"; sig="[A-Za-z0-9+/]{86}=="$`).MatchString(d.Header()) {
		t.Errorf("header %s", d.Header())
	}
	again, err := Sign(doc, key)
	if err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("signed again: %v", err)
	}
	var read Directory
	if err := json.Unmarshal(d.Body, &read); err != nil || !reflect.DeepEqual(read, doc) {
		t.Errorf("read back: %+v, %v", read, err)
	}
	// The key's id is what docs/api.md says, by openssl.
	text, err := KeyPEM(public)
	if err != nil {
		t.Fatal(err)
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		return // internal/server says so aloud, with the whole of it
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), openssl, "pkey", "-pubin", "-outform", "DER", "-out", filepath.Join(dir, "key.der")) //nolint:gosec // the test's own
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), openssl, "dgst", "-sha256", "-r", filepath.Join(dir, "key.der")).Output() //nolint:gosec // the test's own
	if err != nil || string(out[:16]) != d.KeyID {
		t.Errorf("key id %s, by openssl %s, %v", d.KeyID, out, err)
	}
}

func TestFold(t *testing.T) {
	t.Parallel()
	for give, want := range map[string]string{
		"Bücher & Söhne": "bucher & sohne", "ÉCOLE": "ecole", "Straße": "strasse", "Łódź": "lodz", "ＭＡＩＬ": "mail", "Ærø": "aero", "İstanbul": "istanbul", "": "",
		"Почта Й": "почта и", "ﬁn": "fin",
	} {
		if got := Fold(give); got != want {
			t.Errorf("%s is %q, want %q", give, got, want)
		}
	}
}

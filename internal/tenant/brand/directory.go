package brand

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // the schema
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Schema is the JSON Schema (2020-12) of both documents, [Directory] and [Branding].
//
//go:embed directory.schema.json
var Schema []byte

// Version is that of the documents' form.
const Version = 1

// Entry is a provider as the public sees it. No field of it is secret, or of one tenant's.
type Entry struct {
	Name     string `json:"name"`
	Title    string `json:"title"`
	Colour   Colour `json:"colour"`
	OnColour Colour `json:"on_colour"`
	// BaseURL is the origin that the app calls; empty when it is that of the directory.
	BaseURL string   `json:"base_url,omitempty"`
	Hosts   []string `json:"hosts"`
	Domains []string `json:"domains"`
	Contact string   `json:"contact,omitempty"`
	// SignIn is "password" or "oidc".
	SignIn string    `json:"sign_in"`
	Logo   *LogoLink `json:"logo,omitempty"`
	// Branding is where the branding document is.
	Branding string `json:"branding"`
}

// LogoLink is where a logo is, and what must be there.
type LogoLink struct {
	URL       string `json:"url"`
	MediaType string `json:"media_type"`
	SHA256    string `json:"sha256"`
}

// Directory is all listed providers, by name.
type Directory struct {
	Version int `json:"version"`
	// Issuer is whose directory it is: the installation's public.url.
	Issuer    string  `json:"issuer"`
	Providers []Entry `json:"providers"`
}

// Branding is one provider with what the app looks like.
type Branding struct {
	Version  int     `json:"version"`
	Issuer   string  `json:"issuer"`
	Provider Entry   `json:"provider"`
	Palette  Palette `json:"palette"`
}

// Document is what is served: bytes that are the same as long as what they say is, and a signature of just these bytes.
type Document struct {
	Body []byte
	// Digest is SHA-256 of Body in hexadecimal.
	Digest string
	// Signature is Ed25519's (RFC 8032) by the key KeyID.
	Signature []byte
	KeyID     string
}

// Sign makes a document of a [Directory] or [Branding]: JSON without space, in the order of the fields.
func Sign(v any, key ed25519.PrivateKey) (Document, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return Document{}, fmt.Errorf("encode document: %w", err)
	}
	id, err := KeyID(key.Public().(ed25519.PublicKey))
	if err != nil {
		return Document{}, err
	}
	sum := sha256.Sum256(body)
	return Document{Body: body, Digest: hex.EncodeToString(sum[:]), Signature: ed25519.Sign(key, body), KeyID: id}, nil
}

// SignatureHeader is the header that carries a document's signature beside it.
const SignatureHeader = "Posthorn-Signature"

// Header is the value of SignatureHeader.
func (d Document) Header() string {
	return fmt.Sprintf(`keyid="%s"; alg="ed25519"; sig="%s"`, d.KeyID, base64.StdEncoding.EncodeToString(d.Signature))
}

// KeyID names a public key: the first 16 hexadecimal digits of SHA-256 of its SubjectPublicKeyInfo (RFC 8410).
func KeyID(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8]), nil
}

// KeyPEM is a public key as openssl reads it.
func KeyPEM(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// letters are those that Unicode does not take apart, as people type them who do not have them.
var letters = strings.NewReplacer("ß", "ss", "æ", "ae", "œ", "oe", "ø", "o", "ł", "l", "đ", "d", "ð", "d", "þ", "th", "ı", "i")

// Fold brings words into the form in which they are compared: without case, accents and the width of letters.
func Fold(s string) string {
	return letters.Replace(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFKD.String(s)))
}

// Words is what a provider is found by: its folded names, each on a line.
func (e Entry) Words() string {
	return Fold(strings.Join(append(append([]string{e.Title, e.Name}, e.Hosts...), e.Domains...), "\n"))
}

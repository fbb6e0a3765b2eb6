package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// redacted stands for a secret wherever one would be printed.
const redacted = "[redacted]"

// Secret is a text that prints as "[redacted]" in whatever form it is asked to print; only Reveal
// gives it away. The zero value is not set.
type Secret struct {
	// A pointer, because fmt prints the fields of unexported fields without asking their methods, but
	// does not follow pointers there.
	text *string
}

// NewSecret returns a Secret that is set, even when text is empty.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsSet tells an explicitly empty secret from one that nobody gave.
func (s Secret) IsSet() bool { return s.text != nil }

// String returns "[redacted]", or "" when there is nothing to hide.
func (s Secret) String() string {
	if s.Reveal() == "" {
		return ""
	}
	return redacted
}

// Format makes every verb of fmt print what String returns; %x, %#v and %d would otherwise get at
// the text.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue redacts the secret in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON redacts the secret in JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalYAML redacts the secret in YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalText redacts the secret everywhere else.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

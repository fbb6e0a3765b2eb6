package tenant

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Secret is what we present to somebody else's server: a master password, a key. It cannot be logged or
// formatted.
type Secret string

const redacted = "[secret redacted]"

// LogValue keeps the secret out of logs.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format keeps the secret out of formatted text, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText keeps the secret out of JSON, as part of a logged value too.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// maxSecret bounds a secret, in bytes.
const maxSecret = 4 << 10

// check refuses what no wire of ours can carry.
func (s Secret) check(field string) error {
	if len(s) > maxSecret || strings.ContainsAny(string(s), "\x00\r\n") {
		return &InvalidError{field, "must be one line of at most 4096 bytes"}
	}
	return nil
}

// hostSecrets are a mail host's secrets as they are sealed, in one piece.
type hostSecrets struct {
	MasterPassword    string `json:"master_password,omitempty"`
	DoveadmKey        string `json:"doveadm_key,omitempty"`
	OAuthClientSecret string `json:"oauth_client_secret,omitempty"`
}

func secretsOwner(mailhost string) string { return "mailhost/" + mailhost }

// sealSecrets returns what the row keeps: "" when there is nothing to hide.
func (s *Store) sealSecrets(h MailHost) (string, error) {
	plain := hostSecrets{string(h.MasterPassword), string(h.DoveadmKey), string(h.OAuthClientSecret)}
	if plain == (hostSecrets{}) {
		return "", nil
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return "", fmt.Errorf("encode secrets: %w", err)
	}
	return s.keys.Seal(secretsOwner(h.Name), text), nil
}

// openSecrets opens the secrets of a row that was read.
func (s *Store) openSecrets(row *hostRow) error {
	if row.sealed == "" {
		return nil
	}
	text, err := s.keys.Open(secretsOwner(row.Name), row.sealed)
	var plain hostSecrets
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err != nil {
		return fmt.Errorf("open secrets of mail host %q: %w", row.Name, err)
	}
	row.MasterPassword, row.DoveadmKey = Secret(plain.MasterPassword), Secret(plain.DoveadmKey)
	row.OAuthClientSecret = Secret(plain.OAuthClientSecret)
	return nil
}

// sealedRow is a named row with its secrets, which are still sealed.
type sealedRow struct{ name, sealed string }

func scanSealed(rows *sql.Rows, r *sealedRow) error { return rows.Scan(&r.name, &r.sealed) }

// Reseal seals the secrets of all mail hosts, providers and the installation anew with the first key of the ring, and returns how many were sealed
// with another. One that no key of the ring opens is an error; it stays as it is.
func (s *Store) Reseal(ctx context.Context) (int, error) {
	n, failed := s.resealAll(ctx)
	rows, err := s.db.Query(ctx, sqlMailHosts)
	if err != nil {
		return n, errors.Join(failed, err)
	}
	all, err := scanAll(rows, func(rows *sql.Rows, row *hostRow) error { return scanHost(rows.Scan, row) })
	if err != nil {
		return n, errors.Join(failed, err)
	}
	for _, row := range all {
		if row.sealed == "" {
			continue
		}
		_, old, err := s.keys.Reseal(secretsOwner(row.Name), row.sealed)
		if err == nil && old { // a change that changes nothing seals anew
			_, err = s.ChangeMailHost(ctx, row.Name, func(*MailHost) (string, error) { return "", nil })
		}
		switch {
		case errors.Is(err, ErrNotFound): // removed meanwhile
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("seal secrets of mail host %q anew: %w", row.Name, err))
		case old:
			n++
		}
	}
	return n, failed
}

// dropSecrets forgets the secrets whose use a change took away.
func dropSecrets(before MailHost, h *MailHost) {
	if before.MasterLogin != "" && h.MasterLogin == "" {
		h.MasterPassword = ""
	}
	if before.DoveadmURL != "" && h.DoveadmURL == "" {
		h.DoveadmKey = ""
	}
	if before.OAuthTokenURL != "" && h.OAuthTokenURL == "" {
		h.OAuthClientSecret = ""
	}
}

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ErrNoKey says that a request has no key of the admin API, or one that is unknown or has expired.
var ErrNoKey = errors.New("admin key is not valid")

// Role is for whom a key of the admin API acts.
type Role string

// The roles.
const (
	RoleOperator Role = "operator"
	RoleReseller Role = "reseller"
	RoleBrand    Role = "brand"
)

// AdminKey is one key of the admin API, without the secret, of which only the hash is kept.
type AdminKey struct {
	ID   string
	Role Role
	// Subject is the name of the reseller, or of the provider of a brand; "" for the operator.
	Subject string
	// Note says what the key is for.
	Note    string
	Created time.Time
	Expires time.Time
	// LastUsed may be up to an hour old; zero is never.
	LastUsed time.Time
}

const (
	// DefaultKeyLifetime is how long a key lives from its making unless something else is asked for.
	DefaultKeyLifetime = 90 * 24 * time.Hour
	// MaxKeyLifetime is the most that may be asked for.
	MaxKeyLifetime = 2 * 365 * 24 * time.Hour
	// adminKeyPrefix lets those who look for leaked secrets find ours.
	adminKeyPrefix = "pha_"
	// touchKeyEvery is how stale a key's last use may be.
	touchKeyEvery = time.Hour
	maxKeyNote    = 200
)

const (
	adminKeyColumns = `id, role, subject, note, created_ms, expires_ms, last_used_ms`
	sqlAddAdminKey  = `INSERT INTO admin_keys (id, key_hash, role, subject, note, created_ms, expires_ms, last_used_ms)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0)`
	sqlAdminKeys      = `SELECT ` + adminKeyColumns + ` FROM admin_keys ORDER BY created_ms, id`
	sqlAdminKeyByHash = `SELECT ` + adminKeyColumns + ` FROM admin_keys WHERE key_hash = ? AND expires_ms > ?`
	sqlTouchAdminKey  = `UPDATE admin_keys SET last_used_ms = ? WHERE id = ?`
	sqlRemoveAdminKey = `DELETE FROM admin_keys WHERE id = ? RETURNING ` + adminKeyColumns
	// A name that is given again gives no right to who had a key under it before.
	sqlRemoveAdminKeysOf = `DELETE FROM admin_keys WHERE role = ? AND subject = ?`
)

// AddAdminKey makes a key and returns it with its secret, which nobody can read again. A zero Expires is after
// DefaultKeyLifetime. Whether the subject exists is for the caller to know.
func (s *Service) AddAdminKey(ctx context.Context, k AdminKey) (AdminKey, tenant.Secret, error) {
	k.Created, k.LastUsed = s.Now(), time.Time{}
	if k.Expires.IsZero() {
		k.Expires = k.Created.Add(DefaultKeyLifetime)
	}
	if err := k.check(); err != nil {
		return AdminKey{}, "", err
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	key := adminKeyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	_, id := newToken()
	k.ID = id[:sessionIDLength]
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlAddAdminKey, k.ID, hashOf("admin key", key), string(k.Role), k.Subject, k.Note,
			db.Millis(k.Created), db.Millis(k.Expires))
		return err
	})
	if err != nil {
		return AdminKey{}, "", fmt.Errorf("store admin key: %w", err)
	}
	return k, tenant.Secret(key), nil
}

func (k AdminKey) check() error {
	switch {
	case k.Role != RoleOperator && k.Role != RoleReseller && k.Role != RoleBrand:
		return &tenant.InvalidError{Field: "role", Problem: "must be operator, reseller or brand"}
	case k.Role == RoleOperator && k.Subject != "":
		return &tenant.InvalidError{Field: "subject", Problem: "must be left out: the operator acts for the whole installation"}
	case k.Role != RoleOperator && k.Subject == "":
		return &tenant.InvalidError{Field: "subject", Problem: "must be the name of the reseller, or of the brand's provider"}
	case !k.Expires.After(k.Created):
		return &tenant.InvalidError{Field: "expires", Problem: "must be in the future"}
	case k.Expires.Sub(k.Created) > MaxKeyLifetime:
		return &tenant.InvalidError{Field: "expires", Problem: "must be within two years: make a new key then"}
	case len(k.Note) > maxKeyNote || strings.ContainsFunc(k.Note, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return &tenant.InvalidError{Field: "note", Problem: "must be one line of at most 200 bytes"}
	}
	return nil
}

// AdminKeys lists all keys, expired ones too, oldest first.
func (s *Service) AdminKeys(ctx context.Context) ([]AdminKey, error) {
	rows, err := s.DB.Query(ctx, sqlAdminKeys)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []AdminKey{}
	for rows.Next() {
		var k AdminKey
		if err := scanAdminKey(rows.Scan, &k); err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	return all, rows.Err()
}

func scanAdminKey(scan func(...any) error, k *AdminKey) error {
	var created, expires, used int64
	err := scan(&k.ID, &k.Role, &k.Subject, &k.Note, &created, &expires, &used)
	k.Created, k.Expires, k.LastUsed = db.Time(created), db.Time(expires), db.Time(used)
	return err
}

// RemoveAdminKey ends a key at once.
func (s *Service) RemoveAdminKey(ctx context.Context, id string) error {
	if !isSessionID(id) {
		return fmt.Errorf("key %w", tenant.ErrNotFound)
	}
	return s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		var k AdminKey
		err := scanAdminKey(tx.QueryRow(ctx, sqlRemoveAdminKey, id).Scan, &k)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("key %s %w", id, tenant.ErrNotFound)
		}
		return err
	})
}

// RemoveAdminKeysOf ends all keys of a reseller or a brand that is removed.
func (s *Service) RemoveAdminKeysOf(ctx context.Context, role Role, subject string) error {
	return s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlRemoveAdminKeysOf, string(role), subject)
		return err
	})
}

// AuthenticateAdmin finds the key that a request bears, or returns ErrNoKey, or a *TooManyError for an address with
// too many failures. A good key passes from everywhere: nobody guesses 256 bits, and nobody behind the same address
// is to be locked out by who tries.
func (s *Service) AuthenticateAdmin(ctx context.Context, key string, from netip.Addr) (AdminKey, error) {
	now := s.Now()
	var k AdminKey
	err := sql.ErrNoRows
	if strings.HasPrefix(key, adminKeyPrefix) {
		err = scanAdminKey(s.DB.QueryRow(ctx, sqlAdminKeyByHash, hashOf("admin key", key), db.Millis(now)).Scan, &k)
	}
	if errors.Is(err, sql.ErrNoRows) {
		if wait, ok := s.keysByAddress.take(addressKey(from)); !ok {
			return AdminKey{}, &TooManyError{RetryAfter: wait}
		}
		return AdminKey{}, ErrNoKey
	} else if err != nil {
		return AdminKey{}, fmt.Errorf("find admin key: %w", err)
	}
	if now.Sub(k.LastUsed) > touchKeyEvery {
		err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, sqlTouchAdminKey, db.Millis(now), k.ID)
			return err
		})
		if err != nil { // no reason to turn him away
			s.Log.WarnContext(ctx, "cannot note the use of an admin key", slog.Any("err", err))
		}
	}
	return k, nil
}

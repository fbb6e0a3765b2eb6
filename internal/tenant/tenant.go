// Package tenant knows who there is: resellers, contexts, users, and the mail hosts their mail lives on; and what the
// configuration cascade says for each of them.
//
// A user is "<id>@<context>", two integers as in the original system, beside a mail login that is
// unique on its mail host. A mail host also carries the credential with which it may notify us, and
// so decides for which users it can speak. Passwords of users are not here (account), nor is
// anything a device wants (subscription).
//
// What we present to a mail host ourselves (a master user's password, the key of its doveadm API, an OAuth client's
// secret) is sealed in its row and read as a Secret, which cannot be logged.
//
// A Store is safe for concurrent use; every method is one transaction, save those that a notification or a
// listener needs: they answer from memory, and may not see what another node changed until up to 5 s ago.
package tenant

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// Errors of this package, wrapped with what they are about.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrInUse    = errors.New("still in use")
)

// InvalidError names the field of a request that cannot be accepted, and what to do about it.
type InvalidError struct {
	Field, Problem string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

// UserID names a user within the installation.
type UserID struct {
	Context int64
	ID      int64
}

// maxID is the largest id; the original keeps them in unsigned 32-bit columns.
const maxID = 1<<32 - 1

// String returns "<id>@<context>".
func (u UserID) String() string {
	return strconv.FormatInt(u.ID, 10) + "@" + strconv.FormatInt(u.Context, 10)
}

// ParseUserID reads "<id>@<context>", both from 1 to 4294967295 without sign or leading zero.
func ParseUserID(s string) (UserID, error) {
	id, context, ok := strings.Cut(s, "@")
	u, err1 := parseID(id)
	c, err2 := parseID(context)
	if !ok || err1 != nil || err2 != nil {
		return UserID{}, &InvalidError{"user", "must be <id>@<context>, two positive integers as in 3@1"}
	}
	return UserID{Context: c, ID: u}, nil
}

func parseID(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > maxID || strconv.FormatInt(n, 10) != s {
		return 0, errors.New("not an id")
	}
	return n, nil
}

// Store keeps contexts, users and mail hosts.
type Store struct {
	db    *db.DB
	keys  *seal.Keyring
	alias [][]byte // keys of the MAC in keyed aliases, the one in use first
	dflt  NotifyCredential
	now   func() time.Time

	signing   atomic.Pointer[ed25519.PrivateKey] // of the directory, once it was asked for
	publicURL string                             // see PublishAs

	cache      cache
	properties *cascade.Registry
	files      atomic.Pointer[cascade.Files]  // see SetFiles
	hosts      atomic.Pointer[hostrule.Rules] // nil: every host may use the app
	watching   sync.Mutex                     // guards watchers
	watchers   []func(UserID)                 // see Watch
	bus        *bus.Bus                       // nil before Join
}

// NotifyCredential is the installation's own notify credential. It speaks for the mail hosts that
// have none of their own.
type NotifyCredential struct {
	Login string
	Hash  [sha256.Size]byte // of the password, see HashPassword
	// Open accepts requests without a credential as this one's: only for a loopback listener.
	Open      bool
	UserForm  string
	AllowFrom []netip.Prefix
}

// New returns a Store. now is the clock.
func New(d *db.DB, keys *seal.Keyring, dflt NotifyCredential, now func() time.Time) (*Store, error) {
	alias, err := keys.Derive("alias")
	if err != nil {
		return nil, err
	}
	s := &Store{db: d, keys: keys, alias: alias, dflt: dflt, now: now, properties: cascade.Standard}
	s.files.Store(&cascade.Files{})
	s.cache = newCache(s.lastChange, s.forget)
	return s, nil
}

const (
	sqlNextID = `INSERT INTO sequences (name, last) VALUES (?, 1)
		ON CONFLICT (name) DO UPDATE SET last = sequences.last + 1 RETURNING last`
	sqlRaiseID = `INSERT INTO sequences (name, last) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET last = excluded.last WHERE excluded.last > sequences.last`
)

// takeID assigns the next id of a sequence, or keeps the sequence above an id chosen by hand.
func takeID(ctx context.Context, tx *db.Tx, sequence string, id *int64) error {
	if *id != 0 {
		_, err := tx.Exec(ctx, sqlRaiseID, sequence, *id)
		return err
	}
	if err := tx.QueryRow(ctx, sqlNextID, sequence).Scan(id); err != nil {
		return err
	}
	if *id > maxID {
		return &InvalidError{"id", "must be chosen: the last one there is has been given"}
	}
	return nil
}

// scanAll reads and closes rows.
func scanAll[T any](rows *sql.Rows, scan func(*sql.Rows, *T) error) ([]T, error) {
	defer rows.Close()
	all := []T{}
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// checkName accepts printable names of up to 255 bytes.
func checkName(field, name string) error {
	if name == "" || len(name) > 255 || strings.TrimSpace(name) != name || strings.ContainsFunc(name, notPrintable) {
		return &InvalidError{field, "must be 1 to 255 bytes of printable text without space at its ends"}
	}
	return nil
}

func notPrintable(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }

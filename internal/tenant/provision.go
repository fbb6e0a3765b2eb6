package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/posthorn-mail/posthorn/internal/db"
)

const (
	sqlContextIDsOf = `SELECT id FROM contexts WHERE reseller = ? ORDER BY id`
	sqlUserAt       = `SELECT context_id, id, login, mailhost FROM users WHERE login_key = ? AND mailhost = ?`
)

// ContextIDsOf lists the contexts of a reseller.
func (s *Store) ContextIDsOf(ctx context.Context, reseller string) ([]int64, error) {
	rows, err := s.db.Query(ctx, sqlContextIDsOf, reseller)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, id *int64) error { return rows.Scan(id) })
}

// Imported is what became of one user of a batch.
type Imported struct {
	ID UserID
	// Added is false for one who was there already, as he is.
	Added bool
	// Err says why he was not added: an *InvalidError, or ErrExists with his login or his id.
	Err error
}

// errKeepNothing ends a batch that is not to be kept.
var errKeepNothing = errors.New("keep nothing")

// ImportUsers adds those of a batch who are not there yet, in one short transaction; the caller keeps batches small,
// since all writes wait for it. Contexts and mail hosts are there, or the whole batch fails. A user without an id is
// the one with his login on his mail host, and else gets the context's next id. Of those of a dry run nothing is kept;
// their context may be 0, for one that is yet to be made.
func (s *Store) ImportUsers(ctx context.Context, batch []User, dryRun bool) ([]Imported, error) {
	var done []Imported
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		done = make([]Imported, len(batch)) // anew, since a transaction may be tried again
		marker := User{ID: UserID{Context: 1}, Login: manyUsers}
		keep := false
		for i, u := range batch {
			one, err := s.importUser(ctx, tx, u)
			if err != nil {
				return marker, err
			}
			done[i] = one
			keep = keep || one.Added
		}
		if dryRun || !keep {
			return marker, errKeepNothing
		}
		return marker, nil
	})
	if err != nil && !errors.Is(err, errKeepNothing) {
		return nil, err
	}
	return done, nil
}

func (s *Store) importUser(ctx context.Context, tx *db.Tx, u User) (Imported, error) {
	if err := CheckLogin(u.Login); err != nil {
		return Imported{Err: err}, nil //nolint:nilerr // it is what became of this one
	}
	var there User
	err := tx.QueryRow(ctx, sqlUserAt, loginKey(u.Login), u.MailHost).Scan(&there.ID.Context, &there.ID.ID, &there.Login, &there.MailHost)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return Imported{}, err
	case err == nil && there.ID.Context == u.ID.Context && (u.ID.ID == 0 || u.ID.ID == there.ID.ID):
		return Imported{ID: there.ID}, nil
	case err == nil && there.ID.Context == u.ID.Context:
		return Imported{Err: fmt.Errorf("login %q on mail host %q %w, as user %s", u.Login, u.MailHost, ErrExists, there.ID)}, nil
	case err == nil: // whose he is there is not for everybody to know
		return Imported{Err: fmt.Errorf("login %q on mail host %q %w, in another context", u.Login, u.MailHost, ErrExists)}, nil
	case u.ID.Context == 0:
		return Imported{Added: true}, nil
	}
	if err := s.room(ctx, tx, u.ID.Context); err != nil {
		if _, full := errors.AsType[*InvalidError](err); full {
			return Imported{Err: err}, nil
		}
		return Imported{}, err
	}
	if err := takeID(ctx, tx, "user/"+strconv.FormatInt(u.ID.Context, 10), &u.ID.ID); err != nil {
		return Imported{}, err
	}
	n, err := tx.Exec(ctx, sqlAddUser, u.ID.Context, u.ID.ID, u.Login, loginKey(u.Login), u.MailHost, db.Millis(s.now()))
	if err == nil && n == 0 {
		return Imported{Err: fmt.Errorf("user %s %w, with another login", u.ID, ErrExists)}, nil
	}
	return Imported{ID: u.ID, Added: true}, err
}

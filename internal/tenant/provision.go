package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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
// the one with his login on his mail host, and else gets the context's next id. Of those of a rehearsal nothing is kept
// but what it notes; their context may be less than 0, for one that is yet to be made.
func (s *Store) ImportUsers(ctx context.Context, batch []User, rehearsal *Rehearsal) ([]Imported, error) {
	var done []Imported
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		done = make([]Imported, len(batch)) // anew, since a transaction may be tried again
		marker := User{ID: UserID{Context: 1}, Login: manyUsers}
		keep, counted := false, map[int64]int64{}
		if err := rehearsal.begin(ctx, tx, batch); err != nil {
			return marker, err
		}
		for i, u := range batch {
			one, err := s.importUser(ctx, tx, u, counted, rehearsal)
			if err != nil {
				return marker, err
			}
			done[i] = one
			keep = keep || one.Added
		}
		if rehearsal != nil || !keep {
			return marker, errKeepNothing
		}
		return marker, nil
	})
	if err != nil && !errors.Is(err, errKeepNothing) {
		return nil, err
	}
	if rehearsal != nil {
		rehearsal.here = nil
	}
	return done, nil
}

// Rehearsal is what the batches of a dry run would have done before, since none of it is kept: so that it says what the
// real run says. The zero value works; nil is no dry run.
type Rehearsal struct {
	taken  map[UserID]struct{}
	logins map[[2]string]UserID // by login and mail host
	last   map[int64]int64      // the highest id, by context
	added  map[int64]int64      // how many users, by context
	here   []rehearsed          // those of the batch under way
}

type rehearsed struct {
	id   UserID
	key  [2]string
	last int64 // the highest id before
}

func userSequence(inContext int64) string { return "user/" + strconv.FormatInt(inContext, 10) }

func userKey(u User) [2]string { return [2]string{loginKey(u.Login), u.MailHost} }

// begin raises the sequences of ids to where they would be. What a try of the same batch noted is forgotten.
func (r *Rehearsal) begin(ctx context.Context, tx *db.Tx, batch []User) error {
	if r == nil {
		return nil
	}
	if r.taken == nil {
		r.taken, r.logins, r.last, r.added = map[UserID]struct{}{}, map[[2]string]UserID{}, map[int64]int64{}, map[int64]int64{}
	}
	for _, n := range slices.Backward(r.here) {
		delete(r.taken, n.id)
		delete(r.logins, n.key)
		r.last[n.id.Context] = n.last
		r.added[n.id.Context]--
	}
	r.here = nil
	raised := map[int64]bool{}
	for _, u := range batch {
		in := u.ID.Context
		if last := r.last[in]; in > 0 && last > 0 && !raised[in] {
			raised[in] = true
			if err := takeID(ctx, tx, userSequence(in), &last); err != nil {
				return err
			}
		}
	}
	return nil
}

// find is alike among those of a dry run.
func (r *Rehearsal) find(u User) (Imported, bool) {
	if r == nil {
		return Imported{}, false
	}
	there, ok := r.logins[userKey(u)]
	return alike(u, there), ok
}

// before is how many users earlier batches would have added to a context.
func (r *Rehearsal) before(inContext int64) int64 {
	if r == nil {
		return 0
	}
	n := r.added[inContext]
	for _, h := range r.here {
		if h.id.Context == inContext {
			n-- // the transaction sees it
		}
	}
	return n
}

// has reports whether an id would be taken.
func (r *Rehearsal) has(id UserID) bool {
	if r == nil {
		return false
	}
	_, ok := r.taken[id]
	return ok
}

// note keeps that a user would have been added.
func (r *Rehearsal) note(u User) {
	if r == nil {
		return
	}
	key, in := userKey(u), u.ID.Context
	r.here = append(r.here, rehearsed{u.ID, key, r.last[in]})
	r.taken[u.ID], r.logins[key] = struct{}{}, u.ID
	r.last[in] = max(r.last[in], u.ID.ID)
	r.added[in]++
}

// toNew is what becomes of a user of a context that is yet to be made.
func (r *Rehearsal) toNew(u User) Imported {
	if u.ID.ID == 0 {
		u.ID.ID = r.last[u.ID.Context] + 1
	}
	if r.has(u.ID) {
		return Imported{Err: fmt.Errorf("user %d of the new context %w, with another login", u.ID.ID, ErrExists)}
	}
	r.note(u)
	return Imported{Added: true}
}

// alike is what becomes of a user whose login on his mail host is that of one who is there: perhaps he is the one.
func alike(u User, there UserID) Imported {
	switch {
	case there.Context == u.ID.Context && (u.ID.ID == 0 || u.ID.ID == there.ID):
		return Imported{ID: there}
	case there.Context == u.ID.Context && there.Context > 0:
		return Imported{Err: fmt.Errorf("login %q on mail host %q %w, as user %s", u.Login, u.MailHost, ErrExists, there)}
	case there.Context == u.ID.Context:
		return Imported{Err: fmt.Errorf("login %q on mail host %q %w, as user %d", u.Login, u.MailHost, ErrExists, there.ID)}
	}
	// Whose he is there is not for everybody to know.
	return Imported{Err: fmt.Errorf("login %q on mail host %q %w, in another context", u.Login, u.MailHost, ErrExists)}
}

func (s *Store) importUser(ctx context.Context, tx *db.Tx, u User, counted map[int64]int64, rehearsal *Rehearsal) (Imported, error) {
	if err := CheckLogin(u.Login); err != nil {
		return Imported{Err: err}, nil //nolint:nilerr // it is what became of this one
	}
	if one, twice := rehearsal.find(u); twice {
		return one, nil
	}
	var there User
	err := tx.QueryRow(ctx, sqlUserAt, loginKey(u.Login), u.MailHost).Scan(&there.ID.Context, &there.ID.ID, &there.Login, &there.MailHost)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return Imported{}, err
	case err == nil:
		return alike(u, there.ID), nil
	case u.ID.Context <= 0:
		return rehearsal.toNew(u), nil
	}
	if err := s.room(ctx, tx, u.ID.Context, counted, rehearsal.before(u.ID.Context)); err != nil {
		if _, full := errors.AsType[*InvalidError](err); full {
			return Imported{Err: err}, nil
		}
		return Imported{}, err
	}
	if rehearsal.has(u.ID) {
		return Imported{Err: fmt.Errorf("user %s %w, with another login", u.ID, ErrExists)}, nil
	}
	if err := takeID(ctx, tx, userSequence(u.ID.Context), &u.ID.ID); err != nil {
		return Imported{}, err
	}
	n, err := tx.Exec(ctx, sqlAddUser, u.ID.Context, u.ID.ID, u.Login, loginKey(u.Login), u.MailHost, db.Millis(s.now()))
	if err == nil && n == 0 {
		return Imported{Err: fmt.Errorf("user %s %w, with another login", u.ID, ErrExists)}, nil
	}
	if err == nil {
		rehearsal.note(u)
		if _, ok := counted[u.ID.Context]; ok {
			counted[u.ID.Context]++
		}
	}
	return Imported{ID: u.ID, Added: true}, err
}

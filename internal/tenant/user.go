package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// User is one mail user.
type User struct {
	ID UserID
	// Login is the IMAP login, unique on its mail host without regard to case.
	Login    string
	MailHost string
}

const (
	sqlAddUser = `INSERT INTO users (context_id, id, login, login_key, mailhost, created_ms)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	sqlUsers = `SELECT context_id, id, login, mailhost FROM users
		WHERE (CAST(? AS BIGINT) = 0 OR context_id = ?) AND (? = '' OR mailhost = ?) ORDER BY context_id, id`
	sqlUser         = `SELECT context_id, id, login, mailhost FROM users WHERE context_id = ? AND id = ?`
	sqlUsersByLogin = `SELECT context_id, id, login, mailhost FROM users WHERE login_key = ? ORDER BY mailhost`
	sqlRemoveUser   = `DELETE FROM users WHERE context_id = ? AND id = ? RETURNING login`
	sqlHasContext   = `SELECT COUNT(*) FROM contexts WHERE id = ?`
	sqlHasProvider  = `SELECT COUNT(*) FROM providers WHERE name = ?`
	sqlHasMailHost  = `SELECT COUNT(*) FROM mailhosts WHERE name = ?`
	// For who has misspelt one.
	sqlMailHostNames = `SELECT name FROM mailhosts ORDER BY name LIMIT 10000`
)

// AddUser adds a user. With an id of 0 the context's next one is given.
func (s *Store) AddUser(ctx context.Context, u User) (User, error) {
	if u.ID.ID < 0 || u.ID.ID > maxID {
		return User{}, &InvalidError{"user", "the id must be from 1 to 4294967295"}
	}
	if err := CheckLogin(u.Login); err != nil {
		return User{}, err
	}
	var added User
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		added = u
		if err := mustHave(ctx, tx, sqlHasContext, u.ID.Context, "user", "there is no context %v: add it first"); err != nil {
			return added, err
		}
		if err := mustHaveMailHost(ctx, tx, u.MailHost, "mailhost"); err != nil {
			return added, err
		}
		if err := s.room(ctx, tx, u.ID.Context, map[int64]int64{}, 0); err != nil {
			return added, err
		}
		if err := takeID(ctx, tx, userSequence(u.ID.Context), &added.ID.ID); err != nil {
			return added, err
		}
		n, err := tx.Exec(ctx, sqlAddUser, added.ID.Context, added.ID.ID, u.Login, loginKey(u.Login), u.MailHost, db.Millis(s.now()))
		if err == nil && n == 0 {
			err = fmt.Errorf("user %s, or login %q on mail host %q, %w", added.ID, u.Login, u.MailHost, ErrExists)
		}
		return added, err
	})
	return added, err
}

// room refuses one more user where a context has as many as it may have. It counts them once for a transaction, in
// counted, together with the more that it would have beside; who adds one counts him there.
func (s *Store) room(ctx context.Context, tx *db.Tx, inContext int64, counted map[int64]int64, more int64) error {
	v, err := s.ContextView(ctx, inContext) // from memory, as a rule
	if err != nil {
		return err
	}
	most := int64(cascade.MaxUsers.Of(v))
	if most == 0 {
		return nil
	}
	n, ok := counted[inContext]
	if !ok {
		if err := tx.QueryRow(ctx, sqlContextUsers, inContext).Scan(&n); err != nil {
			return err
		}
		n += more
		counted[inContext] = n
	}
	if n >= most {
		return &InvalidError{"user", fmt.Sprintf("context %d has %d users, as many as it may have (contexts.max_users): remove some, or ask the operator", inContext, n)}
	}
	return nil
}

func mustHave(ctx context.Context, tx *db.Tx, query string, key any, field, problem string) error {
	var n int64
	if err := tx.QueryRow(ctx, query, key).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return &InvalidError{field, fmt.Sprintf(problem, key)}
	}
	return nil
}

// noun is a kind of thing that others name.
type noun struct {
	text, command string // in a sentence, and of posthorn
}

var (
	mailHostNoun = noun{"mail host", "mailhost"}
	resellerNoun = noun{"reseller", "reseller"}
)

func mustHaveMailHost(ctx context.Context, tx *db.Tx, name, field string) error {
	return mailHostNoun.mustHave(ctx, tx, sqlHasMailHost, sqlMailHostNames, name, field)
}

func mustHaveReseller(ctx context.Context, tx *db.Tx, name string) error {
	return resellerNoun.mustHave(ctx, tx, sqlHasReseller, sqlResellerNames, name, "reseller")
}

func (n noun) mustHave(ctx context.Context, tx *db.Tx, sqlHas, sqlNames, name, field string) error {
	var has int64
	if err := tx.QueryRow(ctx, sqlHas, name).Scan(&has); err != nil || has > 0 {
		return err
	}
	rows, err := tx.Query(ctx, sqlNames)
	if err != nil {
		return err
	}
	names, err := scanAll(rows, func(rows *sql.Rows, name *string) error { return rows.Scan(name) })
	if err != nil {
		return err
	}
	return n.missing(field, name, names)
}

// missing says to the operator that there is none of this name, and which one he meant.
func (n noun) missing(field, name string, names []string) *InvalidError {
	const most = 10
	text := fmt.Sprintf("there is no %s %q", n.text, name)
	meant := cascade.Nearest(name, names)
	switch {
	case len(names) == 0:
		text += fmt.Sprintf(": add it first, with \"posthorn %s add\"", n.command)
	case meant != "":
		text += fmt.Sprintf("; did you mean %q?", meant)
	case len(names) > most:
		text += fmt.Sprintf(": \"posthorn %s list\" shows those that there are", n.command)
	default:
		text += fmt.Sprintf(": add it first, or take one of %s", strings.Join(names, ", "))
	}
	return &InvalidError{field, text}
}

// NoMailHost says to the operator that there is no mail host of this name, and which one he meant.
func NoMailHost(field, name string, names []string) *InvalidError {
	return mailHostNoun.missing(field, name, names)
}

// NoReseller says the same of a reseller.
func NoReseller(field, name string, names []string) *InvalidError {
	return resellerNoun.missing(field, name, names)
}

// CheckLogin accepts what an IMAP server can take as a login: up to 255 bytes without control characters.
func CheckLogin(login string) error { return checkName("login", login) }

// loginKey folds a login as Dovecot does before it names it to us (auth_username_format = %Lu).
func loginKey(login string) string { return strings.ToLower(login) }

func scanUser(rows *sql.Rows, u *User) error {
	return rows.Scan(&u.ID.Context, &u.ID.ID, &u.Login, &u.MailHost)
}

// Users lists users by context and id; a context of 0 or a mail host of "" does not limit.
func (s *Store) Users(ctx context.Context, inContext int64, mailhost string) ([]User, error) {
	rows, err := s.db.Query(ctx, sqlUsers, inContext, inContext, mailhost, mailhost)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, scanUser)
}

// User finds a user, or returns ErrNotFound.
func (s *Store) User(ctx context.Context, id UserID) (User, error) {
	var u User
	err := s.db.QueryRow(ctx, sqlUser, id.Context, id.ID).Scan(&u.ID.Context, &u.ID.ID, &u.Login, &u.MailHost)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("user %s %w", id, ErrNotFound)
	}
	return u, err
}

// UsersByLogin finds the users with a login, at most one for each mail host. The login may be any
// bytes that somebody sent: PostgreSQL does not even compare NUL or what is not UTF-8.
func (s *Store) UsersByLogin(ctx context.Context, login string) ([]User, error) {
	if CheckLogin(login) != nil {
		return []User{}, nil //nolint:nilerr // not an error of ours: nobody has such a login
	}
	rows, err := s.db.Query(ctx, sqlUsersByLogin, loginKey(login))
	if err != nil {
		return nil, err
	}
	return scanAll(rows, scanUser)
}

// RemoveUser removes a user and, by the schema, all that hangs on it.
func (s *Store) RemoveUser(ctx context.Context, id UserID) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		u := User{ID: id}
		err := tx.QueryRow(ctx, sqlRemoveUser, id.Context, id.ID).Scan(&u.Login)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("user %s %w", id, ErrNotFound)
		}
		if err == nil {
			_, err = tx.Exec(ctx, sqlUnsetAll, cascade.User.String(), id.String())
		}
		return u, err
	})
}

package subscription

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// The states of a listener, as the API names them.
const (
	// Registered: the mail server tells us of this user's mail.
	Registered = "registered"
	// Pending: not yet, or not now; it is tried again.
	Pending = "pending"
	// Foreign: the registration at the mail server belongs to somebody else and is left alone.
	Foreign = "foreign"
	// Unsupported: the mail server has no way to register.
	Unsupported = "unsupported"
	// ClientNotAllowed: the configuration does not allow pushes to this client.
	ClientNotAllowed = "client_not_allowed"
)

// Listener is what a user's subscriptions want of his mail server, and how far that is.
type Listener struct {
	User   tenant.UserID
	Wanted bool
	State  string
	// Reason says in a sentence why the state is not Registered.
	Reason string
	// Attempt counts the failures in a row; NotBefore is when to look at it next.
	Attempt   int
	NotBefore time.Time
	// Since is when State was entered.
	Since time.Time
}

const (
	sqlClientsOf    = `SELECT client FROM subscriptions WHERE context_id = ? AND user_id = ? AND (expires_ms = 0 OR expires_ms > ?)`
	sqlWantListener = `INSERT INTO listeners (context_id, user_id, wanted, state, reason, attempt, not_before_ms, since_ms)
		VALUES (?, ?, 1, 'pending', '', 0, ?, ?)
		ON CONFLICT (context_id, user_id) DO UPDATE SET wanted = 1, attempt = 0, not_before_ms = excluded.not_before_ms,
		reason = CASE WHEN listeners.wanted = 1 THEN listeners.reason ELSE excluded.reason END,
		state = CASE WHEN listeners.wanted = 1 THEN listeners.state ELSE excluded.state END,
		since_ms = CASE WHEN listeners.wanted = 1 THEN listeners.since_ms ELSE excluded.since_ms END`
	sqlUnwantListener = `UPDATE listeners SET wanted = 0, attempt = 0, not_before_ms = ? WHERE context_id = ? AND user_id = ? AND wanted = 1`
	listenerColumns   = `context_id, user_id, wanted, state, reason, attempt, not_before_ms, since_ms`
	sqlListener       = `SELECT ` + listenerColumns + ` FROM listeners WHERE context_id = ? AND user_id = ?`
	sqlListeners      = `SELECT ` + listenerColumns + ` FROM listeners WHERE wanted = 1 ORDER BY context_id, user_id`
	sqlCountListeners = `SELECT state, COUNT(*) FROM listeners WHERE wanted = 1 GROUP BY state`
	sqlDueListeners   = `SELECT ` + listenerColumns + ` FROM listeners WHERE not_before_ms <= ? ORDER BY not_before_ms LIMIT ?`
	sqlNextListener   = `SELECT MIN(not_before_ms) FROM listeners WHERE not_before_ms > ?`
	sqlSetListener    = `UPDATE listeners SET state = ?, reason = ?, attempt = ?, not_before_ms = ?,
		since_ms = CASE WHEN state = ? THEN since_ms ELSE ? END WHERE context_id = ? AND user_id = ? AND wanted = ?`
	sqlRemoveListener = `DELETE FROM listeners WHERE context_id = ? AND user_id = ? AND wanted = 0`
)

// refreshListeners makes the wanted listener of each user agree with his subscriptions. It comes last in
// a write: two writes that change the subscriptions of one user must not judge by what the other is
// about to change, so the later one waits here for the earlier one's commit. The order of the users
// keeps such writes from waiting for each other.
func (s *Store) refreshListeners(ctx context.Context, tx *db.Tx, users []tenant.UserID) error {
	now := db.Millis(s.now())
	slices.SortFunc(users, func(a, b tenant.UserID) int {
		return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.ID, b.ID))
	})
	for _, u := range users {
		if err := tx.Lock(ctx, "listener/"+u.String()); err != nil {
			return err
		}
		wanted, err := s.wantsListener(ctx, tx, u)
		if err != nil {
			return err
		}
		if wanted {
			_, err = tx.Exec(ctx, sqlWantListener, u.Context, u.ID, now, now)
		} else {
			_, err = tx.Exec(ctx, sqlUnwantListener, now, u.Context, u.ID)
		}
		if err != nil {
			return fmt.Errorf("mark listener of %s: %w", u, err)
		}
	}
	return nil
}

func (s *Store) wantsListener(ctx context.Context, tx *db.Tx, u tenant.UserID) (bool, error) {
	rows, err := tx.Query(ctx, sqlClientsOf, u.Context, u.ID, db.Millis(s.now()))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	wanted := false
	for rows.Next() {
		var client string
		if err := rows.Scan(&client); err != nil {
			return false, err
		}
		wanted = wanted || s.allowed(client)
	}
	return wanted, rows.Err()
}

func scanListener(scan func(...any) error, l *Listener) error {
	var wanted, notBefore, since int64
	err := scan(&l.User.Context, &l.User.ID, &wanted, &l.State, &l.Reason, &l.Attempt, &notBefore, &since)
	l.Wanted, l.NotBefore, l.Since = wanted == 1, db.Time(notBefore), db.Time(since)
	return err
}

func scanListeners(rows *sql.Rows, err error) ([]Listener, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []Listener{}
	for rows.Next() {
		var l Listener
		if err := scanListener(rows.Scan, &l); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, rows.Err()
}

// Listener finds a user's listener; ok is false when there is none, wanted or to be removed.
func (s *Store) Listener(ctx context.Context, u tenant.UserID) (l Listener, ok bool, err error) {
	err = scanListener(s.db.QueryRow(ctx, sqlListener, u.Context, u.ID).Scan, &l)
	if errors.Is(err, sql.ErrNoRows) {
		return Listener{}, false, nil
	}
	return l, err == nil, err
}

// Listeners lists the wanted listeners by user.
func (s *Store) Listeners(ctx context.Context) ([]Listener, error) {
	return scanListeners(s.db.Query(ctx, sqlListeners))
}

// CountListeners counts the wanted listeners by state; a state that none is in is missing.
func (s *Store) CountListeners(ctx context.Context) (map[string]int, error) {
	rows, err := s.db.Query(ctx, sqlCountListeners)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	count := map[string]int{}
	for rows.Next() {
		var state string
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return nil, err
		}
		count[state] = n
	}
	return count, rows.Err()
}

// DueListeners lists up to limit listeners to look at now, longest due first. next is when one more is
// due after these; zero when there is none.
func (s *Store) DueListeners(ctx context.Context, limit int) (due []Listener, next time.Time, err error) {
	now := db.Millis(s.now())
	if due, err = scanListeners(s.db.Query(ctx, sqlDueListeners, now, limit)); err != nil {
		return nil, time.Time{}, err
	}
	var ms sql.NullInt64
	err = s.db.QueryRow(ctx, sqlNextListener, now).Scan(&ms)
	return due, db.Time(ms.Int64), err
}

// SetListener records what was found out about a listener. It does nothing when the subscriptions have
// meanwhile changed their mind about wanting it.
func (s *Store) SetListener(ctx context.Context, l Listener) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		wanted := int64(0)
		if l.Wanted {
			wanted = 1
		}
		_, err := tx.Exec(ctx, sqlSetListener, l.State, l.Reason, l.Attempt, db.Millis(l.NotBefore),
			l.State, db.Millis(s.now()), l.User.Context, l.User.ID, wanted)
		return err
	})
}

// RemoveListener forgets a listener that is no longer wanted.
func (s *Store) RemoveListener(ctx context.Context, u tenant.UserID) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlRemoveListener, u.Context, u.ID)
		return err
	})
}

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
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// The states of a listener, as the API names them.
const (
	// Registered: the mail server tells us of this user's mail.
	Registered = "registered"
	// Listening: we hold a connection on which the mail server tells us of this user's mail, or is asked.
	Listening = "listening"
	// Pending: not yet, or not now; it is tried again.
	Pending = "pending"
	// WaitingForSignIn: there is no password, or a rejected one; a sign-in brings the right one.
	WaitingForSignIn = "waiting_for_sign_in"
	// Foreign: the registration at the mail server belongs to somebody else and is left alone.
	Foreign = "foreign"
	// Unsupported: the mail server has no way to register.
	Unsupported = "unsupported"
	// ClientNotAllowed: the configuration does not allow pushes to this client.
	ClientNotAllowed = "client_not_allowed"
)

// SessionBound is how long a session wants a listener after its last use, without a subscription.
const SessionBound = 15 * time.Minute

// Listener is what a user's subscriptions and sessions want of his mail server, and how far that is.
type Listener struct {
	User tenant.UserID
	// Login and MailHost are the user's.
	Login, MailHost string
	// Wanted: a live subscription of an allowed client wants it, for good.
	Wanted bool
	// SessionUntil is until when a session wants it, Active when the user last did something.
	SessionUntil, Active time.Time

	// What the listener's owner found out.
	State string
	// Reason says in a sentence why the state is not Registered or Listening.
	Reason string
	// Rejected counts the logins in a row that the mail server rejected.
	Rejected int
	// Attempt counts the failures in a row; NotBefore is when to look at it next.
	Attempt   int
	NotBefore time.Time
	// Since is when State was entered.
	Since time.Time
}

// InSession reports whether a session wants the listener.
func (l Listener) InSession(now time.Time) bool { return l.SessionUntil.After(now) }

const (
	sqlClientsOf    = `SELECT client FROM subscriptions WHERE context_id = ? AND user_id = ? AND (expires_ms = 0 OR expires_ms > ?)`
	sqlWantListener = `INSERT INTO listeners (context_id, user_id, wanted, state, reason, attempt, not_before_ms, since_ms, active_ms)
		VALUES (?, ?, 1, 'pending', '', 0, ?, ?, ?)
		ON CONFLICT (context_id, user_id) DO UPDATE SET wanted = 1, active_ms = excluded.active_ms`
	// Who ends his last subscription has said what he wants: his session is no reason to go on.
	sqlUnwantListener  = `UPDATE listeners SET wanted = 0, session_until_ms = 0 WHERE context_id = ? AND user_id = ? AND wanted = 1`
	sqlSessionListener = `INSERT INTO listeners (context_id, user_id, wanted, state, reason, attempt, not_before_ms, since_ms, active_ms, session_until_ms)
		VALUES (?, ?, 0, 'pending', '', 0, ?, ?, ?, ?)
		ON CONFLICT (context_id, user_id) DO UPDATE SET active_ms = excluded.active_ms, session_until_ms = excluded.session_until_ms`
	listenerColumns = `l.context_id, l.user_id, u.login, u.mailhost, l.wanted, l.session_until_ms, l.active_ms, l.state, l.reason, l.rejected,
		l.attempt, l.not_before_ms, l.since_ms FROM listeners l JOIN users u ON u.context_id = l.context_id AND u.id = l.user_id`
	sqlListener       = `SELECT ` + listenerColumns + ` WHERE l.context_id = ? AND l.user_id = ?`
	sqlListeners      = `SELECT ` + listenerColumns + ` ORDER BY l.context_id, l.user_id`
	sqlCountListeners = `SELECT state, COUNT(*) FROM listeners WHERE wanted = 1 OR session_until_ms > ? GROUP BY state`
	sqlSetListener    = `UPDATE listeners SET state = ?, reason = ?, rejected = ?, attempt = ?, not_before_ms = ?, since_ms = ?
		WHERE context_id = ? AND user_id = ?`
	sqlEndSession     = `UPDATE listeners SET session_until_ms = 0 WHERE context_id = ? AND user_id = ?`
	sqlRemoveListener = `DELETE FROM listeners WHERE context_id = ? AND user_id = ? AND wanted = 0 AND session_until_ms <= ?`
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
			_, err = tx.Exec(ctx, sqlWantListener, u.Context, u.ID, now, now, now)
		} else {
			_, err = tx.Exec(ctx, sqlUnwantListener, u.Context, u.ID)
		}
		if err != nil {
			return fmt.Errorf("mark listener of %s: %w", u, err)
		}
	}
	return nil
}

func (s *Store) wantsListener(ctx context.Context, tx *db.Tx, u tenant.UserID) (bool, error) {
	v, err := s.view(ctx, u)
	if err != nil {
		return false, err
	}
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
		wanted = wanted || allowed(v, client)
	}
	return wanted, rows.Err()
}

func scanListener(scan func(...any) error, l *Listener) error {
	var wanted, session, active, notBefore, since int64
	err := scan(&l.User.Context, &l.User.ID, &l.Login, &l.MailHost, &wanted, &session, &active, &l.State, &l.Reason, &l.Rejected,
		&l.Attempt, &notBefore, &since)
	l.Wanted, l.SessionUntil, l.Active = wanted == 1, db.Time(session), db.Time(active)
	l.NotBefore, l.Since = db.Time(notBefore), db.Time(since)
	return err
}

// Active notes that a user does something with a client, now: for a while after it, his session wants a
// listener. It does nothing for a client that may not have pushes.
func (s *Store) Active(ctx context.Context, u tenant.UserID, client string) error {
	if ok, err := s.Allowed(ctx, u, client); err != nil || !ok {
		return err
	}
	now := s.now()
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlSessionListener, u.Context, u.ID, db.Millis(now), db.Millis(now), db.Millis(now), db.Millis(now.Add(SessionBound)))
		return err
	})
	if err != nil {
		return fmt.Errorf("note that %s is active: %w", u, err)
	}
	s.watch([]tenant.UserID{u})
	return nil
}

// Inactive notes that a user has no session any more.
func (s *Store) Inactive(ctx context.Context, u tenant.UserID) error {
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlEndSession, u.Context, u.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("note that %s has no session: %w", u, err)
	}
	s.watch([]tenant.UserID{u})
	return nil
}

// Watch has f called with the users whose wanted listener may have changed, here or, as far as the bus tells,
// on another node; with none for all. f must not wait. Watch comes before the store is used concurrently.
func (s *Store) Watch(f func(users []tenant.UserID)) { s.watch = f }

// Listener finds a user's listener; ok is false when there is none, wanted or to be removed.
func (s *Store) Listener(ctx context.Context, u tenant.UserID) (l Listener, ok bool, err error) {
	err = scanListener(s.db.QueryRow(ctx, sqlListener, u.Context, u.ID).Scan, &l)
	if errors.Is(err, sql.ErrNoRows) {
		return Listener{}, false, nil
	}
	return l, err == nil, err
}

// Listeners calls f with each listener, wanted or to be removed, by user.
func (s *Store) Listeners(ctx context.Context, f func(Listener)) error {
	rows, err := s.db.Query(ctx, sqlListeners)
	if err != nil {
		return err
	}
	defer rows.Close()
	// Many thousands are kept for long, and their words are few.
	words := map[string]string{}
	share := func(word *string) {
		if had, ok := words[*word]; ok {
			*word = had
		} else if len(words) < 1000 {
			words[*word] = *word
		}
	}
	for rows.Next() {
		var l Listener
		if err := scanListener(rows.Scan, &l); err != nil {
			return err
		}
		share(&l.MailHost)
		share(&l.State)
		share(&l.Reason)
		f(l)
	}
	return rows.Err()
}

// CountListeners counts the wanted listeners by state; a state that none is in is missing.
func (s *Store) CountListeners(ctx context.Context) (map[string]int, error) {
	rows, err := s.db.Query(ctx, sqlCountListeners, db.Millis(s.now()))
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

// SetListeners records what was found out about listeners.
func (s *Store) SetListeners(ctx context.Context, all []Listener) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, l := range all {
			_, err := tx.Exec(ctx, sqlSetListener, l.State, l.Reason, l.Rejected, l.Attempt, db.Millis(l.NotBefore), db.Millis(l.Since),
				l.User.Context, l.User.ID)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// RemoveListener forgets a listener that nobody wants any more.
func (s *Store) RemoveListener(ctx context.Context, u tenant.UserID) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlRemoveListener, u.Context, u.ID, db.Millis(s.now()))
		return err
	})
}

const sqlWantedClients = `SELECT s.context_id, s.user_id, s.client, COALESCE(l.wanted, 0) FROM subscriptions s
	LEFT JOIN listeners l ON l.context_id = s.context_id AND l.user_id = s.user_id
	WHERE (s.expires_ms = 0 OR s.expires_ms > ?) AND (CAST(? AS BIGINT) = 0 OR s.context_id = ?) AND (CAST(? AS BIGINT) = 0 OR s.user_id = ?)
	ORDER BY s.context_id, s.user_id`

// Recheck makes wanted listeners agree with the clients that are allowed, after what the cascade says has changed: for
// a user; for all of a context, with 0 for the user's id; or for everybody, with the zero UserID.
func (s *Store) Recheck(ctx context.Context, of tenant.UserID) error {
	wrong, err := s.disagreeing(ctx, of)
	if err != nil {
		return fmt.Errorf("compare listeners with allowed clients: %w", err)
	}
	for batch := range slices.Chunk(wrong, 100) {
		if err := s.change(ctx, func(context.Context, *db.Tx) ([]tenant.UserID, error) { return batch, nil }); err != nil {
			return err
		}
	}
	return nil
}

// disagreeing lists the users whose listener is wanted and should not be, or the other way round.
func (s *Store) disagreeing(ctx context.Context, of tenant.UserID) (wrong []tenant.UserID, err error) {
	rows, err := s.db.Query(ctx, sqlWantedClients, db.Millis(s.now()), of.Context, of.Context, of.ID, of.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var u tenant.UserID
	var v *cascade.View
	var wanted, may bool
	judge := func() {
		if wanted != may {
			wrong = append(wrong, u)
		}
	}
	for rows.Next() {
		var next tenant.UserID
		var client string
		var is int64
		if err := rows.Scan(&next.Context, &next.ID, &client, &is); err != nil {
			return nil, err
		}
		if next != u {
			judge()
			u, may = next, false
			if v, err = s.view(ctx, u); err != nil {
				return nil, err
			}
		}
		wanted = is == 1
		may = may || allowed(v, client)
	}
	judge()
	return wrong, rows.Err()
}

package account

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Session is a sign-in of one user on one device.
type Session struct {
	ID     string
	User   tenant.UserID
	Client string
	// Device is the hash of the device secret given at sign-in; without one it is the session's own.
	Device string
	// DeviceName is what its owner calls the device; it may be "".
	DeviceName string
	Address    string
	Created    time.Time
	LastUsed   time.Time
	Expires    time.Time
}

// SignIn is a request for a session.
type SignIn struct {
	Login    string
	Password Password
	// Client names the app, "posthorn-app".
	Client string
	// Device is a secret that the app made once on this device; "" when it has none.
	Device string
	// DeviceName is what people call it, for the list of devices.
	DeviceName string
	// MailHost is needed only when the login exists on several mail hosts.
	MailHost string
	// Host is the host of the request, for the gate.
	Host    string
	Address netip.Addr

	refresh Password // token that the identity provider gave
}

const (
	sessionColumns = `id, context_id, user_id, client, device_hash, device_name, address, created_ms, last_used_ms, expires_ms`
	sqlAddSession  = `INSERT INTO sessions (id, token_hash, context_id, user_id, client, device_hash, device_name, address,
		created_ms, last_used_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlPurgeSessions = `DELETE FROM sessions WHERE expires_ms <= ?`
	// The new session itself stays, whatever the clock says.
	sqlLimitSessions = `DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE context_id = ? AND user_id = ? AND id <> ?
		ORDER BY last_used_ms DESC, id LIMIT 1000 OFFSET ?)`
	sqlSessionByToken = `SELECT ` + sessionColumns + `, rotated_ms, confirmed_ms FROM sessions WHERE token_hash = ? AND expires_ms > ?`
	sqlSessions       = `SELECT ` + sessionColumns + ` FROM sessions WHERE context_id = ? AND user_id = ? AND expires_ms > ?
		ORDER BY created_ms, id`
	sqlTouchSession  = `UPDATE sessions SET last_used_ms = ? WHERE id = ?`
	sqlRevokeSession = `DELETE FROM sessions WHERE id = ? AND context_id = ? AND user_id = ? RETURNING ` + sessionColumns
	// A device speaks for a user only while a session signed in with its secret lives.
	sqlDeviceSessions = `SELECT COUNT(*) FROM sessions WHERE context_id = ? AND user_id = ? AND device_hash = ? AND expires_ms > ?`
)

// SignIn asks the user's mail server whether login and password are right, and opens a session. The
// password is kept sealed, where Store says, from then on and on all nodes. Errors are *tenant.InvalidError,
// *TooManyError, *RefusedError, ErrBadLogin and ErrMailServer (wrapped).
func (s *Service) SignIn(ctx context.Context, req SignIn) (Session, string, error) {
	if err := req.check(); err != nil {
		return Session{}, "", err
	}
	started := s.Now()
	tried, err := s.admit(ctx, strings.ToLower(req.Login), addressKey(req.Address), req.Device)
	if err != nil {
		return Session{}, "", err
	}
	u, err := s.verify(ctx, req)
	if errors.Is(err, ErrBadLogin) {
		return Session{}, "", errors.Join(err, waitUntil(ctx, s.Now, s.refusedAt(started, errors.Is(err, errNobody))))
	}
	if _, ok := errors.AsType[*tenant.InvalidError](err); ok {
		return Session{}, "", err // it tells that the login exists, so it costs as much as a guess
	}
	// No answer may be one: mail servers take their time for a no, or just hang up, and who guesses need not wait for it.
	if !errors.Is(err, errUnanswered) {
		tried.giveBack()
	}
	if err != nil {
		return Session{}, "", err
	}
	if s.Gate != nil {
		if err := s.Gate(ctx, GateRequest{User: u, Client: req.Client, Host: req.Host, Address: req.Address}); err != nil {
			return Session{}, "", err
		}
	}
	return s.open(ctx, u, req)
}

func (r SignIn) check() error {
	if err := tenant.CheckLogin(r.Login); err != nil {
		return err
	}
	if r.Password == "" || len(r.Password) > 1024 || strings.ContainsAny(string(r.Password), "\r\n\x00") {
		return &tenant.InvalidError{Field: "password", Problem: "must be 1 to 1024 bytes without line breaks"}
	}
	if err := CheckClient(r.Client); err != nil {
		return err
	}
	if len(r.Device) > 255 {
		return &tenant.InvalidError{Field: "device", Problem: "must be at most 255 bytes"}
	}
	if len(r.DeviceName) > 100 || !utf8.ValidString(r.DeviceName) || strings.ContainsFunc(r.DeviceName, unicode.IsControl) {
		return &tenant.InvalidError{Field: "device_name", Problem: "must be at most 100 bytes of UTF-8 without control characters"}
	}
	return nil
}

// CheckClient accepts the name of an app: 1 to 64 letters, digits, dots, hyphens and underscores.
func CheckClient(client string) error {
	ok := client != "" && len(client) <= 64
	for _, r := range client {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r))
	}
	if !ok {
		return &tenant.InvalidError{Field: "client", Problem: "must be the app's name: 1 to 64 letters, digits, dots, hyphens, underscores"}
	}
	return nil
}

// verify finds the one user that the login means and has the mail server check the password.
func (s *Service) verify(ctx context.Context, req SignIn) (tenant.User, error) {
	users, err := s.Tenants.UsersByLogin(ctx, req.Login)
	if err != nil {
		return tenant.User{}, fmt.Errorf("find user: %w", err)
	}
	if req.MailHost != "" {
		users = slices.DeleteFunc(users, func(u tenant.User) bool { return u.MailHost != req.MailHost })
	}
	switch len(users) {
	case 0:
		return tenant.User{}, errNobody
	case 1:
	default:
		// Trying them in turn would show the password to a server it does not belong to.
		return tenant.User{}, &tenant.InvalidError{Field: "mailhost", Problem: "this login exists on several mail hosts: say which"}
	}
	c, err := s.check(ctx, users[0], req.Password, req.Address)
	if err != nil {
		if !errors.Is(err, ErrBadLogin) {
			s.Log.WarnContext(ctx, "sign-in could not ask the mail server",
				slog.String("mailhost", users[0].MailHost), slog.Any("err", err))
		}
		return tenant.User{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
	defer cancel()
	_ = c.Logout(ctx)
	return users[0], nil
}

// errNobody is what everybody takes for another ErrBadLogin.
var errNobody = fmt.Errorf("%w", ErrBadLogin)

// refusedAt is when a sign-in that began is refused: after as many times failureFloor as the mail server took for its no.
// For a login that nobody has, it is as many as it took the last time for one that somebody has.
func (s *Service) refusedAt(began time.Time, nobody bool) time.Time {
	floors := max(1, s.floors.Load())
	if !nobody {
		floors = int64(s.Now().Sub(began)/failureFloor) + 1
		s.floors.Store(floors)
	}
	return began.Add(time.Duration(floors) * failureFloor)
}

// waitUntil returns at t, or earlier with the context's error.
func waitUntil(ctx context.Context, now func() time.Time, t time.Time) error {
	timer := time.NewTimer(t.Sub(now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addressKey groups IPv6 addresses by their /64, which one customer usually has to himself.
func addressKey(a netip.Addr) string {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

func (s *Service) open(ctx context.Context, u tenant.User, req SignIn) (Session, string, error) {
	view, err := s.Tenants.View(ctx, u.ID)
	if err != nil {
		return Session{}, "", fmt.Errorf("find limits of sessions: %w", err)
	}
	token, hash := newToken()
	_, id := newToken()
	now := s.Now()
	sess := Session{
		ID: id[:sessionIDLength], User: u.ID, Client: req.Client, DeviceName: req.DeviceName, Address: req.Address.String(),
		Created: now, LastUsed: now, Expires: now.Add(cascade.SessionLifetime.Of(view)),
	}
	if req.Device != "" {
		sess.Device = hashOf("device", req.Device)
	} else {
		sess.Device = hashOf("session", sess.ID)
	}
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return Session{}, "", fmt.Errorf("find mail host: %w", err)
	}
	sealed, refresh := s.Keys.Seal(passwords.owner(u.ID), []byte(req.Password)), s.Keys.Seal(tokens.owner(u.ID), []byte(req.refresh))
	if req.refresh != "" {
		defer s.grants.drop(u.ID) // what was made of another one
	}
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, sqlPurgeSessions, db.Millis(now)); err != nil {
			return err
		}
		if err := s.remember(ctx, tx, strings.ToLower(u.Login), addressKey(req.Address), req.Device); err != nil {
			return err
		}
		if err := tx.Lock(ctx, passwords.owner(u.ID)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sqlAddSession, sess.ID, hash, u.ID.Context, u.ID.ID, sess.Client, sess.Device, sess.DeviceName, sess.Address,
			db.Millis(now), db.Millis(now), db.Millis(sess.Expires))
		if err != nil {
			return err
		}
		// After the session, which only a user who is there can have; and only what is of use later.
		if host.PasswordSource == tenant.PasswordsOAuth && req.refresh != "" {
			if err := s.keep(ctx, tx, tokens, u.ID, refresh); err != nil {
				return err
			}
		}
		if host.PasswordSource == tenant.PasswordsSession && req.Password != "" {
			if err := s.keep(ctx, tx, passwords, u.ID, sealed); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, sqlLimitSessions, u.ID.Context, u.ID.ID, sess.ID, cascade.MaxSessions.Of(view)-1)
		return err
	})
	if err != nil {
		return Session{}, "", fmt.Errorf("store session: %w", err)
	}
	return sess, token, nil
}

// sessionIDLength is the length of a session's id in hexadecimal digits.
const sessionIDLength = 16

// touchEvery is how stale last_used may be: a write for each request would buy nothing.
const touchEvery = 5 * time.Minute

// Authenticate finds the live session of a bearer token, or returns ErrNoSession. When it takes the token for a stolen
// one, that is in a *StolenError.
func (s *Service) Authenticate(ctx context.Context, token string) (Session, error) {
	now := s.Now()
	var sess Session
	var rotated, confirmed int64
	err := scanSession(s.DB.QueryRow(ctx, sqlSessionByToken, hashOf("token", token), db.Millis(now)).Scan, &sess, &rotated, &confirmed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if sess, err = s.byOldToken(ctx, token); err != nil {
			return Session{}, err
		}
	case err != nil:
		return Session{}, fmt.Errorf("find session: %w", err)
	case rotated != 0 && confirmed == 0:
		s.confirm(ctx, sess.ID)
	}
	if s.Store == StoreNone {
		s.passing.use(passwords.owner(sess.User))
		s.passing.use(tokens.owner(sess.User))
	}
	if now.Sub(sess.LastUsed) > touchEvery {
		err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, sqlTouchSession, db.Millis(now), sess.ID)
			return err
		})
		if err != nil { // no reason to turn the user away
			s.Log.WarnContext(ctx, "cannot note the use of a session", slog.Any("err", err))
		}
	}
	return sess, nil
}

func scanSession(scan func(...any) error, v *Session, more ...any) error {
	var created, used, expires int64
	err := scan(append([]any{
		&v.ID, &v.User.Context, &v.User.ID, &v.Client, &v.Device, &v.DeviceName, &v.Address, &created, &used, &expires,
	}, more...)...)
	v.Created, v.LastUsed, v.Expires = db.Time(created), db.Time(used), db.Time(expires)
	return err
}

// Sessions lists a user's live sessions, oldest first.
func (s *Service) Sessions(ctx context.Context, id tenant.UserID) ([]Session, error) {
	rows, err := s.DB.Query(ctx, sqlSessions, id.Context, id.ID, db.Millis(s.Now()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []Session{}
	for rows.Next() {
		var sess Session
		if err := scanSession(rows.Scan, &sess); err != nil {
			return nil, err
		}
		all = append(all, sess)
	}
	return all, rows.Err()
}

// isSessionID tells our ids from what else a URL may hold.
func isSessionID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == sessionIDLength
}

// Revoke ends a session of a user, or returns ErrNoSession. last reports whether it was the device's
// last session of this user, in which case the caller ends what the device had subscribed to.
func (s *Service) Revoke(ctx context.Context, id tenant.UserID, sessionID string) (ended Session, last bool, err error) {
	if !isSessionID(sessionID) {
		return Session{}, false, ErrNoSession
	}
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		err := scanSession(tx.QueryRow(ctx, sqlRevokeSession, sessionID, id.Context, id.ID).Scan, &ended)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoSession
		} else if err != nil {
			return err
		}
		var others int64
		err = tx.QueryRow(ctx, sqlDeviceSessions, id.Context, id.ID, ended.Device, db.Millis(s.Now())).Scan(&others)
		last = others == 0
		return err
	})
	return ended, last, err
}

package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Where what listeners sign in with is kept, sealed.
const (
	StoreMemory   = "memory"   // in the memory of the cluster
	StoreDatabase = "database" // in the database
	StoreNone     = "none"     // nowhere; see passing
)

// kind is what is kept of a user. It begins the owner that the value is sealed for, and the key in the memory.
type kind string

const (
	passwords kind = "credential"
	tokens    kind = "oauth" // refresh tokens
)

func (k kind) owner(id tenant.UserID) string { return string(k) + "/" + id.String() }

//nolint:gosec // G101: queries, no credentials
const (
	sqlPutCredential = `INSERT INTO credentials (context_id, user_id, sealed, updated_ms) VALUES (?, ?, ?, ?)
		ON CONFLICT (context_id, user_id) DO UPDATE SET sealed = excluded.sealed, updated_ms = excluded.updated_ms`
	sqlCredential       = `SELECT sealed FROM credentials WHERE context_id = ? AND user_id = ?`
	sqlForgetCredential = `DELETE FROM credentials WHERE context_id = ? AND user_id = ?`
	sqlPutToken         = `INSERT INTO refresh_tokens (context_id, user_id, sealed, updated_ms) VALUES (?, ?, ?, ?)
		ON CONFLICT (context_id, user_id) DO UPDATE SET sealed = excluded.sealed, updated_ms = excluded.updated_ms`
	sqlToken       = `SELECT sealed FROM refresh_tokens WHERE context_id = ? AND user_id = ?`
	sqlForgetToken = `DELETE FROM refresh_tokens WHERE context_id = ? AND user_id = ?`
)

// keep keeps a secret, sealed, in the transaction that needs it or beside it. That there is no room is logged: the
// user then signs in without his listener.
func (s *Service) keep(ctx context.Context, tx *db.Tx, k kind, id tenant.UserID, sealed string) error {
	switch s.Store {
	case StoreMemory:
		if err := s.Memory.Put(k.owner(id), sealed); err != nil {
			s.Log.ErrorContext(ctx, "cannot keep a credential", slog.String("account", id.String()), slog.Any("err", err))
		}
		return nil
	case StoreNone:
		s.passing.put(k.owner(id), sealed)
		return nil
	}
	query := sqlPutCredential
	if k == tokens {
		query = sqlPutToken
	}
	_, err := tx.Exec(ctx, query, id.Context, id.ID, sealed, db.Millis(s.Now()))
	return err
}

// queryRow is how something is read: in a transaction, or outside.
type queryRow func(ctx context.Context, query string, args ...any) *sql.Row

// kept returns what is kept, sealed, or ErrNoCredential.
func (s *Service) kept(ctx context.Context, read queryRow, k kind, id tenant.UserID) (sealed string, err error) {
	var ok bool
	switch s.Store {
	case StoreMemory:
		sealed, ok = s.Memory.Get(k.owner(id))
	case StoreNone:
		sealed, ok = s.passing.get(k.owner(id))
	default:
		query := sqlCredential
		if k == tokens {
			query = sqlToken
		}
		err = read(ctx, query, id.Context, id.ID).Scan(&sealed)
		if ok = !errors.Is(err, sql.ErrNoRows); ok && err != nil {
			return "", fmt.Errorf("read credential: %w", err)
		}
	}
	if !ok {
		return "", ErrNoCredential
	}
	return sealed, nil
}

// secret opens what is kept. Errors are ErrNoCredential, or seal.ErrOpen for a damaged store.
func (s *Service) secret(ctx context.Context, k kind, id tenant.UserID) (Password, error) {
	return s.secretBy(ctx, s.DB.QueryRow, k, id)
}

func (s *Service) secretBy(ctx context.Context, read queryRow, k kind, id tenant.UserID) (Password, error) {
	sealed, err := s.kept(ctx, read, k, id)
	if err != nil {
		return "", err
	}
	plain, err := s.Keys.Open(k.owner(id), sealed)
	if err != nil {
		return "", fmt.Errorf("open credential of %s: %w", id, err)
	}
	return Password(plain), nil
}

// forget removes what is kept, and returns the refresh token that was. Its transaction holds the lock of what it decided by.
func (s *Service) forget(ctx context.Context, tx *db.Tx, id tenant.UserID) (refresh Password, err error) {
	if refresh, err = s.secretBy(ctx, tx.QueryRow, tokens, id); err != nil {
		refresh = "" // none, or nobody can open it
	}
	s.grants.drop(id)
	for _, k := range []kind{passwords, tokens} {
		switch s.Store {
		case StoreMemory:
			s.Memory.Delete(k.owner(id))
		case StoreNone:
			s.passing.drop(k.owner(id))
		}
	}
	// Also those of the time before the store was another.
	for _, query := range []string{sqlForgetCredential, sqlForgetToken} {
		if _, err := tx.Exec(ctx, query, id.Context, id.ID); err != nil {
			return "", err
		}
	}
	return refresh, nil
}

const sqlLiveSessions = `SELECT COUNT(*) FROM sessions WHERE context_id = ? AND user_id = ? AND expires_ms > ?`

// ForgetCredential removes what is kept of a user, on all nodes, unless he is signed in somewhere. It is for when
// no listener needs it any more. A refresh token is revoked after that, if it can be.
func (s *Service) ForgetCredential(ctx context.Context, id tenant.UserID) error {
	var refresh Password
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		refresh = ""
		// Else it would remove what a sign-in keeps at this moment, without seeing its session yet.
		if err := tx.Lock(ctx, passwords.owner(id)); err != nil {
			return err
		}
		var sessions int64
		err := tx.QueryRow(ctx, sqlLiveSessions, id.Context, id.ID, db.Millis(s.Now())).Scan(&sessions)
		if err != nil || sessions > 0 {
			return err
		}
		refresh, err = s.forget(ctx, tx, id)
		return err
	})
	if err == nil {
		s.revokeLater(ctx, id, refresh)
	}
	return err
}

// UserRemoved removes what is kept of a user who is gone.
func (s *Service) UserRemoved(ctx context.Context, id tenant.UserID) error {
	return s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := s.forget(ctx, tx, id)
		return err
	})
}

// WhenKept has f called with each user for whom another node has kept something: his listener may be able to sign
// in now. f must not wait for anything.
func (s *Service) WhenKept(f func(tenant.UserID)) {
	if s.Store != StoreMemory {
		return // what is in the database was there at once
	}
	s.Memory.WhenPut(func(key string) {
		_, name, _ := strings.Cut(key, "/")
		if id, err := tenant.ParseUserID(name); err == nil {
			f(id)
		}
	})
}

const (
	sqlOldCredentials = `SELECT context_id, user_id, sealed, updated_ms FROM credentials ORDER BY context_id, user_id LIMIT 500`
	sqlOldTokens      = `SELECT context_id, user_id, sealed, updated_ms FROM refresh_tokens ORDER BY context_id, user_id LIMIT 500`
)

// ClearDatabase takes out of the database what is not to be in it: for StoreMemory, into the memory; for
// StoreNone, for good. It comes before the Service is used.
func (s *Service) ClearDatabase(ctx context.Context) error {
	if s.Store != StoreMemory && s.Store != StoreNone {
		return nil
	}
	moved := 0
	for _, t := range []struct {
		kind               kind
		sqlList, sqlRemove string
	}{{passwords, sqlOldCredentials, sqlForgetCredential}, {tokens, sqlOldTokens, sqlForgetToken}} {
		for {
			n, err := s.clear(ctx, t.kind, t.sqlList, t.sqlRemove)
			if err != nil {
				return fmt.Errorf("clear the database of credentials: %w", err)
			}
			if moved += n; n == 0 {
				break
			}
		}
	}
	switch {
	case moved == 0:
	case s.Store == StoreMemory:
		s.Log.InfoContext(ctx, "passwords and tokens moved from the database into the cluster memory, as credentials.store says", slog.Int("removed", moved))
	default:
		s.Log.InfoContext(ctx, "passwords and tokens removed from the database, as credentials.store says", slog.Int("removed", moved))
	}
	return nil
}

// clear takes the next rows out, and returns how many there were.
func (s *Service) clear(ctx context.Context, k kind, sqlList, sqlRemove string) (n int, err error) {
	type row struct {
		user    tenant.UserID
		sealed  string
		updated int64
	}
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows, err := tx.Query(ctx, sqlList)
		if err != nil {
			return err
		}
		defer rows.Close()
		var all []row
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.user.Context, &r.user.ID, &r.sealed, &r.updated); err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		n = len(all)
		for _, r := range all {
			if s.Store == StoreMemory {
				if err := s.Memory.PutAt(k.owner(r.user), r.sealed, db.Time(r.updated)); err != nil {
					s.Log.ErrorContext(ctx, "cannot keep a credential", slog.String("account", r.user.String()), slog.Any("err", err))
				}
			}
			if _, err := tx.Exec(ctx, sqlRemove, r.user.Context, r.user.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

const (
	// passingLife is how long a secret outlives the last use of the session that brought it.
	passingLife = 15 * time.Minute
	// maxPassing bounds them.
	maxPassing = 100_000
)

// passing keeps, for StoreNone, what a session in use needs, sealed and in this process only.
type passing struct {
	mu  sync.Mutex // guards all below
	all map[string]*passed
}

type passed struct {
	sealed string
	end    *time.Timer
}

// put keeps a secret from now on. When there is no room, it is not kept: its listener then waits for a sign-in.
func (p *passing) put(owner, sealed string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.all[owner]; old != nil {
		old.end.Stop()
	} else if len(p.all) >= maxPassing {
		return
	}
	if p.all == nil {
		p.all = map[string]*passed{}
	}
	v := &passed{sealed: sealed}
	v.end = time.AfterFunc(passingLife, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.all[owner] == v {
			delete(p.all, owner)
		}
	})
	p.all[owner] = v
}

func (p *passing) get(owner string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.all[owner]
	if v == nil {
		return "", false
	}
	return v.sealed, true
}

// use has a secret live on.
func (p *passing) use(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.all[owner]; v != nil {
		v.end.Reset(passingLife)
	}
}

func (p *passing) drop(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.all[owner]; v != nil {
		v.end.Stop()
		delete(p.all, owner)
	}
}

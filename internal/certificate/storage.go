package certificate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
)

const (
	sqlStore = `INSERT INTO acme_storage (name, sealed, modified_ms) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, modified_ms = excluded.modified_ms`
	sqlLoad   = `SELECT sealed, modified_ms FROM acme_storage WHERE name = ?`
	sqlBelow  = `SELECT name FROM acme_storage WHERE substr(name, 1, ?) = ? ORDER BY name`
	sqlDelete = `DELETE FROM acme_storage WHERE name = ? OR substr(name, 1, ?) = ?`
	sqlAfter  = `SELECT name, sealed FROM acme_storage WHERE name > ? ORDER BY name LIMIT 200`
	sqlReseal = `UPDATE acme_storage SET sealed = ? WHERE name = ? AND sealed = ?`
	sqlLock   = `INSERT INTO acme_locks (name, owner, until_ms) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms WHERE acme_locks.until_ms < ?`
	sqlRenew  = `UPDATE acme_locks SET until_ms = ? WHERE name = ? AND owner = ?`
	sqlUnlock = `DELETE FROM acme_locks WHERE name = ? AND owner = ?`
	sqlForget = `DELETE FROM acme_locks WHERE owner = ?`
)

// Storage is where certmagic keeps account, keys, certificates and challenges: rows of the database, each sealed
// for its name. It implements certmagic.Storage.
type Storage struct {
	db   *db.DB
	keys *seal.Keyring
	node string
	now  func() time.Time
}

// NewStorage returns the storage that all nodes on this database share; node tells their locks apart.
func NewStorage(d *db.DB, keys *seal.Keyring, node string, now func() time.Time) *Storage {
	return &Storage{d, keys, node, now}
}

// sealedFor names a row to the keyring.
func sealedFor(name string) string { return "acme/" + name }

// Store keeps a value.
func (s *Storage) Store(ctx context.Context, name string, value []byte) error {
	sealed := s.keys.Seal(sealedFor(name), value)
	return s.write(ctx, "keep", name, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlStore, name, sealed, db.Millis(s.now()))
		return err
	})
}

func (s *Storage) write(ctx context.Context, verb, name string, fn func(context.Context, *db.Tx) error) error {
	if err := s.db.Write(ctx, fn); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	return nil
}

// Load returns a value, or fs.ErrNotExist.
func (s *Storage) Load(ctx context.Context, name string) ([]byte, error) {
	value, _, err := s.load(ctx, name)
	return value, err
}

func (s *Storage) load(ctx context.Context, name string) (value []byte, modified time.Time, err error) {
	var sealed string
	var ms int64
	switch err := s.db.QueryRow(ctx, sqlLoad, name).Scan(&sealed, &ms); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, time.Time{}, fs.ErrNotExist
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("load %s: %w", name, err)
	}
	if value, err = s.keys.Open(sealedFor(name), sealed); err != nil {
		return nil, time.Time{}, fmt.Errorf("load %s: %w", name, err)
	}
	return value, db.Time(ms), nil
}

// Delete removes a value, and all below it.
func (s *Storage) Delete(ctx context.Context, name string) error {
	return s.write(ctx, "remove", name, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlDelete, name, len(name)+1, name+"/")
		return err
	})
}

// Exists reports whether there is a value, or one below it.
func (s *Storage) Exists(ctx context.Context, name string) bool {
	_, err := s.Stat(ctx, name)
	return err == nil
}

// List returns what is below a name: all, or what is directly there.
func (s *Storage) List(ctx context.Context, name string, recursive bool) ([]string, error) {
	below := ""
	if name != "" {
		below = strings.TrimSuffix(name, "/") + "/"
	}
	rows, err := s.db.Query(ctx, sqlBelow, len(below), below)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
		if first, _, deeper := strings.Cut(one[len(below):], "/"); deeper && !recursive {
			one = below + first
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	slices.Sort(all) // the engines sort by rules of their own
	if all = slices.Compact(all); len(all) == 0 {
		return nil, fs.ErrNotExist
	}
	return all, nil
}

// Stat tells of a value, or that there are some below.
func (s *Storage) Stat(ctx context.Context, name string) (certmagic.KeyInfo, error) {
	value, modified, err := s.load(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = s.List(ctx, name, false)
		return certmagic.KeyInfo{Key: name}, err
	}
	return certmagic.KeyInfo{Key: name, Modified: modified, Size: int64(len(value)), IsTerminal: true}, err
}

// lease is how long a lock is held that nobody renews: longer than the authority takes to answer.
const lease = 5 * time.Minute

// tryEvery is the pause between two tries to get a lock.
const tryEvery = time.Second

// Lock waits for a lock of the cluster.
func (s *Storage) Lock(ctx context.Context, name string) error {
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for {
		if locked, err := s.TryLock(ctx, name); err != nil || locked {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// TryLock takes a lock if it is free, or its lease is over.
func (s *Storage) TryLock(ctx context.Context, name string) (locked bool, err error) {
	err = s.write(ctx, "lock", name, func(ctx context.Context, tx *db.Tx) error {
		now := s.now()
		n, err := tx.Exec(ctx, sqlLock, name, s.node, db.Millis(now.Add(lease)), db.Millis(now))
		locked = n == 1
		return err
	})
	return locked && err == nil, err
}

// RenewLockLease holds a lock of ours for longer.
func (s *Storage) RenewLockLease(ctx context.Context, name string, d time.Duration) error {
	return s.write(ctx, "hold", name, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, sqlRenew, db.Millis(s.now().Add(d)), name, s.node)
		if err == nil && n == 0 {
			return errors.New("another node has the lock")
		}
		return err
	})
}

// Unlock gives a lock back, also when ctx has ended.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	return s.write(context.WithoutCancel(ctx), "unlock", name, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlUnlock, name, s.node)
		return err
	})
}

// ForgetLocks gives back what this node held when it was killed: its leases can be hours long.
func (s *Storage) ForgetLocks(ctx context.Context) error {
	return s.write(ctx, "unlock", "all", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlForget, s.node)
		return err
	})
}

// Reseal seals the next values anew with the key that seals now. It returns where to go on, "" at the end.
func (s *Storage) Reseal(ctx context.Context, after string) (next string, m seal.Moved, err error) {
	err = s.write(ctx, "seal anew", "certificates", func(ctx context.Context, tx *db.Tx) error {
		next, m = "", seal.Moved{}
		rows, err := tx.Query(ctx, sqlAfter, after)
		if err != nil {
			return err
		}
		defer rows.Close()
		var all [][2]string
		for rows.Next() {
			var r [2]string
			if err := rows.Scan(&r[0], &r[1]); err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, r := range all {
			next = r[0]
			if sealed, changed := s.keys.Move(&m, sealedFor(r[0]), r[1]); changed {
				if _, err := tx.Exec(ctx, sqlReseal, sealed, r[0], r[1]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return "", seal.Moved{}, err
	}
	return next, m, nil
}

package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Reseller is whose a number of contexts are.
type Reseller struct {
	Name string
	// Title is the name for people, Contact how they reach him.
	Title, Contact string
}

const (
	sqlAddReseller       = `INSERT INTO resellers (name, title, contact, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`
	sqlResellers         = `SELECT name, title, contact FROM resellers ORDER BY name`
	sqlReseller          = `SELECT name, title, contact FROM resellers WHERE name = ?`
	sqlHasReseller       = `SELECT COUNT(*) FROM resellers WHERE name = ?`
	sqlResellerNames     = `SELECT name FROM resellers ORDER BY name LIMIT 10000`
	sqlChangeReseller    = `UPDATE resellers SET title = ?, contact = ? WHERE name = ?`
	sqlRemoveReseller    = `DELETE FROM resellers WHERE name = ?`
	sqlResellerContexts  = `SELECT COUNT(*) FROM contexts WHERE reseller = ?`
	sqlResellerProviders = `SELECT COUNT(*) FROM providers WHERE reseller = ?`
)

// check gives the title its default.
func (r *Reseller) check() error {
	if _, err := cascade.CheckTag(r.Name); err != nil {
		return &InvalidError{"name", "must be 1 to 64 bytes of letters, digits and - _ . : / @ +"}
	}
	if r.Title == "" {
		r.Title = r.Name
	}
	if err := checkName("title", r.Title); err != nil {
		return err
	}
	if r.Contact != "" {
		return checkName("contact", r.Contact)
	}
	return nil
}

// AddReseller adds a reseller; the title defaults to the name.
func (s *Store) AddReseller(ctx context.Context, r Reseller) (Reseller, error) {
	if err := r.check(); err != nil {
		return Reseller{}, err
	}
	return r, s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, sqlAddReseller, r.Name, r.Title, r.Contact, db.Millis(s.now()))
		if err == nil && n == 0 {
			err = fmt.Errorf("reseller %q %w", r.Name, ErrExists)
		}
		return err
	})
}

// Resellers lists all resellers by name.
func (s *Store) Resellers(ctx context.Context) ([]Reseller, error) {
	rows, err := s.db.Query(ctx, sqlResellers)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, r *Reseller) error { return rows.Scan(&r.Name, &r.Title, &r.Contact) })
}

// ChangeReseller changes title or contact of a reseller.
func (s *Store) ChangeReseller(ctx context.Context, name string, fn func(*Reseller) error) (r Reseller, err error) {
	err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		err := tx.QueryRow(ctx, sqlReseller, name).Scan(&r.Name, &r.Title, &r.Contact)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("reseller %q %w", name, ErrNotFound)
		}
		if err != nil {
			return err
		}
		if err := fn(&r); err != nil {
			return err
		}
		r.Name = name
		if err := r.check(); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sqlChangeReseller, r.Title, r.Contact, name)
		return err
	})
	return r, err
}

// RemoveReseller removes a reseller that has no contexts and no providers, and its values.
func (s *Store) RemoveReseller(ctx context.Context, name string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		var contexts int64
		if err := tx.QueryRow(ctx, sqlResellerContexts, name).Scan(&contexts); err != nil {
			return User{}, err
		}
		if contexts > 0 {
			return User{}, fmt.Errorf("reseller %q is %w by %d contexts: remove them, or give them to another reseller, first", name, ErrInUse, contexts)
		}
		var providers int64
		if err := tx.QueryRow(ctx, sqlResellerProviders, name).Scan(&providers); err != nil {
			return User{}, err
		}
		if providers > 0 {
			return User{}, fmt.Errorf("reseller %q is %w by %d providers: remove them, or give them to another reseller, first", name, ErrInUse, providers)
		}
		n, err := tx.Exec(ctx, sqlRemoveReseller, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("reseller %q %w", name, ErrNotFound)
		}
		if err == nil {
			_, err = tx.Exec(ctx, sqlUnsetAll, cascade.Reseller.String(), name)
		}
		return User{}, err
	})
}

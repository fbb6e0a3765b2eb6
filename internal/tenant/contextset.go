package tenant

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// ContextSet is the contexts with some tags: what is set for it holds for each of them.
type ContextSet struct {
	Name string
	// WithTags is a condition over tags, such as "webmail & (premium | trial)".
	WithTags string
	// Priority decides between sets that match: the higher one wins, then the name that sorts last.
	Priority int
	// Origin is the file and line of a set that is from a file; "" for one made by command or API.
	Origin string
}

const (
	sqlAddContextSet    = `INSERT INTO context_sets (name, with_tags, priority, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`
	sqlContextSets      = `SELECT name, with_tags, priority FROM context_sets ORDER BY name`
	sqlContextSet       = `SELECT name, with_tags, priority FROM context_sets WHERE name = ?`
	sqlChangeContextSet = `UPDATE context_sets SET with_tags = ?, priority = ? WHERE name = ?`
	sqlRemoveContextSet = `DELETE FROM context_sets WHERE name = ?`
)

func (c ContextSet) check() error {
	if _, err := cascade.ParseExpression(c.WithTags); err != nil {
		return &InvalidError{"with_tags", err.Error()}
	}
	if err := (cascade.Set{Name: c.Name, WithTags: c.WithTags, Priority: c.Priority}).Check(); err != nil {
		return &InvalidError{"contextset", err.Error()}
	}
	return nil
}

// inFiles finds a set that files make.
func (s *Store) inFiles(name string) (cascade.Set, bool) {
	sets := s.files.Load().Sets
	i := slices.IndexFunc(sets, func(set cascade.Set) bool { return set.Name == name })
	if i < 0 {
		return cascade.Set{}, false
	}
	return sets[i], true
}

// AddContextSet adds a context set. Its name must not be that of one that files make.
func (s *Store) AddContextSet(ctx context.Context, c ContextSet) (ContextSet, error) {
	if err := c.check(); err != nil {
		return ContextSet{}, err
	}
	if f, ok := s.inFiles(c.Name); ok {
		return ContextSet{}, fmt.Errorf("context set %q %w: it is made in %s", c.Name, ErrExists, f.Origin)
	}
	c.Origin = ""
	return c, s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		n, err := tx.Exec(ctx, sqlAddContextSet, c.Name, c.WithTags, c.Priority, db.Millis(s.now()))
		if err == nil && n == 0 {
			err = fmt.Errorf("context set %q %w", c.Name, ErrExists)
		}
		return User{}, err
	})
}

// ContextSets lists the sets that files, commands and the API have made, the one that wins over the others last.
func (s *Store) ContextSets(ctx context.Context) ([]ContextSet, error) {
	all, err := s.storedSets(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range s.files.Load().Sets {
		if !slices.ContainsFunc(all, func(c ContextSet) bool { return c.Name == f.Name }) {
			all = append(all, ContextSet{f.Name, f.WithTags, f.Priority, f.Origin})
		}
	}
	slices.SortFunc(all, func(a, b ContextSet) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (s *Store) storedSets(ctx context.Context) ([]ContextSet, error) {
	rows, err := s.db.Query(ctx, sqlContextSets)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, c *ContextSet) error { return rows.Scan(&c.Name, &c.WithTags, &c.Priority) })
}

// ChangeContextSet changes tags or priority of a context set that no file makes.
func (s *Store) ChangeContextSet(ctx context.Context, name string, fn func(*ContextSet) error) (c ContextSet, err error) {
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		if err := tx.QueryRow(ctx, sqlContextSet, name).Scan(&c.Name, &c.WithTags, &c.Priority); err != nil {
			return User{}, s.noSet(name, err)
		}
		if err := fn(&c); err != nil {
			return User{}, err
		}
		c.Name = name
		if err := c.check(); err != nil {
			return User{}, err
		}
		_, err := tx.Exec(ctx, sqlChangeContextSet, c.WithTags, c.Priority, name)
		return User{}, err
	})
	return c, err
}

// noSet says why a set cannot be changed that is not in the database.
func (s *Store) noSet(name string, err error) error {
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if f, ok := s.inFiles(name); ok {
		return &InvalidError{"contextset", fmt.Sprintf("%q is made in %s: change it there, and run \"posthorn reload\"", name, f.Origin)}
	}
	return fmt.Errorf("context set %q %w", name, ErrNotFound)
}

// RemoveContextSet removes a context set that no file makes, and its values.
func (s *Store) RemoveContextSet(ctx context.Context, name string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		n, err := tx.Exec(ctx, sqlRemoveContextSet, name)
		if err == nil && n == 0 {
			err = s.noSet(name, sql.ErrNoRows)
		}
		if err == nil {
			_, err = tx.Exec(ctx, sqlUnsetAll, cascade.ContextSet.String(), name)
		}
		return User{}, err
	})
}

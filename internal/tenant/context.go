package tenant

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Context is one tenant.
type Context struct {
	ID   int64
	Name string
	// Reseller is whose it is; "" is the operator's own.
	Reseller string
	// Tags are what context sets ask for: lower case, sorted.
	Tags []string
}

// maxTags bounds the tags of a context.
const maxTags = 64

const (
	sqlAddContext    = `INSERT INTO contexts (id, name, reseller, tags, created_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	sqlContexts      = `SELECT id, name, reseller, tags FROM contexts ORDER BY id`
	sqlContext       = `SELECT id, name, reseller, tags FROM contexts WHERE id = ?`
	sqlChangeContext = `UPDATE contexts SET name = ?, reseller = ?, tags = ? WHERE id = ?`
	sqlContextNamed  = `SELECT COUNT(*) FROM contexts WHERE name = ? AND id <> ?`
	sqlRemoveContext = `DELETE FROM contexts WHERE id = ?`
	sqlContextUsers  = `SELECT COUNT(*) FROM users WHERE context_id = ?`
)

// AddContext adds a context. With an id of 0 the next free one is given; the name defaults to
// "context <id>".
func (s *Store) AddContext(ctx context.Context, c Context) (Context, error) {
	if c.ID < 0 || c.ID > maxID {
		return Context{}, &InvalidError{"id", "must be from 1 to 4294967295"}
	}
	var added Context
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		added = c
		if err := takeID(ctx, tx, "context", &added.ID); err != nil {
			return User{}, err
		}
		if added.Name == "" {
			added.Name = "context " + strconv.FormatInt(added.ID, 10)
		}
		of := User{ID: UserID{Context: added.ID}}
		tags, err := added.check(ctx, tx)
		if err != nil {
			return of, err
		}
		n, err := tx.Exec(ctx, sqlAddContext, added.ID, added.Name, added.Reseller, tags, db.Millis(s.now()))
		if err == nil && n == 0 {
			err = fmt.Errorf("a context with id %d or name %q %w", added.ID, added.Name, ErrExists)
		}
		return of, err
	})
	return added, err
}

// check brings a context into its normal form, and returns its tags as the row keeps them.
func (c *Context) check(ctx context.Context, tx *db.Tx) (tags string, err error) {
	if err := checkName("name", c.Name); err != nil {
		return "", err
	}
	if c.Reseller != "" {
		if err := mustHaveReseller(ctx, tx, c.Reseller); err != nil {
			return "", err
		}
	}
	if len(c.Tags) > maxTags {
		return "", &InvalidError{"tags", fmt.Sprintf("must be at most %d", maxTags)}
	}
	all := make([]string, len(c.Tags))
	for i, tag := range c.Tags {
		if all[i], err = cascade.CheckTag(tag); err != nil {
			return "", &InvalidError{"tags", err.Error()}
		}
	}
	slices.Sort(all)
	c.Tags = slices.Compact(all)
	text, err := json.Marshal(c.Tags)
	return string(text), err
}

func scanContext(scan func(...any) error, c *Context) error {
	var tags string
	if err := scan(&c.ID, &c.Name, &c.Reseller, &tags); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(tags), &c.Tags); err != nil {
		return fmt.Errorf("read tags of context %d: %w", c.ID, err)
	}
	return nil
}

// Contexts lists all contexts by id.
func (s *Store) Contexts(ctx context.Context) ([]Context, error) {
	rows, err := s.db.Query(ctx, sqlContexts)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, c *Context) error { return scanContext(rows.Scan, c) })
}

// Context finds a context, or returns ErrNotFound.
func (s *Store) Context(ctx context.Context, id int64) (Context, error) {
	return contextFrom(id, s.db.QueryRow(ctx, sqlContext, id))
}

func contextFrom(id int64, row *sql.Row) (c Context, err error) {
	err = scanContext(row.Scan, &c)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("context %d %w", id, ErrNotFound)
	}
	return c, err
}

// ChangeContext changes name, reseller or tags of a context.
func (s *Store) ChangeContext(ctx context.Context, id int64, fn func(*Context) error) (c Context, err error) {
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		of := User{ID: UserID{Context: id}}
		var err error
		if c, err = contextFrom(id, tx.QueryRow(ctx, sqlContext, id)); err != nil {
			return of, err
		}
		if err := fn(&c); err != nil {
			return of, err
		}
		c.ID = id
		tags, err := c.check(ctx, tx)
		if err != nil {
			return of, err
		}
		var named int64
		if err := tx.QueryRow(ctx, sqlContextNamed, c.Name, id).Scan(&named); err != nil {
			return of, err
		}
		if named > 0 {
			return of, fmt.Errorf("a context with name %q %w", c.Name, ErrExists)
		}
		_, err = tx.Exec(ctx, sqlChangeContext, c.Name, c.Reseller, tags, id)
		return of, err
	})
	return c, err
}

// RemoveContext removes a context that has no users, and its values.
func (s *Store) RemoveContext(ctx context.Context, id int64) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		of := User{ID: UserID{Context: id}}
		var users int64
		if err := tx.QueryRow(ctx, sqlContextUsers, id).Scan(&users); err != nil {
			return of, err
		}
		if users > 0 {
			return of, fmt.Errorf("context %d is %w by %d users: remove them first", id, ErrInUse, users)
		}
		n, err := tx.Exec(ctx, sqlRemoveContext, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("context %d %w", id, ErrNotFound)
		}
		if err == nil {
			_, err = tx.Exec(ctx, sqlUnsetAll, cascade.Context.String(), strconv.FormatInt(id, 10))
		}
		return of, err
	})
}

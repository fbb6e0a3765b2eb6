package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// writer is SQLite's only writing connection and the statements prepared on it: most of what a small
// write costs is its parsing. It belongs to the goroutine of commitLoop.
type writer struct {
	pool  *sql.DB // of this one connection
	conn  *sql.Conn
	stmts map[string]*sql.Stmt // by query; our queries are constants, so the source bounds it
}

// begin starts a transaction, on a new connection when there is none.
func (w *writer) begin(ctx context.Context) error {
	if w.conn == nil {
		conn, err := w.pool.Conn(ctx)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		w.conn, w.stmts = conn, map[string]*sql.Stmt{}
	}
	if _, err := w.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		w.drop()
		return fmt.Errorf("begin: %w", err)
	}
	return nil
}

func (w *writer) commit(ctx context.Context) error {
	if _, err := w.ExecContext(ctx, "COMMIT"); err != nil {
		w.rollback(ctx)
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// rollback ends a transaction that is not to be kept. Some faults (disk full, I/O error) have ended it
// already: then the connection is left, whatever state it is in.
func (w *writer) rollback(ctx context.Context) {
	if _, err := w.ExecContext(ctx, "ROLLBACK"); err != nil {
		w.drop()
	}
}

// drop closes the connection; the next begin makes a new one.
func (w *writer) drop() {
	if w.conn == nil {
		return
	}
	for _, s := range w.stmts {
		_ = s.Close()
	}
	_ = w.conn.Close()
	w.conn, w.stmts = nil, nil
}

// alone runs a write that takes the whole group with it when it fails: undo says so.
func (w *writer) alone(ctx context.Context, tx *Tx, one *write) (undo bool, err error) {
	one.err = one.fn(ctx, tx)
	return one.err != nil, nil
}

// inSavepoint runs a write of which nothing is kept when it fails. The error is that of the transaction.
func (w *writer) inSavepoint(ctx context.Context, tx *Tx, one *write) (undo bool, err error) {
	if _, err := w.ExecContext(ctx, "SAVEPOINT w"); err != nil {
		return false, fmt.Errorf("savepoint: %w", err)
	}
	one.err = one.fn(ctx, tx)
	if one.err != nil {
		if _, err := w.ExecContext(ctx, "ROLLBACK TO w"); err != nil {
			return false, errors.Join(one.err, fmt.Errorf("roll back: %w", err))
		}
	}
	if _, err := w.ExecContext(ctx, "RELEASE w"); err != nil {
		return false, errors.Join(one.err, fmt.Errorf("release: %w", err))
	}
	return false, nil
}

func (w *writer) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := w.stmts[query]; s != nil {
		return s, nil
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err == nil {
		w.stmts[query] = s
	}
	return s, err
}

// ExecContext runs a prepared statement.
func (w *writer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := w.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext runs a prepared statement.
func (w *writer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := w.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

// QueryRowContext runs a prepared statement.
func (w *writer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := w.prepare(ctx, query)
	if err != nil {
		return w.conn.QueryRowContext(ctx, query, args...) // which fails in the same way
	}
	return s.QueryRowContext(ctx, args...)
}

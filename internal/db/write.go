package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxQueuedWrites bounds the writers' queue on SQLite. Beyond it a Write waits for room or for the
	// end of its context.
	maxQueuedWrites = 1024
	// maxGroup bounds how many writes share one commit, and so how long the first of them waits.
	maxGroup = 256
	// maxPostgresTries is how often a transaction that lost against another is tried in all.
	maxPostgresTries = 4
)

// Tx is a write in progress. It must not be used after the function it was given to has returned.
type Tx struct {
	db   *DB
	conn interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
}

// Exec runs a statement and returns how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := tx.conn.ExecContext(ctx, tx.db.prepared(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Query reads rows inside the write. They must be closed before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.conn.QueryContext(ctx, tx.db.prepared(query), args...)
}

// QueryRow reads one row inside the write.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.conn.QueryRowContext(ctx, tx.db.prepared(query), args...)
}

// Lock makes the rest of the write exclusive among writes that lock the same name. It is for rules over
// rows that may not exist yet, which no row lock can hold.
func (tx *Tx) Lock(ctx context.Context, name string) error {
	if !tx.db.postgres {
		return nil // one writer at a time
	}
	_, err := tx.conn.ExecContext(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
	return err
}

// A write is queued, then either taken by the writer or abandoned by its caller.
const (
	queued int32 = iota
	taken
	abandoned
)

type write struct {
	fn    func(context.Context, *Tx) error
	state atomic.Int32
	done  chan error
}

// Write runs fn in a transaction and returns nil once that is durable: committed and synced. When fn
// returns an error nothing of it is kept, and Write returns that error.
//
// fn must use the context it is given, not the caller's: on SQLite it shares a commit with other
// callers, who must not lose theirs when one of them goes away. fn may run more than once (a
// deadlock on PostgreSQL), so it must set, not add to, what it captures.
//
// When ctx ends while the write still waits for its turn, it is not done. Once fn has begun, Write
// waits for its end.
func (d *DB) Write(ctx context.Context, fn func(context.Context, *Tx) error) error {
	if d.postgres {
		return d.writePostgres(ctx, fn)
	}
	w := &write{fn: fn, done: make(chan error, 1)}
	select {
	case <-d.closing:
		return ErrClosed
	default:
	}
	select {
	case d.writes <- w:
	case <-d.closing:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("wait for the database: %w", context.Cause(ctx))
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		if w.state.CompareAndSwap(queued, abandoned) {
			return fmt.Errorf("wait for the database: %w", context.Cause(ctx))
		}
		return <-w.done
	}
}

// commitLoop is the writer goroutine: it takes what waits, runs it in one transaction, answers all.
func (d *DB) commitLoop() {
	// The writer outlives every caller's context; Close ends it through d.closing.
	ctx := context.Background()
	group := make([]*write, 0, maxGroup)
	for {
		group = group[:0]
		select {
		case w := <-d.writes:
			group = append(group, w)
		case <-d.closing:
			d.refuseQueued()
			return
		}
		for len(group) < maxGroup {
			select {
			case w := <-d.writes:
				group = append(group, w)
				continue
			default:
			}
			break
		}
		d.commitGroup(ctx, group)
	}
}

// refuseQueued answers the writes that raced with Close.
func (d *DB) refuseQueued() {
	for {
		select {
		case w := <-d.writes:
			w.done <- ErrClosed
		default:
			return
		}
	}
}

// commitGroup runs each write behind a savepoint of its own, so that one caller's error takes back
// only what that caller did, and commits once for all.
func (d *DB) commitGroup(ctx context.Context, group []*write) {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		answer(group, fmt.Errorf("begin: %w", err))
		return
	}
	kept := make([]*write, 0, len(group))
	for i, w := range group {
		if !w.state.CompareAndSwap(queued, taken) {
			continue
		}
		err := inSavepoint(ctx, tx, &Tx{db: d, conn: tx}, w.fn)
		var broken *brokenError
		switch {
		case err == nil:
			kept = append(kept, w)
		case errors.As(err, &broken):
			// The transaction itself is lost (disk full, I/O error): nobody's write can be kept.
			_ = tx.Rollback()
			answer(append(kept, group[i:]...), err)
			return
		default:
			w.done <- err
		}
	}
	if err := tx.Commit(); err != nil {
		_ = tx.Rollback()
		answer(kept, fmt.Errorf("commit: %w", err))
		return
	}
	answer(kept, nil)
}

// answer tells every caller that still listens. A write that was never taken is taken here.
func answer(group []*write, err error) {
	for _, w := range group {
		if w.state.Load() != abandoned {
			w.done <- err
		}
	}
}

// brokenError is a failure of the transaction, not of one write in it.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

func inSavepoint(ctx context.Context, tx *sql.Tx, wtx *Tx, fn func(context.Context, *Tx) error) error {
	if _, err := tx.ExecContext(ctx, "SAVEPOINT w"); err != nil {
		return &brokenError{fmt.Errorf("savepoint: %w", err)}
	}
	err := fn(ctx, wtx)
	if err != nil {
		if _, rerr := tx.ExecContext(ctx, "ROLLBACK TO w"); rerr != nil {
			return &brokenError{errors.Join(err, fmt.Errorf("roll back: %w", rerr))}
		}
	}
	if _, rerr := tx.ExecContext(ctx, "RELEASE w"); rerr != nil {
		return &brokenError{errors.Join(err, fmt.Errorf("release: %w", rerr))}
	}
	return err
}

func (d *DB) writePostgres(ctx context.Context, fn func(context.Context, *Tx) error) error {
	for try := 1; ; try++ {
		err := d.tryPostgres(ctx, fn)
		var pg *pgconn.PgError
		// 40001 serialization_failure and 40P01 deadlock_detected: the server asks for another try.
		// 23503 foreign_key_violation: the row we refer to went away since we read it; read again.
		if try < maxPostgresTries && errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "23503") {
			continue
		}
		return err
	}
}

func (d *DB) tryPostgres(ctx context.Context, fn func(context.Context, *Tx) error) error {
	tx, err := d.reads.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := fn(ctx, &Tx{db: d, conn: tx}); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

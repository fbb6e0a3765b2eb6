package db

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// maxQueuedWrites bounds the writers' queue on SQLite. Beyond it a Write waits for room or for the
	// end of its context.
	maxQueuedWrites = 1024
	// maxGroup bounds how many writes share one commit, and so how long the first of them waits.
	maxGroup = 256
	// gatherFrom is how large a group makes the next one wait for more, for gatherFor.
	gatherFrom, gatherFor = 8, 500 * time.Microsecond
	// maxPostgresTries is how often a transaction that lost against another is tried in all.
	maxPostgresTries = 4
	// commitTimeout bounds a COMMIT on PostgreSQL, which no caller's context does.
	commitTimeout = 10 * time.Second
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
	err   error      // what fn said; the writer's own until it answers
	done  chan error // with room for the one answer
}

// Write runs fn in a transaction and returns nil once that is durable: committed and synced. When fn
// returns an error nothing of it is kept, and Write returns that error.
//
// fn must use the context it is given, not the caller's: on SQLite it shares a commit with other
// callers, who must not lose theirs when one of them goes away. fn may run more than once (a
// deadlock on PostgreSQL), so it must set, not add to, what it captures.
//
// When ctx ends while the write still waits for its turn, it is not done. Once fn has begun, Write
// waits for its end on SQLite; on PostgreSQL the end of ctx ends fn, but not a COMMIT under way.
func (d *DB) Write(ctx context.Context, fn func(context.Context, *Tx) error) error {
	select {
	case <-d.closing:
		return ErrClosed
	case <-ctx.Done(): // it could win against the queue below
		return fmt.Errorf("wait for the database: %w", context.Cause(ctx))
	default:
	}
	if d.postgres {
		return d.writePostgres(ctx, fn)
	}
	w := &write{fn: fn, done: make(chan error, 1)}
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
	case <-d.stopped:
		select {
		case err := <-w.done:
			return err
		default: // queued when the writer had looked for the last time
			return ErrClosed
		}
	case <-ctx.Done():
		if w.state.CompareAndSwap(queued, abandoned) {
			return fmt.Errorf("wait for the database: %w", context.Cause(ctx))
		}
		return <-w.done
	}
}

// commitLoop is the writer goroutine: it takes what waits, runs it in one transaction, answers all.
func (d *DB) commitLoop(ctx context.Context) {
	defer close(d.stopped)
	group := make([]*write, 0, maxGroup)
	for w := d.next(); w != nil; w = d.next() {
		group = d.gather(append(group[:0], w), len(group))
		err := d.commitGroup(ctx, group)
		for _, w := range group {
			// Without a commit nobody's fn has said anything that holds: it may have seen another's write.
			if err != nil {
				w.err = err
			}
			w.done <- w.err
		}
		clear(group) // what the writes captured is not to wait for the next ones
	}
}

// gather adds what waits to a group. When the group before was large, its callers are about to come back: then
// it waits a moment for more, since each commit costs the same however many share it.
func (d *DB) gather(group []*write, before int) []*write {
	var more <-chan time.Time
	if before >= gatherFrom {
		more = time.After(gatherFor)
	}
	for len(group) < maxGroup {
		select {
		case w := <-d.writes:
			group = append(group, w)
			continue
		default:
		}
		if more == nil || len(group) >= 2*before {
			break
		}
		select {
		case w := <-d.writes:
			group = append(group, w)
		case <-more:
			more = nil
		case <-d.closing:
			more = nil
		}
	}
	return group
}

// next waits for a write. It returns nil after Close, once what was queued before is done.
func (d *DB) next() *write {
	select {
	case w := <-d.writes:
		return w
	case <-d.closing:
	}
	select {
	case w := <-d.writes:
		return w
	default:
		return nil
	}
}

// commitGroup runs each write of a group and commits once for all. After an error nobody's write is kept.
//
// Most groups hold no write that fails, so the first attempt goes without savepoints, which cost as much as
// a small write. When one does fail, all begin again, each behind a savepoint of its own, so that one
// caller's error takes back only what that caller did.
//
// Until the transaction has begun, which can take as long as another process holds the file's lock, callers
// may still give up.
func (d *DB) commitGroup(ctx context.Context, group []*write) error {
	failed, err := d.tryGroup(ctx, group, d.writer.alone)
	if failed {
		_, err = d.tryGroup(ctx, group, d.writer.inSavepoint)
	}
	return err
}

// tryGroup runs a group with a way to run one write. failed says that a write failed where the way cannot
// take back one alone: nothing is kept.
func (d *DB) tryGroup(ctx context.Context, group []*write, way func(context.Context, *Tx, *write) (undo bool, err error)) (failed bool, err error) {
	if err := d.writer.begin(ctx); err != nil {
		return false, err
	}
	tx := &Tx{db: d, conn: d.writer}
	for _, w := range group {
		if w.state.CompareAndSwap(queued, taken); w.state.Load() == abandoned {
			continue
		}
		undo, err := way(ctx, tx, w)
		if undo || err != nil {
			d.writer.rollback(ctx)
			return undo && len(group) > 1, err
		}
	}
	return false, d.writer.commit(ctx)
}

func (d *DB) writePostgres(ctx context.Context, fn func(context.Context, *Tx) error) error {
	select {
	case d.writing <- struct{}{}:
		defer func() { <-d.writing }()
	case <-ctx.Done():
		return fmt.Errorf("begin: %w", context.Cause(ctx))
	}
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
	// The transaction ends with ctx until it comes to the COMMIT: nobody could say whether one that was
	// interrupted is done.
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	detach := context.AfterFunc(ctx, end)
	defer detach()
	tx, err := d.reads.BeginTx(own, nil)
	// Callers who gave up leave broken connections behind, more at times than database/sql tries in turn.
	for try := 1; errors.Is(err, driver.ErrBadConn) && own.Err() == nil && try < maxPostgresTries; try++ {
		tx, err = d.reads.BeginTx(own, nil)
	}
	if err != nil {
		return fmt.Errorf("begin: %w", cmp.Or(context.Cause(ctx), err))
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := fn(ctx, &Tx{db: d, conn: tx}); err != nil {
		return err
	}
	if !detach() {
		return fmt.Errorf("commit: %w", context.Cause(ctx))
	}
	limit := time.AfterFunc(commitTimeout, end)
	defer limit.Stop()
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

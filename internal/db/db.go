// Package db opens SQLite or PostgreSQL and gives both one face: portable SQL with "?" placeholders,
// durable writes, migrations.
//
// It owns no table and no query of the trade: those live with the package that owns the rows. Nothing
// above can ask which engine it runs on. Portable SQL here means BIGINT and TEXT columns, integer
// milliseconds from Go's clock, INSERT … ON CONFLICT … RETURNING, and no vendor function.
//
// Concurrency: a DB is safe for concurrent use. On SQLite one goroutine owns the only writing
// connection and commits many callers' writes together (group commit, one fsync); reads run beside
// it on their own connections. On PostgreSQL each write is a transaction of its own.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers "pgx"
	_ "modernc.org/sqlite"             // registers "sqlite"
)

// ErrClosed is returned by writes after Close.
var ErrClosed = errors.New("database is closed")

// DB is an open database.
type DB struct {
	reads    *sql.DB
	postgres bool
	trace    func(query string)
	rebound  sync.Map // query with "?" -> query with "$n"

	closing chan struct{} // closed by Close, the first time
	close   func() error

	writing chan struct{} // PostgreSQL only: holds an entry for each transaction

	// SQLite only: the queue of the writer goroutine, its end, and the connection pool it owns.
	writes  chan *write
	stopped chan struct{}
	writer  *writer
	stmts   sync.Map // query -> *sql.Stmt of reads
}

// Options are the rarely used knobs of Open.
type Options struct {
	// Trace, when set, sees every query before it runs. It must be safe for concurrent use.
	Trace func(query string)
}

// Open opens the database that url names, "postgres://…" or "sqlite:PATH", and brings its schema up
// to date.
func Open(ctx context.Context, url string, opts Options) (*DB, error) {
	d := &DB{trace: opts.Trace, closing: make(chan struct{})}
	d.close = sync.OnceValue(d.closeOnce)
	var err error
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		err = d.openSQLite(ctx, path)
	} else if strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://") {
		err = d.openPostgres(ctx, url)
	} else {
		return nil, errors.New("database url begins with neither sqlite: nor postgres://")
	}
	if err != nil {
		return nil, err
	}
	if err := d.migrate(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *DB) openSQLite(ctx context.Context, path string) error {
	// The file holds sealed credentials: made before SQLite would make it with the process's umask.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator names this path
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	// An absolute path means nothing else in a URI, whatever its first characters are.
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	dsn := "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)"
	pool, err := sql.Open("sqlite", dsn+"&_pragma=cache_size(-4096)")
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	pool.SetMaxOpenConns(1)
	if err := pool.PingContext(ctx); err != nil {
		return errors.Join(fmt.Errorf("open database %s: %w", path, err), pool.Close())
	}
	if d.reads, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)&_pragma=cache_size(-1024)"); err != nil {
		return errors.Join(fmt.Errorf("open database: %w", err), pool.Close())
	}
	d.writer = &writer{pool: pool}
	d.reads.SetMaxOpenConns(4)
	d.reads.SetMaxIdleConns(4)
	d.writes = make(chan *write, maxQueuedWrites)
	d.stopped = make(chan struct{})
	// It outlives every caller; Close ends it through d.closing, and waits through d.stopped.
	go d.commitLoop(context.WithoutCancel(ctx))
	return nil
}

const (
	// maxPostgres bounds our connections to PostgreSQL, maxPostgresWriters those that hold a transaction. Who writes may
	// read beside his transaction, as caches do that are asked within one: if all connections were writers', none would
	// ever get the second one.
	maxPostgres, maxPostgresWriters = 16, 12
)

func (d *DB) openPostgres(ctx context.Context, url string) error {
	d.postgres = true
	var err error
	if d.reads, err = sql.Open("pgx", url); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	d.reads.SetMaxOpenConns(maxPostgres)
	d.reads.SetMaxIdleConns(maxPostgres)
	d.writing = make(chan struct{}, maxPostgresWriters)
	d.reads.SetConnMaxLifetime(time.Hour)
	if err := d.reads.PingContext(ctx); err != nil {
		// pgx repeats the connection parameters but not the password in its errors.
		return errors.Join(fmt.Errorf("connect to PostgreSQL: %w", err), d.reads.Close())
	}
	return nil
}

// Close waits for the writes that were queued before it and closes every connection. It may be called
// more than once.
func (d *DB) Close() error { return d.close() }

func (d *DB) closeOnce() error {
	close(d.closing)
	if d.postgres {
		return d.reads.Close()
	}
	<-d.stopped
	d.writer.drop()
	d.stmts.Range(func(_, s any) bool { return s.(*sql.Stmt).Close() == nil })
	return errors.Join(d.writer.pool.Close(), d.reads.Close())
}

// Ping asks whether the database answers.
func (d *DB) Ping(ctx context.Context) error { return d.reads.PingContext(ctx) }

// Query reads rows outside a write.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	query = d.prepared(query)
	if s := d.statement(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return d.reads.QueryContext(ctx, query, args...)
}

// QueryRow reads one row outside a write; its Scan returns sql.ErrNoRows when there is none.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	query = d.prepared(query)
	if s := d.statement(ctx, query); s != nil {
		// A row of a file that no writer blocks is there sooner than the goroutines that would watch the context.
		return s.QueryRowContext(context.WithoutCancel(ctx), args...)
	}
	return d.reads.QueryRowContext(ctx, query, args...)
}

// statement is a query that SQLite has parsed before; nil on PostgreSQL, whose driver keeps its own, and for
// a query that does not parse.
func (d *DB) statement(ctx context.Context, query string) *sql.Stmt {
	if d.postgres {
		return nil
	}
	if s, ok := d.stmts.Load(query); ok {
		return s.(*sql.Stmt)
	}
	s, err := d.reads.PrepareContext(ctx, query)
	if err != nil {
		return nil // said by whoever runs it
	}
	if first, loaded := d.stmts.LoadOrStore(query, s); loaded {
		_ = s.Close()
		return first.(*sql.Stmt)
	}
	return s
}

// prepared traces the query and gives it the engine's placeholders.
func (d *DB) prepared(query string) string {
	if d.trace != nil {
		d.trace(query)
	}
	if !d.postgres {
		return query
	}
	if q, ok := d.rebound.Load(query); ok {
		return q.(string)
	}
	q := rebind(query)
	d.rebound.Store(query, q)
	return q
}

// rebind turns each "?" outside quotes into $1, $2, … Queries are constants of ours, so the cache of
// rebound ones is bounded by the source.
func rebind(query string) string {
	var b strings.Builder
	n, quoted := 0, false
	for i := range len(query) {
		switch c := query[i]; {
		case c == '?' && !quoted:
			n++
			b.WriteString("$" + strconv.Itoa(n))
		default:
			quoted = quoted != (c == '\'')
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Millis is t as the integer that columns named *_ms hold: milliseconds since 1970, 0 for the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the inverse of Millis, in UTC.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

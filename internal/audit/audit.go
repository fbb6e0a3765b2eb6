// Package audit keeps who signed in and who changed what, and lists it.
//
// It is written by the faces, who know the actor and the address. Entries name users by their id and hold no secret
// and nothing of a mail; a login that nobody has is not in them, since people type their passwords there.
//
// A Log is safe for concurrent use. Write never waits: what it takes goes into a bounded queue, from which Run, the one
// writer, commits in batches. A process that is killed loses what is still in there.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// Entry is one line of the log.
type Entry struct {
	ID string // sorts by time; made by Write
	At time.Time
	// Actor is who did it: "user 3@1", "cli", "key <id> (reseller north)", "unknown".
	Actor string
	// Act is what was done: "sign_in", "device.revoke", "property.set".
	Act string
	// Subject is to whom or what: "3@1", a name.
	Subject string
	// Context is the one concerned, 0 for none.
	Context int64
	// Address is where the request came from.
	Address string
	// Outcome is OK, Refused or Failed.
	Outcome string
	// Detail says more, in words.
	Detail string
}

// What became of an act.
const (
	OK      = "ok"
	Refused = "refused"
	Failed  = "failed" // neither yes nor no
)

const (
	maxQueued = 10_000
	maxBatch  = 200
	maxText   = 500 // bytes of each text
	// retryEvery is how long a batch waits that could not be written.
	retryEvery = time.Second
	// pruneEvery is how often what is old is looked for.
	pruneEvery = time.Hour
	// settleWait is how long a listing waits for what was written before it.
	settleWait = time.Second
	// lastWords bounds what is written at the end.
	lastWords = 5 * time.Second
)

// Config is what a Log is made of. Every field is needed.
type Config struct {
	DB      *db.DB
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
	// Keep is how long entries are kept.
	Keep time.Duration
}

// item is an entry, or, with written, somebody who waits for those before him.
type item struct {
	Entry
	written chan struct{}
}

// Log is the audit log.
type Log struct {
	Config
	queue   chan *item // pointers: an empty queue is to cost little
	made    atomic.Uint32
	dropped prometheus.Counter
	silent  atomic.Int64 // until when, in ms, no word is said of dropped entries
}

// New returns a Log, which writes while Run runs.
func New(c Config) (*Log, error) {
	l := &Log{
		Config: c, queue: make(chan *item, maxQueued),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "posthorn_audit_dropped_total",
			Help: "Entries of the audit log that were lost, because the database did not take them in time.",
		}),
	}
	if err := c.Metrics.Register(l.dropped); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return l, nil
}

// Write takes an entry; At is now unless it is set. It fails nobody: what there is no room for is counted.
func (l *Log) Write(ctx context.Context, e Entry) {
	if e.At.IsZero() {
		e.At = l.Now()
	}
	for _, text := range []*string{&e.Actor, &e.Act, &e.Subject, &e.Address, &e.Outcome, &e.Detail} {
		*text = oneLine(*text)
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	e.ID = idAt(e.At) + fmt.Sprintf("%04x", l.made.Add(1)&0xffff) + hex.EncodeToString(random[:])
	select {
	case l.queue <- &item{Entry: e}:
	default:
		l.lose(ctx, 1)
	}
}

// oneLine makes of what others may have said a text that every database takes, or it would hold up all that follows, and
// that looks like nothing else where it is shown.
func oneLine(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
		for len(text) > maxText-utf8.UTFMax { // not through a character
			if r, size := utf8.DecodeLastRuneInString(text); r != utf8.RuneError || size > 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return '?'
		}
		return r
	}, text)
}

// idAt is the beginning of every id of a moment, and sorts before them.
func idAt(t time.Time) string { return fmt.Sprintf("%012x", max(0, db.Millis(t))) }

// lose counts entries that are lost, and says so once a minute.
func (l *Log) lose(ctx context.Context, n int) {
	l.dropped.Add(float64(n))
	now, until := db.Millis(l.Now()), l.silent.Load()
	if now >= until && l.silent.CompareAndSwap(until, now+time.Minute.Milliseconds()) {
		l.Log.ErrorContext(ctx, "the audit log loses entries: the database does not take them in time")
	}
}

const (
	sqlAdd = `INSERT INTO audit (id, at_ms, actor, act, subject, context_id, address, outcome, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`
	// In parts, so that no other write waits for long.
	sqlPrune = `DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < ? ORDER BY at_ms LIMIT 1000)`
)

// Run writes what comes in, and removes what is old, until ctx ends; then it writes what is left.
func (l *Log) Run(ctx context.Context) error {
	prune := time.NewTimer(0)
	defer prune.Stop()
	for {
		select {
		case next := <-l.queue:
			l.commit(ctx, next)
		case <-prune.C:
			l.prune(ctx)
			prune.Reset(pruneEvery)
		case <-ctx.Done():
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
			defer cancel()
			for {
				select {
				case next := <-l.queue:
					l.commit(ending, next)
				default:
					return nil
				}
			}
		}
	}
}

// commit writes an entry together with what follows it in the queue, as often as it takes.
func (l *Log) commit(ctx context.Context, next *item) {
	var batch []Entry
	for more := true; more && next.written == nil; {
		if batch = append(batch, next.Entry); len(batch) == maxBatch {
			break
		}
		select {
		case next = <-l.queue:
		default:
			more = false
		}
	}
	if len(batch) > 0 {
		l.write(ctx, batch)
	}
	if next.written != nil {
		close(next.written)
	}
}

// write writes a batch, or counts it as lost when ctx ends.
func (l *Log) write(ctx context.Context, batch []Entry) {
	for said := false; ; said = true {
		err := l.DB.Write(context.WithoutCancel(ctx), func(ctx context.Context, tx *db.Tx) error {
			for _, e := range batch {
				if _, err := tx.Exec(ctx, sqlAdd, e.ID, db.Millis(e.At), e.Actor, e.Act, e.Subject, e.Context, e.Address, e.Outcome, e.Detail); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			return
		}
		if !said {
			l.Log.ErrorContext(ctx, "cannot write the audit log: it is tried again", slog.Any("err", err))
		}
		retry := time.NewTimer(retryEvery)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			l.lose(ctx, len(batch))
			return
		}
	}
}

// settle waits until what is in the queue is written, for a moment.
func (l *Log) settle(ctx context.Context) {
	written := make(chan struct{})
	select {
	case l.queue <- &item{written: written}:
	default:
		return
	}
	enough := time.NewTimer(settleWait)
	defer enough.Stop()
	select {
	case <-written:
	case <-enough.C:
	case <-ctx.Done():
	}
}

func (l *Log) prune(ctx context.Context) {
	for {
		var n int64
		err := l.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
			n, err = tx.Exec(ctx, sqlPrune, db.Millis(l.Now().Add(-l.Keep)))
			return err
		})
		if err != nil && ctx.Err() == nil {
			l.Log.ErrorContext(ctx, "cannot remove old entries of the audit log", slog.Any("err", err))
		}
		if err != nil || n < 1000 {
			return
		}
	}
}

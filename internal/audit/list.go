package audit

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// Query says which entries are wanted. The zero value wants all.
type Query struct {
	// Context wants those of one context, and Contexts those of any of these; nil is no condition, and an empty one is
	// none of them.
	Context  int64
	Contexts []int64
	// Subject and Act want those that are equal. An Act that ends with a dot wants all that begin with it.
	Subject, Act string
	// Since and Until bound the time; Until itself is not in it.
	Since, Until time.Time
	// Limit bounds how many are answered; 0 is 100.
	Limit int
	// After goes on where an earlier answer ended.
	After string
}

const maxLimit = 1000

const sqlList = `SELECT id, at_ms, actor, act, subject, context_id, address, outcome, detail FROM audit
	WHERE id < ? AND id >= ?
	AND (CAST(? AS BIGINT) = 0 OR context_id = ?)
	AND (CAST(? AS TEXT) = '*' OR CAST(? AS TEXT) LIKE '%,' || CAST(context_id AS TEXT) || ',%')
	AND (CAST(? AS TEXT) = '' OR subject = ?)
	AND (CAST(? AS TEXT) = '' OR act = ? OR SUBSTR(act, 1, ?) = ?)
	ORDER BY id DESC LIMIT ?`

// List returns entries, newest first, and where to go on, "" at the end. What was written before is there, if the
// database takes it; what other nodes wrote in the last moments may be missing.
func (l *Log) List(ctx context.Context, q Query) (all []Entry, next string, err error) {
	l.settle(ctx)
	for _, text := range []*string{&q.Act, &q.Subject, &q.After} {
		*text = oneLine(*text) // as it was written
	}
	limit := min(q.Limit, maxLimit)
	if limit <= 0 {
		limit = 100
	}
	before, from := "g", "" // ids are hexadecimal
	if !q.Until.IsZero() {
		before = idAt(q.Until)
	}
	if q.After != "" {
		before = min(before, q.After)
	}
	if !q.Since.IsZero() {
		from = idAt(q.Since)
	}
	group := 0 // how long a prefix is; SUBSTR gives '' for 0, which is no act
	if strings.HasSuffix(q.Act, ".") {
		group = len(q.Act)
	}
	contexts := contextList(q.Contexts)
	rows, err := l.DB.Query(ctx, sqlList, before, from, q.Context, q.Context, contexts, contexts, q.Subject, q.Subject,
		q.Act, q.Act, group, q.Act, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list the audit log: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e Entry
		var at int64
		if err := rows.Scan(&e.ID, &at, &e.Actor, &e.Act, &e.Subject, &e.Context, &e.Address, &e.Outcome, &e.Detail); err != nil {
			return nil, "", fmt.Errorf("list the audit log: %w", err)
		}
		e.At = db.Time(at)
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list the audit log: %w", err)
	}
	if len(all) > limit {
		all = all[:limit]
		next = all[limit-1].ID
	}
	return all, next, nil
}

// contextList is how a query is told of many contexts: ",1,2,", or "*" for any.
func contextList(contexts []int64) string {
	if contexts == nil {
		return "*"
	}
	var b strings.Builder
	b.WriteByte(',')
	for _, c := range contexts {
		b.WriteString(strconv.FormatInt(c, 10))
		b.WriteByte(',')
	}
	return b.String()
}

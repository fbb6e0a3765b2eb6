package tenant

import (
	"context"
	"database/sql"
)

const sqlContextIDsOf = `SELECT id FROM contexts WHERE reseller = ? ORDER BY id`

// ContextIDsOf lists the contexts of a reseller.
func (s *Store) ContextIDsOf(ctx context.Context, reseller string) ([]int64, error) {
	rows, err := s.db.Query(ctx, sqlContextIDsOf, reseller)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, id *int64) error { return rows.Scan(id) })
}

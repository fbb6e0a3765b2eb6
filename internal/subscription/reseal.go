package subscription

import (
	"context"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
)

const (
	sqlSealed    = `SELECT id, transport, token_hash, token, device_key FROM subscriptions WHERE id > ? ORDER BY id LIMIT 200`
	sqlSetSealed = `UPDATE subscriptions SET token = ?, device_key = ? WHERE id = ? AND token = ? AND device_key = ?`
	sqlCountAll  = `SELECT COUNT(*) FROM subscriptions`
)

// Sealed counts the subscriptions; each has a token.
func (s *Store) Sealed(ctx context.Context) (n int, err error) {
	return n, s.db.QueryRow(ctx, sqlCountAll).Scan(&n)
}

// Reseal seals tokens and device keys of the next subscriptions anew with the key that seals now. It returns where
// to go on, "" at the end. What is renewed meanwhile is sealed with that key anyway.
func (s *Store) Reseal(ctx context.Context, after string) (next string, m seal.Moved, err error) {
	type row struct{ id, transport, hash, token, key string }
	err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		next, m = "", seal.Moved{}
		rows, err := tx.Query(ctx, sqlSealed, after)
		if err != nil {
			return err
		}
		defer rows.Close()
		var all []row
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.id, &r.transport, &r.hash, &r.token, &r.key); err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, r := range all {
			next = r.id
			var keyed seal.Moved // counted with its token
			token, changed := s.keys.Move(&m, tokenOwner(r.transport, r.hash), r.token)
			key, also := r.key, false
			if r.key != "" {
				key, also = s.keys.Move(&keyed, keysOwner(r.transport, r.hash), r.key)
				m.Lost = append(m.Lost, keyed.Lost...)
			}
			if !changed && !also {
				continue
			}
			if _, err := tx.Exec(ctx, sqlSetSealed, token, key, r.id, r.token, r.key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", seal.Moved{}, fmt.Errorf("seal subscriptions anew: %w", err)
	}
	return next, m, nil
}

package subscription

import (
	"context"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	sqlDeviceHashes = `SELECT id, device_hash FROM subscriptions WHERE context_id = ? AND user_id = ?`
	sqlRemoveUsers  = `DELETE FROM subscriptions WHERE context_id = ? AND user_id = ?`
)

// DeviceHashes says of each subscription of a user, by its id, the hash of the device secret it was made with.
func (s *Store) DeviceHashes(ctx context.Context, u tenant.UserID) (map[string]string, error) {
	rows, err := s.db.Query(ctx, sqlDeviceHashes, u.Context, u.ID)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var id, hash string
		if err := rows.Scan(&id, &hash); err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		all[id] = hash
	}
	return all, rows.Err()
}

// UnsubscribeUser removes all subscriptions of a user.
func (s *Store) UnsubscribeUser(ctx context.Context, u tenant.UserID) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) ([]tenant.UserID, error) {
		_, err := tx.Exec(ctx, sqlRemoveUsers, u.Context, u.ID)
		return []tenant.UserID{u}, err
	})
}

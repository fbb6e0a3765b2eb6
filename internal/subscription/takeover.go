package subscription

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Old is a subscription that another system had.
type Old struct {
	User    tenant.UserID
	Client  string
	Token   Token
	Created time.Time
	// Renewed is when the device last gave this token; a provider's word that it is gone since an earlier time does
	// not end it.
	Renewed time.Time
	Expires time.Time // zero: never
}

// mostDevices is the largest push.max_subscriptions.
const mostDevices = 100

// takenOver begins what stands for the hash of the device secret, as long as the device has not been here: no hash is
// this, and each device has its own.
const takenOver = "taken over "

const (
	sqlHasDevice = `SELECT COUNT(*) FROM subscriptions WHERE transport = ? AND token_hash = ?`
	sqlTakeOver  = `INSERT INTO subscriptions (id, context_id, user_id, client, transport, token_hash, token, target, device_hash,
		topics, created_ms, renewed_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

// TakeOver adds subscriptions to new mail in one transaction, with the listeners that they want. The users must be
// there. Of a device that is known already nothing is changed, for what is known of it is newer; of users who have too
// many devices the rest is left out. It returns how many were added.
func (s *Store) TakeOver(ctx context.Context, all []Old) (added int, err error) {
	type sealed struct{ hash, token string }
	tokens := make([]sealed, len(all))
	for i, o := range all {
		if err := account.CheckClient(o.Client); err != nil {
			return 0, err
		}
		hash := hashIdentity(o.Token)
		tokens[i] = sealed{hash, s.keys.Seal(tokenOwner(o.Token.Transport, hash), o.Token.Body)}
	}
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) (users []tenant.UserID, err error) {
		added = 0
		seen := map[tenant.UserID]bool{}
		for i, o := range all {
			var had, devices int64
			transport, hash := o.Token.Transport, tokens[i].hash
			if err := tx.QueryRow(ctx, sqlHasDevice, transport, hash).Scan(&had); err != nil {
				return nil, err
			}
			if err := tx.QueryRow(ctx, sqlCountDevices, o.User.Context, o.User.ID, transport, hash).Scan(&devices); err != nil {
				return nil, err
			}
			if had > 0 || devices >= mostDevices {
				continue
			}
			_, err := tx.Exec(ctx, sqlTakeOver, idOf(transport, hash, o.User), o.User.Context, o.User.ID, o.Client, transport, hash, tokens[i].token,
				o.Token.Target, takenOver+hash, usualTopics, db.Millis(o.Created), db.Millis(o.Renewed), db.Millis(o.Expires))
			if err != nil {
				return nil, fmt.Errorf("take over a subscription of %s: %w", o.User, err)
			}
			added++
			if !seen[o.User] {
				seen[o.User] = true
				users = append(users, o.User)
			}
		}
		return users, nil
	})
	return added, err
}

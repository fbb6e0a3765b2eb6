package account

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Device is what a user has signed in on, by its device secret.
type Device struct {
	ID   string // may be shown; DeviceID of Hash
	Hash string // Session.Device
	// Name, Client and Address are those of the session used last.
	Name, Client, Address string
	LastUsed              time.Time
	Sessions              []Session // oldest first
}

// DeviceID is what the owner of a device calls it by: its hash is for us.
func DeviceID(hash string) string { return hashOf("device-id", hash)[:sessionIDLength] }

// Devices lists the devices on which a user has sessions, the one used last first.
func (s *Service) Devices(ctx context.Context, id tenant.UserID) ([]Device, error) {
	sessions, err := s.Sessions(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []Device
	for _, sess := range sessions {
		i := slices.IndexFunc(all, func(d Device) bool { return d.Hash == sess.Device })
		if i < 0 {
			i = len(all)
			all = append(all, Device{ID: DeviceID(sess.Device), Hash: sess.Device})
		}
		d := &all[i]
		d.Sessions = append(d.Sessions, sess)
		if !sess.LastUsed.Before(d.LastUsed) {
			d.Name, d.Client, d.Address, d.LastUsed = cmp.Or(sess.DeviceName, d.Name), sess.Client, sess.Address, sess.LastUsed
		}
	}
	slices.SortStableFunc(all, func(a, b Device) int { return b.LastUsed.Compare(a.LastUsed) })
	return all, nil
}

const (
	sqlRevokeDevice = `DELETE FROM sessions WHERE context_id = ? AND user_id = ? AND device_hash = ? RETURNING ` + sessionColumns
	sqlRevokeUser   = `DELETE FROM sessions WHERE context_id = ? AND user_id = ? RETURNING ` + sessionColumns
)

// RevokeDevice ends the sessions of a user on a device, named by its hash, and returns them. The caller ends what the
// device had subscribed to.
func (s *Service) RevokeDevice(ctx context.Context, id tenant.UserID, hash string) ([]Session, error) {
	return s.revoke(ctx, sqlRevokeDevice, id.Context, id.ID, hash)
}

// SignOutEverywhere ends all sessions of a user, and returns them. The caller ends what he had subscribed to.
func (s *Service) SignOutEverywhere(ctx context.Context, id tenant.UserID) ([]Session, error) {
	return s.revoke(ctx, sqlRevokeUser, id.Context, id.ID)
}

func (s *Service) revoke(ctx context.Context, query string, args ...any) (ended []Session, err error) {
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		ended = nil
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var sess Session
			if err := scanSession(rows.Scan, &sess); err != nil {
				return err
			}
			ended = append(ended, sess)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("end sessions: %w", err)
	}
	return ended, nil
}

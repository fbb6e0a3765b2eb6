package account

import (
	"context"
	"fmt"
	"strconv"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

//nolint:gosec // G101: queries, no credentials
const (
	sqlCredentialsAfter = `SELECT context_id, user_id, sealed FROM credentials
		WHERE context_id > ? OR context_id = ? AND user_id > ? ORDER BY context_id, user_id LIMIT 200`
	sqlSetCredential    = `UPDATE credentials SET sealed = ? WHERE context_id = ? AND user_id = ? AND sealed = ?`
	sqlCountCredentials = `SELECT COUNT(*) FROM credentials`
	sqlTokensAfter      = `SELECT context_id, user_id, sealed FROM refresh_tokens
		WHERE context_id > ? OR context_id = ? AND user_id > ? ORDER BY context_id, user_id LIMIT 200`
	sqlSetToken     = `UPDATE refresh_tokens SET sealed = ? WHERE context_id = ? AND user_id = ? AND sealed = ?`
	sqlCountTokens  = `SELECT COUNT(*) FROM refresh_tokens`
	sqlSetSealCheck = `UPDATE seal_check SET sealed = ? WHERE id = 1 AND sealed = ?`
)

// Sealed counts what is kept of users.
func (s *Service) Sealed(ctx context.Context) (int, error) {
	var inPasswords, inTokens int
	if err := s.DB.QueryRow(ctx, sqlCountCredentials).Scan(&inPasswords); err != nil {
		return 0, err
	}
	if err := s.DB.QueryRow(ctx, sqlCountTokens).Scan(&inTokens); err != nil {
		return 0, err
	}
	n := inPasswords + inTokens
	if s.Store == StoreMemory {
		n += s.Memory.Len()
	}
	return n, nil
}

// ResealPasswords seals the next passwords in the database anew with the key that seals now. It returns where to
// go on, "" at the end. What a sign-in brings meanwhile is sealed with that key anyway.
func (s *Service) ResealPasswords(ctx context.Context, after string) (string, seal.Moved, error) {
	return s.reseal(ctx, passwords, sqlCredentialsAfter, sqlSetCredential, after)
}

// ResealTokens does the same with refresh tokens.
func (s *Service) ResealTokens(ctx context.Context, after string) (string, seal.Moved, error) {
	return s.reseal(ctx, tokens, sqlTokensAfter, sqlSetToken, after)
}

func (s *Service) reseal(ctx context.Context, k kind, sqlAfter, sqlSet, after string) (next string, m seal.Moved, err error) {
	from, _ := tenant.ParseUserID(after) // none: the beginning
	type row struct {
		user   tenant.UserID
		sealed string
	}
	err = s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		next, m = "", seal.Moved{}
		rows, err := tx.Query(ctx, sqlAfter, from.Context, from.Context, from.ID)
		if err != nil {
			return err
		}
		defer rows.Close()
		var all []row
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.user.Context, &r.user.ID, &r.sealed); err != nil {
				return err
			}
			all = append(all, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, r := range all {
			next = r.user.String()
			fresh, changed := s.Keys.Move(&m, k.owner(r.user), r.sealed)
			if !changed {
				continue
			}
			if _, err := tx.Exec(ctx, sqlSet, fresh, r.user.Context, r.user.ID, r.sealed); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", seal.Moved{}, fmt.Errorf("seal credentials anew: %w", err)
	}
	return next, m, nil
}

// memoryBatch is how many entries of the cluster memory one call seals anew, and so tells the other nodes of.
const memoryBatch = 200

// ResealMemory does the same with the cluster memory, for all nodes.
func (s *Service) ResealMemory(_ context.Context, after string) (next string, m seal.Moved, err error) {
	if s.Store != StoreMemory {
		return "", m, nil
	}
	part, _ := strconv.Atoi(after) // none: the beginning
	for ; part < bus.MemoryParts && m.Seen < memoryBatch; part++ {
		for owner, sealed := range s.Memory.Part(part) {
			fresh, changed := s.Keys.Move(&m, owner, sealed)
			if !changed {
				continue
			}
			if _, err := s.Memory.Replace(owner, sealed, fresh); err != nil {
				return "", seal.Moved{}, fmt.Errorf("seal the cluster memory anew: %w", err)
			}
		}
	}
	if part >= bus.MemoryParts {
		return "", m, nil
	}
	return strconv.Itoa(part), m, nil
}

// ResealCheck has CheckKey ask for the key that seals now. It comes after all else is sealed with that.
func (s *Service) ResealCheck(ctx context.Context) error {
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		var sealed string
		if err := tx.QueryRow(ctx, sqlSealCheck).Scan(&sealed); err != nil {
			return err
		}
		fresh, changed, err := s.Keys.Reseal(sealCheckOwner, sealed)
		if err != nil || !changed {
			return err
		}
		_, err = tx.Exec(ctx, sqlSetSealCheck, fresh, sealed)
		return err
	})
	if err != nil {
		return fmt.Errorf("seal the key's check anew: %w", err)
	}
	return nil
}

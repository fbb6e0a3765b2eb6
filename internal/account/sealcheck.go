package account

import (
	"context"
	"errors"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
)

// ErrWrongKey means that the seal key is not the one this database was sealed with.
var ErrWrongKey = errors.New("the seal key is not the one that this database was sealed with: put back the credentials.passphrase, or the seal.key, " +
	"that belongs to it, or every stored password and token is lost; while the one of before is still needed, credentials.old_passphrases names it")

const (
	sqlPutSealCheck = `INSERT INTO seal_check (id, sealed) VALUES (1, ?) ON CONFLICT (id) DO NOTHING`
	sqlSealCheck    = `SELECT sealed FROM seal_check WHERE id = 1`
)

// sealCheckOwner is whom the check value is sealed for.
const sealCheckOwner = "seal-check"

// CheckKey returns ErrWrongKey when the database was sealed with another key: a server that went on
// would answer every sign-in with a fresh row beside rows that nobody can open any more.
func (s *Service) CheckKey(ctx context.Context) error {
	return s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, sqlPutSealCheck, s.Keys.Seal(sealCheckOwner, nil)); err != nil {
			return err
		}
		var sealed string
		if err := tx.QueryRow(ctx, sqlSealCheck).Scan(&sealed); err != nil {
			return err
		}
		if _, err := s.Keys.Open(sealCheckOwner, sealed); err != nil {
			return ErrWrongKey
		}
		return nil
	})
}

const (
	sqlPutSalt = `INSERT INTO seal_salt (id, salt) VALUES (1, ?) ON CONFLICT (id) DO NOTHING`
	sqlSalt    = `SELECT salt FROM seal_salt WHERE id = 1`
)

// Salt is what passphrases become keys with: made once, the same for all servers on the database.
func Salt(ctx context.Context, d *db.DB) (salt string, err error) {
	err = d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, sqlPutSalt, seal.NewSalt()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sqlSalt).Scan(&salt)
	})
	if err != nil {
		return "", fmt.Errorf("read the salt of the seal key: %w", err)
	}
	return salt, nil
}

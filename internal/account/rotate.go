package account

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
)

const (
	// rotationGrace is for how long the token before a rotation is good in any case: for requests under way. It is
	// also the least time between two rotations.
	rotationGrace = time.Minute
	// lostAfter is how long the answer to a rotation may be on its way before it is given once more. Who asked twice at
	// once would else hold two tokens, and be taken for two when he uses the wrong one.
	lostAfter = 10 * time.Second
	// tokenLength and familyLength are in bytes. The family, 96 random bits after the prefix, is in all tokens that a
	// session has had; the other 160 are each one's own.
	tokenLength  = len(tokenPrefix) + 43
	familyLength = len(tokenPrefix) + 16
)

// StolenError says that a session was ended, because two hold tokens of it: the one who rotated, and the one who
// came with a token from before that. Which of them is the owner, nobody can tell.
type StolenError struct {
	Ended Session
	// Last is as with Revoke.
	Last bool
}

func (e *StolenError) Error() string {
	return "the token was replaced by another one: the session is ended"
}

// Unwrap makes it an ErrNoSession.
func (e *StolenError) Unwrap() error { return ErrNoSession }

const (
	sqlRotate = `UPDATE sessions SET old_hash = token_hash, token_hash = ?, family_hash = ?, rotated_ms = ?, confirmed_ms = 0
		WHERE token_hash = ? AND expires_ms > ? AND rotated_ms <= ? RETURNING ` + sessionColumns
	// The answer to the rotation before was lost on its way.
	sqlRotateAgain = `UPDATE sessions SET token_hash = ?, rotated_ms = ? WHERE family_hash = ? AND old_hash = ? AND confirmed_ms = 0
		AND expires_ms > ? AND rotated_ms <= ? RETURNING ` + sessionColumns
	sqlSessionByFamily = `SELECT ` + sessionColumns + `, old_hash, rotated_ms, confirmed_ms FROM sessions WHERE family_hash = ? AND expires_ms > ?`
	sqlConfirm         = `UPDATE sessions SET confirmed_ms = ? WHERE id = ? AND confirmed_ms = 0`
)

// Rotate gives a session a new token. The old one is good for rotationGrace, and until the new one is first used, so that it
// can be asked for again after lostAfter; who comes with it later ends the session. Errors are ErrNoSession, in a *StolenError too, and *TooManyError.
func (s *Service) Rotate(ctx context.Context, token string) (Session, string, error) {
	if len(token) != tokenLength {
		return Session{}, "", ErrNoSession
	}
	next, _ := newToken()
	next = token[:familyLength] + next[familyLength:]
	family, hash, nextHash := hashOf("family", token[:familyLength]), hashOf("token", token), hashOf("token", next)
	now := s.Now()
	var sess Session
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		err := scanSession(tx.QueryRow(ctx, sqlRotate, nextHash, family, db.Millis(now), hash, db.Millis(now), db.Millis(now.Add(-rotationGrace))).Scan, &sess)
		if errors.Is(err, sql.ErrNoRows) {
			err = scanSession(tx.QueryRow(ctx, sqlRotateAgain, nextHash, db.Millis(now), family, hash, db.Millis(now), db.Millis(now.Add(-lostAfter))).Scan, &sess)
		}
		return err
	})
	switch {
	case errors.Is(err, sql.ErrNoRows): // too soon, or not good, or stolen
		if _, err := s.Authenticate(ctx, token); err != nil {
			return Session{}, "", err
		}
		var old string
		var rotated, confirmed int64
		err := scanSession(s.DB.QueryRow(ctx, sqlSessionByFamily, family, db.Millis(now)).Scan, &sess, &old, &rotated, &confirmed)
		if err == nil && old == hash { // asked for twice
			return Session{}, "", &TooManyError{RetryAfter: lostAfter}
		}
		return Session{}, "", &TooManyError{RetryAfter: rotationGrace}
	case err != nil:
		return Session{}, "", fmt.Errorf("rotate token: %w", err)
	}
	return sess, next, nil
}

// byOldToken finds the session that a token was of before its rotation, or ends it.
func (s *Service) byOldToken(ctx context.Context, token string) (Session, error) {
	if len(token) != tokenLength {
		return Session{}, ErrNoSession
	}
	now := s.Now()
	var sess Session
	var old string
	var rotated, confirmed int64
	err := scanSession(s.DB.QueryRow(ctx, sqlSessionByFamily, hashOf("family", token[:familyLength]), db.Millis(now)).Scan, &sess, &old, &rotated, &confirmed)
	if errors.Is(err, sql.ErrNoRows) {
		return Session{}, ErrNoSession
	} else if err != nil {
		return Session{}, fmt.Errorf("find session: %w", err)
	}
	before := subtle.ConstantTimeCompare([]byte(old), []byte(hashOf("token", token))) == 1
	if before && (confirmed == 0 || now.Before(db.Time(rotated).Add(rotationGrace))) {
		return sess, nil
	}
	ended, last, err := s.Revoke(ctx, sess.User, sess.ID)
	if err != nil {
		return Session{}, err
	}
	return Session{}, &StolenError{Ended: ended, Last: last}
}

// confirm notes that a rotated token has arrived at the device.
func (s *Service) confirm(ctx context.Context, session string) {
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlConfirm, db.Millis(s.Now()), session)
		return err
	})
	if err != nil { // the old token is good for longer
		s.Log.WarnContext(ctx, "cannot note the use of a session", slog.Any("err", err))
	}
}

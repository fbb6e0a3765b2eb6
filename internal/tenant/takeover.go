package tenant

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// Refusal says why a user was not taken over.
type Refusal struct {
	User   UserID
	Reason string
}

// TakeOver adds users with the ids that they had in the system before, in one transaction: those who are there
// already as they are counted as had. Who cannot be added is named in refused, with the reason; the others are.
func (s *Store) TakeOver(ctx context.Context, users []User) (added, had int, refused []Refusal, err error) {
	err = s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		added, had, refused = 0, 0, nil
		highest := map[int64]int64{} // by context
		for _, u := range users {
			err := CheckLogin(u.Login)
			if err == nil && (u.ID.ID < 1 || u.ID.ID > maxID) {
				err = &InvalidError{"user", "the id must be from 1 to 4294967295"}
			}
			if err != nil {
				refused = append(refused, Refusal{u.ID, err.Error()})
				continue
			}
			n, err := tx.Exec(ctx, sqlAddUser, u.ID.Context, u.ID.ID, u.Login, loginKey(u.Login), u.MailHost, db.Millis(s.now()))
			if err != nil {
				return User{}, fmt.Errorf("add user %s: %w", u.ID, err)
			}
			highest[u.ID.Context] = max(highest[u.ID.Context], u.ID.ID)
			if n > 0 {
				added++
				continue
			}
			var there User
			err = tx.QueryRow(ctx, sqlUser, u.ID.Context, u.ID.ID).Scan(&there.ID.Context, &there.ID.ID, &there.Login, &there.MailHost)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				refused = append(refused, Refusal{u.ID, fmt.Sprintf("its login at %s is another user's", u.MailHost)})
			case err != nil:
				return User{}, err
			case loginKey(there.Login) == loginKey(u.Login) && there.MailHost == u.MailHost:
				had++
			default:
				refused = append(refused, Refusal{u.ID, "there is such a user already, with another login or mail host"})
			}
		}
		for _, c := range slices.SortedFunc(maps.Keys(highest), cmp.Compare) {
			if _, err := tx.Exec(ctx, sqlRaiseID, userSequence(c), highest[c]); err != nil {
				return User{}, err
			}
		}
		return User{}, nil // all is forgotten
	})
	return added, had, refused, err
}

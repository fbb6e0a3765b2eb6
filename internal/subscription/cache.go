package subscription

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// maxCached bounds the users in the cache.
const maxCached = 10240

// For finds the live subscriptions of a user that want a topic, or may want it by a rule for folders, and
// whose client may have pushes. A change by
// another node, of which the bus lost the word, can stay unseen for 5 s. Tokens come without their body.
// The result is the caller's.
func (s *Store) For(ctx context.Context, u tenant.UserID, topic string) ([]Subscription, error) {
	now := s.now()
	subs, err := s.cached(ctx, u, now)
	if err != nil || len(subs) == 0 {
		return nil, err
	}
	v, err := s.view(ctx, u)
	if err != nil {
		return nil, err
	}
	var wanting []Subscription
	for _, sub := range subs {
		named := slices.Contains(sub.Topics, topic) || sub.Policy != nil && len(sub.Policy.Folders) > 0
		if named && live(v, sub, now) {
			sub.Policy = quieted(sub.Policy, v)
			wanting = append(wanting, sub)
		}
	}
	return wanting, nil
}

// Folders lists the folders that the live subscriptions of a user name, by a topic or by a rule without a
// wildcard, but for the INBOX. A folder may come twice. The answer is not kept: for that, see Watch.
func (s *Store) Folders(ctx context.Context, u tenant.UserID) (folders []string, err error) {
	now := s.now()
	subs, err := s.ByUser(ctx, u)
	if err != nil {
		return nil, err
	}
	v, err := s.view(ctx, u)
	if err != nil {
		return nil, err
	}
	for _, sub := range subs {
		if !live(v, sub, now) {
			continue
		}
		for _, topic := range sub.Topics {
			if folder, ok := strings.CutPrefix(topic, TopicNewMail+":"); ok {
				folders = append(folders, folder)
			}
		}
		if sub.Policy == nil {
			continue
		}
		for _, rule := range sub.Policy.Folders {
			if rule.Notify != Nothing && !strings.Contains(rule.Folder, "*") {
				folders = append(folders, rule.Folder)
			}
		}
	}
	return folders, nil
}

// live reports whether a subscription may have pushes now.
func live(v *cascade.View, sub Subscription, now time.Time) bool {
	return (sub.Expires.IsZero() || sub.Expires.After(now)) && allowed(v, sub.Client)
}

// cached are all subscriptions of a user. They belong to the cache.
func (s *Store) cached(ctx context.Context, u tenant.UserID, now time.Time) ([]Subscription, error) {
	if err := s.ledger.Check(ctx, now); err != nil {
		return nil, fmt.Errorf("look for changes of subscriptions: %w", err)
	}
	subs, ok, changes := s.cache.Get(u)
	if !ok {
		var err error
		if subs, err = s.ByUser(ctx, u); err != nil {
			return nil, err
		}
		s.cache.Put(u, subs, changes)
	}
	return subs, nil
}

const (
	sqlNextChange = `INSERT INTO changes (name, last) VALUES ('subscription', 1)
		ON CONFLICT (name) DO UPDATE SET last = changes.last + 1 RETURNING last`
	sqlLastChange = `SELECT COALESCE(MAX(last), 0) FROM changes WHERE name = 'subscription'`
)

func (s *Store) lastChange(ctx context.Context) (n int64, err error) {
	return n, s.db.QueryRow(ctx, sqlLastChange).Scan(&n)
}

// A Change is one of users' subscriptions, with its number. Committed is called once it is.
type Change struct {
	users []tenant.UserID
	n     int64
}

// next counts a change, inside its write. It comes last: until the commit, no other change is counted.
func next(ctx context.Context, tx *db.Tx, users ...tenant.UserID) (Change, error) {
	c := Change{users: users}
	return c, tx.QueryRow(ctx, sqlNextChange).Scan(&c.n)
}

// Committed has every node forget what it knew of the users.
func (s *Store) Committed(c Change) {
	for _, u := range c.users {
		s.cache.Drop(u)
	}
	if len(c.users) > 0 {
		s.watch(c.users)
	}
	if c.n == 0 {
		return
	}
	s.ledger.Heard(c.n)
	if s.bus == nil {
		return
	}
	names := make([]string, len(c.users))
	for i, u := range c.users {
		names[i] = u.String()
	}
	// Unsent, it heals by the ledger; the bus counts it.
	_ = s.bus.Publish(changedSubject(), []byte(strconv.FormatInt(c.n, 10)+" "+strings.Join(names, " ")))
}

// change writes a change of users' subscriptions: fn's, and with it the listeners they want.
func (s *Store) change(ctx context.Context, fn func(context.Context, *db.Tx) ([]tenant.UserID, error)) error {
	var c Change
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		users, err := fn(ctx, tx)
		c = Change{users: users}
		if err != nil || len(users) == 0 {
			return err
		}
		if err := s.refreshListeners(ctx, tx, users); err != nil {
			return err
		}
		c, err = next(ctx, tx, users...)
		return err
	})
	if err != nil {
		c.n = 0 // a COMMIT whose answer was lost may have happened: then it is a number that nobody heard of
	}
	s.Committed(c)
	return err
}

// changedSubject is where nodes tell each other whose subscriptions have changed: "7 3@1 4@1", the number first.
func changedSubject() bus.Subject { return bus.NewSubject("subscription.changed") }

// Join tells the other nodes of our changes from now on, and hears of theirs until the returned
// subscription is closed. It comes before the store is used concurrently.
func (s *Store) Join(ctx context.Context, b *bus.Bus, log *slog.Logger) (*bus.Subscription, error) {
	s.bus = b
	return b.Subscribe(ctx, changedSubject(), func(ctx context.Context, m bus.Message) {
		number, names, _ := strings.Cut(string(m.Data), " ")
		n, err := strconv.ParseInt(number, 10, 64)
		var users []tenant.UserID
		for name := range strings.FieldsSeq(names) {
			u, wrong := tenant.ParseUserID(name)
			if err = errors.Join(err, wrong); wrong == nil {
				s.cache.Drop(u)
				users = append(users, u)
			}
		}
		if len(users) > 0 {
			s.watch(users)
		}
		if err != nil {
			log.WarnContext(ctx, "bus message names no change of subscriptions", slog.Any("err", err))
			return
		}
		s.ledger.Heard(n)
	}, func(context.Context) { s.forget() })
}

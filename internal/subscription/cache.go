package subscription

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// cacheLife bounds how long a change made by another node can stay unseen when the bus lost the word of
	// it. Our own changes are seen at once.
	cacheLife = 4 * time.Second
	// maxCached bounds the users in the cache. Beyond it, it is emptied: with entries that die in
	// seconds, choosing among them is not worth a line.
	maxCached = 16384
)

// cache holds users' subscriptions, without the token, for the way of an event. What it has missed is
// harmless: push puts no slot for a subscription that is gone.
type cache struct {
	mu sync.Mutex // guards all; held for map operations only
	// changes counts invalidations, so that a look-up that raced with one is not kept.
	changes uint64
	byUser  map[tenant.UserID]cached
}

type cached struct {
	subs []Subscription
	at   time.Time
}

func (c *cache) get(u tenant.UserID, now time.Time) (subs []Subscription, ok bool, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byUser[u]
	if ok && now.Sub(e.at) >= cacheLife {
		delete(c.byUser, u)
		ok = false
	}
	return e.subs, ok, c.changes
}

func (c *cache) put(u tenant.UserID, subs []Subscription, now time.Time, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return
	}
	if len(c.byUser) >= maxCached {
		clear(c.byUser)
	}
	c.byUser[u] = cached{subs, now}
}

func (c *cache) drop(users ...tenant.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for _, u := range users {
		delete(c.byUser, u)
	}
}

func (c *cache) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	clear(c.byUser)
}

// For finds the live subscriptions of a user that want a topic and whose client may have pushes, as of
// at most cacheLife ago. Tokens come without their body. The result is the caller's.
func (s *Store) For(ctx context.Context, u tenant.UserID, topic string) ([]Subscription, error) {
	now := s.now()
	subs, ok, changes := s.cache.get(u, now)
	if !ok {
		var err error
		if subs, err = s.ByUser(ctx, u); err != nil {
			return nil, err
		}
		s.cache.put(u, subs, now, changes)
	}
	var wanting []Subscription
	for _, sub := range subs {
		expired := !sub.Expires.IsZero() && !sub.Expires.After(now)
		if !expired && slices.Contains(sub.Topics, topic) && s.allowed(sub.Client) {
			wanting = append(wanting, sub)
		}
	}
	return wanting, nil
}

// changedSubject is where nodes tell each other whose subscriptions have changed.
func changedSubject() bus.Subject { return bus.NewSubject("subscription.changed") }

// change writes a change of users' subscriptions: fn's, and with it the listeners they want. Then every
// node forgets what it knew of them.
func (s *Store) change(ctx context.Context, fn func(context.Context, *db.Tx) ([]tenant.UserID, error)) error {
	var users []tenant.UserID
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		var err error
		if users, err = fn(ctx, tx); err != nil {
			return err
		}
		return s.refreshListeners(ctx, tx, users)
	})
	// Also after an error: a COMMIT whose answer was lost may have happened.
	s.cache.drop(users...)
	if s.bus != nil {
		for _, u := range users {
			_ = s.bus.Publish(changedSubject(), []byte(u.String())) // unsent, it heals by cacheLife; the bus counts it
		}
	}
	return err
}

// Join tells the other nodes of our changes from now on, and hears of theirs until the returned
// subscription is closed. It comes before the store is used concurrently.
func (s *Store) Join(ctx context.Context, b *bus.Bus, log *slog.Logger) (*bus.Subscription, error) {
	s.bus = b
	return b.Subscribe(ctx, changedSubject(), func(ctx context.Context, m bus.Message) {
		u, err := tenant.ParseUserID(string(m.Data))
		if err != nil {
			log.WarnContext(ctx, "bus message is not a user", slog.Any("err", err))
			return
		}
		s.cache.drop(u)
	}, func(context.Context) { s.cache.dropAll() })
}

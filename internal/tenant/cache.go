package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

const (
	// maxCached bounds the entries of each cache.
	maxCached = 10240
	// lookUpTimeout is how long who speaks may wait to be known: Dovecot gives up after 2 s.
	lookUpTimeout = 1500 * time.Millisecond
)

// cache is what a notification asks: who speaks, and whom he means.
type cache struct {
	speakers *bus.Cache[string, hostRow]    // by notify login; without a hash when there is none
	logins   *bus.Cache[string, []resident] // by loginKey
	users    *bus.Cache[UserID, []resident] // one or none
	hosts    *bus.Cache[string, *home]      // by name; nil when there is none

	// What the cascade says, each made of those before it, so they are dropped in this order.
	base     *bus.Cache[struct{}, *cascade.Base]
	contexts *bus.Cache[int64, *cascade.View]
	views    *bus.Cache[UserID, *cascade.View]
	// providers is one entry: there are few, and each look-up is by another of their names.
	providers *bus.Cache[struct{}, *providerTable]
	ledger    *bus.Ledger
}

// resident is a user and where he lives.
type resident struct {
	User
	host *home
}

// home is a mail host as it is remembered: with its secrets, or with why they cannot be opened, which is no
// concern of a notification.
type home struct {
	MailHost
	damaged error
}

func newCache(last func(context.Context) (int64, error), forget func()) cache {
	c := cache{
		speakers: bus.NewCache[string, hostRow](maxCached),
		logins:   bus.NewCache[string, []resident](maxCached),
		users:    bus.NewCache[UserID, []resident](maxCached),
		hosts:    bus.NewCache[string, *home](maxCached),
		base:     bus.NewCache[struct{}, *cascade.Base](1),
		contexts: bus.NewCache[int64, *cascade.View](maxCached),
		views:    bus.NewCache[UserID, *cascade.View](maxCached),

		providers: bus.NewCache[struct{}, *providerTable](1),
	}
	c.ledger = bus.NewLedger(last, forget)
	return c
}

func (c *cache) forget() {
	c.speakers.DropAll()
	c.logins.DropAll()
	c.users.DropAll()
	c.hosts.DropAll()
	c.forgetViews()
}

// forgetViews drops what the cascade says.
func (c *cache) forgetViews() {
	c.base.DropAll()
	c.contexts.DropAll()
	c.views.DropAll()
	c.providers.DropAll()
}

// forget drops everything: mail hosts have changed, or something was missed.
func (s *Store) forget() {
	s.cache.forget()
	s.tell(UserID{})
}

// Watch has f called when something may have changed, here or on another node: a user or what the cascade says for him;
// with 0 for his id, all of a context; with the zero UserID mail hosts, providers, or what the cascade says for many. f
// must not wait, nor call Watch.
func (s *Store) Watch(f func(UserID)) {
	s.watching.Lock()
	defer s.watching.Unlock()
	s.watchers = append(s.watchers, f)
}

func (s *Store) tell(id UserID) {
	s.watching.Lock()
	defer s.watching.Unlock()
	for _, f := range s.watchers {
		f(id)
	}
}

// check comes before any of the caches is used.
func (s *Store) check(ctx context.Context) error {
	if err := s.cache.ledger.Check(ctx, s.now()); err != nil {
		return fmt.Errorf("look for changes of users and mail hosts: %w", err)
	}
	return nil
}

// speaker finds the mail host with a notify login.
func (s *Store) speaker(ctx context.Context, login string) (h hostRow, known bool, err error) {
	if err := s.check(ctx); err != nil {
		return hostRow{}, false, err
	}
	h, ok, changes := s.cache.speakers.Get(login)
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
		defer cancel()
		err := scanHost(s.db.QueryRow(ctx, sqlMailHostByNotifier, login).Scan, &h)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return hostRow{}, false, fmt.Errorf("find notify credential: %w", err)
		}
		s.cache.speakers.Put(login, h, changes)
	}
	return h, h.Name != "", nil
}

// residentsByLogin finds the users with a login.
func (s *Store) residentsByLogin(ctx context.Context, login string) ([]resident, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	key := loginKey(login)
	all, ok, changes := s.cache.logins.Get(key)
	if ok {
		return all, nil
	}
	users, err := s.UsersByLogin(ctx, login)
	if err == nil {
		all, err = s.atHome(ctx, users...)
	}
	if err != nil {
		return nil, fmt.Errorf("find user by login: %w", err)
	}
	s.cache.logins.Put(key, all, changes)
	return all, nil
}

// residentByID finds the user with an id, in a list of one or none.
func (s *Store) residentByID(ctx context.Context, id UserID) ([]resident, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	all, ok, changes := s.cache.users.Get(id)
	if ok {
		return all, nil
	}
	u, err := s.User(ctx, id)
	if err == nil {
		all, err = s.atHome(ctx, u)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("find user: %w", err)
	}
	s.cache.users.Put(id, all, changes)
	return all, nil
}

// atHome adds their mail hosts to users. One whose host is not there, any more, is left out.
func (s *Store) atHome(ctx context.Context, users ...User) ([]resident, error) {
	var all []resident
	for _, u := range users {
		h, err := s.host(ctx, u.MailHost)
		if err != nil {
			return nil, fmt.Errorf("find mail host: %w", err)
		}
		if h != nil {
			all = append(all, resident{u, h})
		}
	}
	return all, nil
}

// host finds a mail host, or nil. It comes after check.
func (s *Store) host(ctx context.Context, name string) (*home, error) {
	h, ok, changes := s.cache.hosts.Get(name)
	if ok {
		return h, nil
	}
	var row hostRow
	err := scanHost(s.db.QueryRow(ctx, sqlMailHost, name).Scan, &row)
	if err == nil {
		damaged := s.openSecrets(&row)
		h = &home{row.MailHost, damaged}
	} else if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	s.cache.hosts.Put(name, h, changes)
	return h, nil
}

const (
	sqlNextChange = `INSERT INTO changes (name, last) VALUES ('tenant', 1)
		ON CONFLICT (name) DO UPDATE SET last = changes.last + 1 RETURNING last`
	sqlLastChange = `SELECT COALESCE(MAX(last), 0) FROM changes WHERE name = 'tenant'`
)

func (s *Store) lastChange(ctx context.Context) (n int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	return n, s.db.QueryRow(ctx, sqlLastChange).Scan(&n)
}

// change writes a change of the one user that fn returns, of his context when he has no id, or, without either, of
// what more depends on; then every node forgets what it knew of them.
func (s *Store) change(ctx context.Context, fn func(context.Context, *db.Tx) (User, error)) error {
	var u User
	var n int64
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if u, err = fn(ctx, tx); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sqlNextChange).Scan(&n) // last: until the commit, no other change is counted
	})
	s.changed(u.ID, loginKey(u.Login)) // also after an error: a COMMIT whose answer was lost may have happened
	if err != nil {
		return err
	}
	s.cache.ledger.Heard(n)
	if s.bus != nil { // unsent, it heals by the ledger; the bus counts it
		_ = s.bus.Publish(changedSubject(), fmt.Appendf(nil, "%d %s %s", n, u.ID, loginKey(u.Login)))
	}
	return nil
}

// manyUsers, in place of a login, says that users have come who may be remembered as missing.
const manyUsers = "*"

// changed forgets a user, what the cascade says for a context, or without either everything: mail hosts change rarely.
func (s *Store) changed(id UserID, key string) {
	switch {
	case id == (UserID{}):
		s.forget()
	case id.ID == 0 && key == manyUsers:
		s.cache.logins.DropAll()
		s.cache.users.DropAll()
	case id.ID == 0:
		s.cache.contexts.Drop(id.Context)
		s.cache.views.DropAll()
		s.tell(id)
	default:
		s.cache.logins.Drop(key)
		s.cache.users.Drop(id)
		s.cache.views.Drop(id)
		s.tell(id)
	}
}

// changedSubject is where nodes tell each other of changes: "7 3@1 ann@example.org", the number first, and
// "8 0@1 " when it is of a context, and "9 0@0 " when it is of mail hosts and what else concerns many.
func changedSubject() bus.Subject { return bus.NewSubject("tenant.changed") }

// Join tells the other nodes of our changes from now on, and hears of theirs until the bus is closed. It
// comes before the store is used concurrently.
func (s *Store) Join(ctx context.Context, b *bus.Bus, log *slog.Logger) error {
	s.bus = b
	_, err := b.Subscribe(ctx, changedSubject(), func(ctx context.Context, m bus.Message) {
		number, rest, _ := strings.Cut(string(m.Data), " ")
		name, key, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			log.WarnContext(ctx, "bus message names no change of users", slog.Any("err", err))
			return
		}
		u, err := ParseUserID(name)
		if inContext, ok := strings.CutPrefix(name, "0@"); err != nil && ok {
			u.Context, _ = parseID(inContext)
		} // none: everything
		s.changed(u, key)
		s.cache.ledger.Heard(n)
	}, func(context.Context) { s.forget() })
	return err
}

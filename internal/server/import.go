package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/original"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Imported counts what Import has added, and what was there already.
type Imported struct {
	MailHosts     int `json:"mail_hosts"`
	Contexts      int `json:"contexts"`
	Users         int `json:"users"`
	Properties    int `json:"properties"`
	Subscriptions int `json:"subscriptions"`
	// Had is how many of all of them were there as they are; they are left alone.
	Had int `json:"had"`
	// Refused says in a sentence each what could not be added. There may be more than are named.
	Refused []string `json:"refused"`
}

// ImportOptions are the rarely used knobs of Import. The zero value works.
type ImportOptions struct {
	// Progress hears how far it is.
	Progress func(done, total int)
	// TraceQuery sees every database query, for tests of the queries themselves.
	TraceQuery func(query string)
}

// maxRefused bounds what Imported names.
const maxRefused = 1000

func (i *Imported) refuse(format string, args ...any) {
	if len(i.Refused) < maxRefused {
		i.Refused = append(i.Refused, fmt.Sprintf(format, args...))
	}
}

// importBatch is how many rows are one transaction.
const importBatch = 500

// importer is one call of Import.
type importer struct {
	tenants  *tenant.Store
	subs     *subscription.Store
	progress func(done, total int)
	done     int
	total    int

	noHost map[string]bool // refused mail hosts

	mu        sync.Mutex // guards all below, while contexts and properties are added side by side
	out       Imported
	noContext map[uint32]bool // refused contexts
}

// Import writes the rows of a plan into the database of a configuration, with no server on its state directory. What
// is there already stays as it is, so that it may be called again.
func Import(ctx context.Context, cfg *config.Config, plan *original.Plan, opts ImportOptions) (out Imported, err error) {
	st, err := openState(cfg)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	d, err := db.Open(ctx, cfg.DatabaseURL().Reveal(), db.Options{Trace: opts.TraceQuery})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	salt, err := account.Salt(ctx, d)
	if err != nil {
		return out, err
	}
	if err := st.openKeys(cfg, salt); err != nil {
		return out, err
	}
	now := time.Now
	tenants, err := tenant.New(d, st.keys, tenant.NotifyCredential{
		Login: cfg.Internal.Notify.Login, Hash: tenant.HashPassword(st.notifyPassword), UserForm: cfg.Internal.Notify.UserForm,
	}, now)
	if err != nil {
		return out, err
	}
	accounts := account.New(account.Config{
		DB: d, Keys: st.keys, Tenants: tenants, Log: slog.New(slog.DiscardHandler), Now: now,
		AttemptsPerLogin: cfg.SignIn.AttemptsPerLogin, AttemptsPerAddress: cfg.SignIn.AttemptsPerAddress, Window: time.Duration(cfg.SignIn.Window),
	})
	if err := accounts.CheckKey(ctx); err != nil {
		return out, err
	}
	properties, problems := readProperties(cfg, "")
	if len(problems) > 0 {
		return out, problems
	}
	if err := tenants.SetFiles(properties); err != nil { // they say which clients may have a listener
		return out, err
	}
	i := &importer{
		noHost: map[string]bool{}, noContext: map[uint32]bool{}, tenants: tenants, subs: subscription.New(d, st.keys, tenants.View, now),
		progress: opts.Progress,
	}
	if i.progress == nil {
		i.progress = func(int, int) {}
	}
	i.total = len(plan.MailHosts) + len(plan.Contexts) + len(plan.Users) + len(plan.Values) + plan.Report.Made.Subscriptions
	err = i.run(ctx, plan)
	return i.out, err
}

func (i *importer) run(ctx context.Context, plan *original.Plan) error {
	i.out.Refused = []string{}
	for _, h := range plan.MailHosts {
		if err := i.mailHost(ctx, h); err != nil {
			return err
		}
	}
	if err := sideBySide(ctx, plan.Contexts, i.context); err != nil {
		return err
	}
	refused, err := i.users(ctx, plan.Users)
	if err != nil {
		return err
	}
	if err := sideBySide(ctx, plan.Values, i.value); err != nil {
		return err
	}
	return i.subscriptions(ctx, plan, refused)
}

// sideBySide calls add for all: writes that come together are committed together.
func sideBySide[T any](ctx context.Context, all []T, add func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for _, v := range all {
		group.Go(func() error { return add(ctx, v) })
	}
	return group.Wait()
}

// counted puts one row into the account: added, had or refused.
func (i *importer) counted(n *int, what string, err error) (refused bool, failed error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var invalid *tenant.InvalidError
	switch {
	case err == nil:
		*n++
	case errors.Is(err, tenant.ErrExists):
		i.out.Had++
	case errors.As(err, &invalid), errors.Is(err, tenant.ErrNotFound):
		i.out.refuse("%s: %v", what, err)
		refused = true
	default:
		return false, fmt.Errorf("import %s: %w", what, err)
	}
	i.done++
	i.progress(i.done, i.total)
	return refused, nil
}

func (i *importer) mailHost(ctx context.Context, h original.MailHost) error {
	host := tenant.MailHost{
		Name: h.Name, IMAPHost: h.Host, IMAPPort: h.Port, Security: h.Security, Source: h.Source, DoveadmURL: h.DoveadmURL,
		DoveadmKey: tenant.Secret(h.DoveadmKey.Reveal()), MasterLogin: h.MasterLogin, MasterPassword: tenant.Secret(h.MasterPassword.Reveal()),
	}
	if h.MasterLogin != "" {
		host.PasswordSource = tenant.PasswordsGlobal
	}
	refused, err := i.counted(&i.out.MailHosts, "mail host "+h.Name, i.tenants.AddMailHost(ctx, host, ""))
	i.noHost[h.Name] = refused
	return err
}

func (i *importer) context(ctx context.Context, c original.Context) error {
	var err error
	for _, name := range []string{c.Name, "", fmt.Sprintf("imported context %d", c.ID)} {
		_, err = i.tenants.AddContext(ctx, tenant.Context{ID: int64(c.ID), Name: name, Tags: c.Tags})
		if !errors.Is(err, tenant.ErrExists) {
			break
		}
		// Perhaps it is the name that is there already; the id is what matters.
		if _, missing := i.tenants.Context(ctx, int64(c.ID)); !errors.Is(missing, tenant.ErrNotFound) {
			break
		}
	}
	refused, err := i.counted(&i.out.Contexts, fmt.Sprintf("context %d", c.ID), err)
	if refused {
		i.mu.Lock()
		i.noContext[c.ID] = true
		i.mu.Unlock()
	}
	return err
}

// users adds users, and returns those who are not the ones that are there.
func (i *importer) users(ctx context.Context, all []original.User) (map[tenant.UserID]bool, error) {
	missing := map[tenant.UserID]bool{}
	for batch := range slices.Chunk(all, importBatch) {
		users := make([]tenant.User, 0, len(batch))
		for _, u := range batch {
			if i.noHost[u.MailHost] || i.noContext[u.ID.Context] {
				missing[userID(u.ID)] = true
				i.out.refuse("user %s: the mail host or the context was refused", u.ID)
				continue
			}
			users = append(users, tenant.User{ID: userID(u.ID), Login: u.Login, MailHost: u.MailHost})
		}
		added, had, refused, err := i.tenants.TakeOver(ctx, users)
		if err != nil {
			return nil, fmt.Errorf("import users: %w", err)
		}
		for _, r := range refused {
			missing[r.User] = true
			i.out.refuse("user %s: %s", r.User, r.Reason)
		}
		i.out.Users, i.out.Had = i.out.Users+added, i.out.Had+had
		i.done += len(batch)
		i.progress(i.done, i.total)
	}
	return missing, nil
}

func userID(u original.UserID) tenant.UserID {
	return tenant.UserID{Context: int64(u.Context), ID: int64(u.User)}
}

func (i *importer) value(ctx context.Context, v original.Value) error {
	of := tenant.Subject{Name: v.Subject}
	err := of.Scope.UnmarshalText([]byte(v.Scope))
	if err != nil {
		return err
	}
	all, err := i.tenants.Properties(ctx, &of)
	switch {
	case err != nil:
	case slices.ContainsFunc(all, func(p tenant.PropertyValue) bool { return p.Subject == of && p.Property == v.Name }):
		err = tenant.ErrExists // perhaps of a later day
	default:
		err = i.tenants.SetProperty(ctx, of, v.Name, v.Value, "import")
	}
	_, err = i.counted(&i.out.Properties, fmt.Sprintf("%s of %s %s", v.Name, v.Scope, v.Subject), err)
	return err
}

// subscriptions adds those whose user is the one that the plan means.
func (i *importer) subscriptions(ctx context.Context, plan *original.Plan, missing map[tenant.UserID]bool) error {
	batch := make([]subscription.Old, 0, importBatch)
	flush := func() error {
		added, err := i.subs.TakeOver(ctx, batch)
		if err != nil {
			return fmt.Errorf("import subscriptions: %w", err)
		}
		i.out.Subscriptions, i.out.Had = i.out.Subscriptions+added, i.out.Had+len(batch)-added
		i.done += len(batch)
		i.progress(i.done, i.total)
		batch = batch[:0]
		return nil
	}
	now := time.Now()
	err := plan.Subscriptions(func(s original.Subscription) error {
		if missing[userID(s.User)] {
			i.done++
			return nil
		}
		token, err := parseOldToken(s)
		if _, wrong := errors.AsType[*push.TokenError](err); wrong {
			i.done++
			i.out.refuse("a device of user %s: %v", s.User, err)
			return nil
		} else if err != nil {
			return err
		}
		o := subscription.Old{User: userID(s.User), Client: s.Client, Token: token, Created: s.Renewed, Renewed: s.Renewed, Expires: s.Expires}
		switch {
		case s.Transport == "fcm":
			// Google forgets a token whose app was silent for 270 days, and so do we; that time begins now, for the
			// system before noted subscriptions, not signs of life.
			o.Renewed = now
		case s.Renewed.IsZero():
			o.Renewed = time.UnixMilli(1) // any word of Apple's ends it
		}
		if o.Created.IsZero() {
			o.Created = now
		}
		if batch = append(batch, o); len(batch) == importBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// parseOldToken reads a token as its transport does when a device subscribes.
func parseOldToken(s original.Subscription) (subscription.Token, error) {
	name, parse := "device_token", (*push.APNs)(nil).ParseToken
	if s.Transport == "fcm" {
		name, parse = "registration_token", (*push.FCM)(nil).ParseToken
	}
	raw, err := json.Marshal(map[string]string{name: s.Token})
	if err != nil {
		return subscription.Token{}, fmt.Errorf("encode token: %w", err)
	}
	return parse(raw)
}

// Package dovecot registers users at a Dovecot server, so that its push_notification driver reports
// their new mail.
//
// A registration is one METADATA entry of the mailbox owner (RFC 5464): exactly what the original system
// writes, so that its registrations are adopted and can be taken over by it again. A value that is somebody
// else's is never overwritten and never removed. There are two ways to the entry: over IMAP, signed in by
// whatever the mail host's password source gives, and by Dovecot's doveadm HTTP API where the mail host has
// one, which needs no user's password. By that API a folder can be looked at too.
//
// The package keeps no state but idle connections to doveadm APIs. To register again is to audit: while
// nothing has changed it is one question. A Source is safe for concurrent use.
package dovecot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Entry is the annotation that Dovecot's driver reads, on the server ("") rather than on a mailbox.
const Entry = "/private/vendor/vendor.dovecot/http-notify"

// Source registers and unregisters.
type Source struct {
	Accounts *account.Service
	Tenants  *tenant.Store
	// InstallationID marks the registrations that we write; "" leaves them as the original system's are.
	InstallationID string
	// Now is the clock of what Look finds.
	Now func() time.Time

	mu   sync.Mutex
	apis map[string]*doveadm // guarded by mu; by mail host
}

// Status is what a look at the server found, or made, of a registration.
type Status struct {
	// State is one of subscription's listener states.
	State string
	// Reason says in a sentence why State is not Registered, and what to do.
	Reason string
	// Err is the fault behind it, for the log.
	Err error
}

// Register makes the server report the user's mail, unless the entry is somebody else's.
func (s *Source) Register(ctx context.Context, u tenant.User) Status {
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return Status{subscription.Pending, noHost, err}
	}
	if host.DoveadmURL != "" {
		return s.register(ctx, s.doveadm(host).entry(u.Login), host, u)
	}
	c, err := s.Accounts.Dial(ctx, u)
	if err != nil {
		return Status{subscription.Pending, account.Reason(err), err}
	}
	defer c.Close()
	st := s.RegisterOn(ctx, c, u)
	_ = c.Logout(ctx)
	return st
}

// RegisterOn is Register over a connection that is signed in as the user, and stays open. A server that offers
// no METADATA on it is asked by its doveadm API, if it has one.
func (s *Source) RegisterOn(ctx context.Context, c *imap.Client, u tenant.User) Status {
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return Status{subscription.Pending, noHost, err}
	}
	if offersMetadata(c) {
		return s.register(ctx, imapEntry{c}, host, u)
	} else if host.DoveadmURL != "" {
		return s.register(ctx, s.doveadm(host).entry(u.Login), host, u)
	}
	return Status{subscription.Unsupported, Reason(imap.ErrUnsupported), imap.ErrUnsupported}
}

func (s *Source) register(ctx context.Context, e entry, host tenant.MailHost, u tenant.User) Status {
	names := s.names(host, u.ID)
	value, err := e.get(ctx)
	h := names.holder(value)
	if err == nil && (h == nobody || h == oldOurs) {
		if err = e.set(ctx, names.value()); err == nil {
			// Two installations may have raced: what stands now decides.
			value, err = e.get(ctx)
			h = names.holder(value)
		}
	}
	switch {
	case errors.Is(err, imap.ErrUnsupported):
		return Status{subscription.Unsupported, Reason(err), err}
	case err != nil:
		return Status{subscription.Pending, Reason(err), err}
	case h == ours:
		return Status{State: subscription.Registered}
	case h == foreign:
		return Status{State: subscription.Foreign, Reason: "another system is registered for this mailbox and is left alone: " +
			"to hand over, remove " + Entry + " at the mail server"}
	}
	return Status{State: subscription.Pending, Reason: "the mail server did not keep the registration; it is tried again"}
}

// Unregister removes the user's registration if it is ours. It returns nil when none of ours is left.
func (s *Source) Unregister(ctx context.Context, u tenant.User) error {
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return err
	}
	if host.DoveadmURL != "" {
		err := s.unregister(ctx, s.doveadm(host).entry(u.Login), host, u)
		if errors.Is(err, ErrNoUser) { // his mailbox is gone, and what was in it
			return nil
		}
		return err
	}
	c, err := s.Accounts.Dial(ctx, u)
	if err != nil {
		return err
	}
	defer c.Close()
	if offersMetadata(c) {
		err = s.unregister(ctx, imapEntry{c}, host, u)
	}
	_ = c.Logout(ctx)
	return err
}

func (s *Source) unregister(ctx context.Context, e entry, host tenant.MailHost, u tenant.User) error {
	names := s.names(host, u.ID)
	value, err := e.get(ctx)
	if err == nil {
		if h := names.holder(value); h == ours || h == oldOurs {
			err = e.remove(ctx)
		}
	}
	if errors.Is(err, imap.ErrUnsupported) {
		return nil
	} else if err != nil {
		return fmt.Errorf("unregister: %w", err)
	}
	return nil
}

// offersMetadata: Dovecot announces it only after login, and only where it is enabled.
func offersMetadata(c *imap.Client) bool { return c.Has("METADATA") || c.Has("METADATA-SERVER") }

// entry is a way to the value of Entry; "" when there is none.
type entry interface {
	get(ctx context.Context) (string, error)
	set(ctx context.Context, value string) error
	remove(ctx context.Context) error
}

// imapEntry is the way over a connection that is signed in.
type imapEntry struct{ *imap.Client }

func (e imapEntry) get(ctx context.Context) (string, error) {
	value, _, err := e.GetMetadata(ctx, "", Entry) // an empty value is kept as an entry, and registers nobody
	if err != nil {
		return "", fmt.Errorf("read registration: %w", err)
	}
	return value, nil
}

func (e imapEntry) set(ctx context.Context, value string) error {
	return e.SetMetadata(ctx, "", Entry, &value)
}

func (e imapEntry) remove(ctx context.Context) error { return e.SetMetadata(ctx, "", Entry, nil) }

// holder is whose value the entry has.
type holder int

const (
	nobody  holder = iota
	ours           // registers our user as it should
	oldOurs        // names our user, but not as we would now: without the proof, or with one of an older key
	foreign
)

// names are what a registration of one user says.
type names struct {
	alias   string   // what we would write
	earlier []string // what we, or the original system, may have written
	by      string   // our installation's id, or ""
}

func (s *Source) names(host tenant.MailHost, id tenant.UserID) names {
	return names{s.Tenants.Alias(host, id), s.Tenants.Aliases(id), s.InstallationID}
}

// value is what we write: TAB-separated key=value pairs, of which Dovecot reads "user".
func (n names) value() string {
	if n.by == "" {
		return "user=" + n.alias
	}
	return "user=" + n.alias + "\tby=" + n.by
}

// holder judges a value. One that names our user and bears no other installation's mark is ours, and stays as
// it is: the original system writes no mark.
func (n names) holder(value string) holder {
	if value == "" {
		return nobody
	}
	user := ""
	for pair := range strings.SplitSeq(value, "\t") {
		key, v, _ := strings.Cut(pair, "=")
		switch {
		case key == "user":
			user = v
		case key == "by" && (v != n.by || v == ""):
			return foreign
		}
	}
	switch {
	case user == n.alias:
		return ours
	case slices.Contains(n.earlier, user):
		return oldOurs
	}
	return foreign
}

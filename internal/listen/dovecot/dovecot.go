// Package dovecot registers users at a Dovecot server, so that its push_notification driver reports
// their new mail.
//
// A registration is one METADATA entry of the mailbox owner (RFC 5464), written over IMAP as the
// owner: exactly what the original system does, so that its registrations are adopted and can be
// taken over by it again. A value that is somebody else's is never overwritten and never removed.
// The package keeps no state and no connection.
//
// A Source is safe for concurrent use.
package dovecot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
}

// Status is what a look at the server found, or made, of a registration.
type Status struct {
	// State is one of subscription's listener states.
	State string
	// Reason says in a sentence why State is not Registered.
	Reason string
	// Err is the fault behind it, for the log.
	Err error
}

// Register makes the server report the user's mail, unless the entry is somebody else's.
func (s *Source) Register(ctx context.Context, u tenant.User) Status {
	c, st := s.connect(ctx, u)
	if c == nil {
		return st
	}
	defer c.Close()
	want, holder, err := s.look(ctx, c, u)
	if err == nil && (holder == nobody || holder == oldOurs) {
		if err = c.SetMetadata(ctx, "", Entry, &want); err == nil {
			// Two installations may have raced: what stands now decides.
			_, holder, err = s.look(ctx, c, u)
		}
	}
	switch {
	case errors.Is(err, imap.ErrUnsupported):
		return unsupported(err)
	case err != nil:
		return Status{subscription.Pending, "the mail server did not take the registration; it is tried again", err}
	case holder == ours:
		_ = c.Logout(ctx)
		return Status{State: subscription.Registered}
	case holder == foreign:
		return Status{State: subscription.Foreign, Reason: "another system is registered for this mailbox and is left alone: " +
			"to hand over, remove " + Entry + " at the mail server"}
	}
	return Status{State: subscription.Pending, Reason: "the mail server did not keep the registration; it is tried again"}
}

// Unregister removes the user's registration if it is ours. It returns nil when none of ours is left.
func (s *Source) Unregister(ctx context.Context, u tenant.User) error {
	c, st := s.connect(ctx, u)
	if c == nil {
		if st.State == subscription.Unsupported {
			return nil
		}
		return st.Err
	}
	defer c.Close()
	_, holder, err := s.look(ctx, c, u)
	if errors.Is(err, imap.ErrUnsupported) {
		return nil
	}
	if err == nil && (holder == ours || holder == oldOurs) {
		err = c.SetMetadata(ctx, "", Entry, nil)
	}
	if err != nil {
		return fmt.Errorf("unregister: %w", err)
	}
	_ = c.Logout(ctx)
	return nil
}

func unsupported(err error) Status {
	return Status{subscription.Unsupported, "the mail server offers no METADATA to us: enable imap_metadata for Posthorn's address", err}
}

// connect logs in as the user, or says why not.
func (s *Source) connect(ctx context.Context, u tenant.User) (*imap.Client, Status) {
	c, err := s.Accounts.Dial(ctx, u)
	if err != nil {
		return nil, Status{subscription.Pending, account.Reason(err), err}
	}
	// Dovecot announces METADATA only after login, and only where it is enabled.
	if !c.Has("METADATA") && !c.Has("METADATA-SERVER") {
		_ = c.Logout(ctx)
		return nil, unsupported(imap.ErrUnsupported)
	}
	return c, Status{}
}

// holder is whose value the entry has.
type holder int

const (
	nobody  holder = iota
	ours           // exactly what we would write
	oldOurs        // names our user, but not as we would now: without the proof, or with one of an older key
	foreign
)

// look reads the entry. want is the value that registers u.
func (s *Source) look(ctx context.Context, c *imap.Client, u tenant.User) (want string, h holder, err error) {
	host, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return "", nobody, err
	}
	alias := s.Tenants.Alias(host, u.ID)
	want = "user=" + alias
	value, ok, err := c.GetMetadata(ctx, "", Entry)
	if err != nil {
		return want, nobody, fmt.Errorf("read registration: %w", err)
	}
	return want, whose(value, ok, alias, s.Tenants.Aliases(u.ID)...), nil
}

// whose judges a value: TAB-separated key=value pairs, of which Dovecot reads "user". alias is what we
// would write, earlier what we may have written.
func whose(value string, ok bool, alias string, earlier ...string) holder {
	if !ok || value == "" { // Dovecot keeps an empty value as an entry; it registers nobody
		return nobody
	}
	user := ""
	for pair := range strings.SplitSeq(value, "\t") {
		key, v, _ := strings.Cut(pair, "=")
		switch key {
		case "user":
			user = v
		case "by": // another installation signed it
			return foreign
		}
	}
	switch {
	case user == alias:
		return ours
	case slices.Contains(earlier, user):
		return oldOurs
	}
	return foreign
}

package tenant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// Reasons of a RefusedError.
const (
	HostNotAllowed        = "host_not_allowed"
	MobileMailAppDisabled = "mobile_mail_app_disabled"
)

// RefusedError says that a user may not use the app, although he is who he says.
type RefusedError struct {
	// Reason is a stable word for programs.
	Reason string
	// Detail is for people, and Contact whom they may ask; it may be "".
	Detail, Contact string
}

func (e *RefusedError) Error() string { return e.Detail }

// SetHosts puts host rules in force; nil allows every host.
func (s *Store) SetHosts(r *hostrule.Rules) { s.hosts.Store(r) }

// Hosts are the host rules in force; nil when there are none.
func (s *Store) Hosts() *hostrule.Rules { return s.hosts.Load() }

// Admit says whether a user may use a client by a host, as the request named it: a *RefusedError when he may not. It
// asks only of clients that are the app (app.clients), and it is asked with every request, so it answers from memory.
func (s *Store) Admit(ctx context.Context, u UserID, client, host string) error {
	v, err := s.View(ctx, u)
	if err != nil {
		return fmt.Errorf("find what the user may: %w", err)
	}
	if !cascade.MatchClient(cascade.AppClients.Of(v), client) {
		return nil
	}
	refused := &RefusedError{}
	switch verdict := s.Hosts().Judge(host); {
	case !verdict.Allowed && verdict.Host == "":
		refused.Reason, refused.Detail = HostNotAllowed, "The app cannot be used by this address of the server."
	case !verdict.Allowed:
		refused.Reason, refused.Detail = HostNotAllowed, "The app is not switched on for "+verdict.Host+"."
	case !cascade.MobileMailApp.Of(v):
		refused.Reason, refused.Detail = MobileMailAppDisabled, "The app is not switched on for this account."
	default:
		return nil
	}
	refused.Detail += " Please ask your provider."
	if refused.Contact, err = s.contact(ctx, u, v, host); err != nil {
		return err
	}
	return refused
}

const sqlContactOfContext = `SELECT resellers.contact FROM contexts JOIN resellers ON resellers.name = contexts.reseller WHERE contexts.id = ?`

// contact finds whom a user may ask: his provider, else the one whose host he came by, else his context's reseller.
func (s *Store) contact(ctx context.Context, u UserID, v *cascade.View, host string) (string, error) {
	if name := cascade.Provider.Of(v); name != "" {
		p, err := s.Provider(ctx, name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return "", fmt.Errorf("find the user's provider: %w", err)
		}
		if p.Contact != "" {
			return p.Contact, nil
		}
	}
	p, _, err := s.ProviderByHost(ctx, host)
	if err != nil {
		return "", fmt.Errorf("find the host's provider: %w", err)
	}
	if p.Contact != "" {
		return p.Contact, nil
	}
	var contact string
	err = s.db.QueryRow(ctx, sqlContactOfContext, u.Context).Scan(&contact)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("find the reseller's contact: %w", err)
	}
	return contact, nil
}

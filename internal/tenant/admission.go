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
	refused := s.JudgeHost(host)
	if refused == nil {
		if cascade.MobileMailApp.Of(v) {
			return nil
		}
		refused = &RefusedError{Reason: MobileMailAppDisabled, Detail: "The app is not switched on for this account. Please ask your provider."}
	}
	if refused.Contact, err = s.contact(ctx, u, v, host); err != nil {
		return err
	}
	return refused
}

// JudgeHost says whether the app may be used by a host at all; nil when it may. It knows no contact.
func (s *Store) JudgeHost(host string) *RefusedError {
	switch v := s.Hosts().Judge(host); {
	case v.Allowed:
		return nil
	case v.Host == "":
		return &RefusedError{Reason: HostNotAllowed, Detail: "The app cannot be used by this address of the server. Please ask your provider."}
	default:
		return &RefusedError{Reason: HostNotAllowed, Detail: "The app is not switched on for " + v.Host + ". Please ask your provider."}
	}
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

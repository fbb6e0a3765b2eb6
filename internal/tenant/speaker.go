package tenant

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/netip"
	"slices"
	"strings"
)

// ErrBadCredential says that a notify login and password are not a pair we know.
var ErrBadCredential = errors.New("notify credential is not valid")

// Speaker is a mail host, or the installation's own credential, that proved itself at the notify
// endpoint. It fixes how "user" is read and for whom it may speak.
type Speaker struct {
	// Login is the credential's login, for logs and metrics.
	Login     string
	AllowFrom []netip.Prefix

	mailhost string // "": every mail host without a credential of its own
	form     string
	contexts []int64
}

// Speaker finds who a notify credential belongs to, or returns ErrBadCredential. The comparison takes
// the same time for a login that does not exist.
func (s *Store) Speaker(ctx context.Context, login, password string) (Speaker, error) {
	hash := HashPassword(password)
	sp := Speaker{Login: login}
	var want [sha256.Size]byte
	known := true
	if s.dflt.Open && (login == "" || login == s.dflt.Login) {
		return Speaker{Login: s.dflt.Login, form: s.dflt.UserForm, AllowFrom: s.dflt.AllowFrom}, nil
	}
	if login == s.dflt.Login {
		want, sp.form, sp.AllowFrom = s.dflt.Hash, s.dflt.UserForm, s.dflt.AllowFrom
	} else if known = checkName("login", login) == nil; known { // others nobody has, nor could ask PostgreSQL for
		var h hostRow
		var err error
		if h, known, err = s.speaker(ctx, login); err != nil {
			return Speaker{}, err
		}
		want = h.hash
		sp.mailhost, sp.form, sp.AllowFrom, sp.contexts = h.Name, h.UserForm, h.AllowFrom, h.Contexts
	}
	if subtle.ConstantTimeCompare(hash[:], want[:]) != 1 || !known {
		return Speaker{}, ErrBadCredential
	}
	return sp, nil
}

// Why a "user" of a notification names nobody. They are words of the notify answer and its metric.
const (
	ReasonUnknownUser    = "unknown_user"
	ReasonAmbiguousUser  = "ambiguous_user"
	ReasonUnverifiedUser = "unverified_user"
	ReasonForeignUser    = "user_of_another_mailhost"
)

// Resolve finds the user that name means when sp says it. When it means nobody sp may speak for, the
// reason is one of the Reason words and the error is nil.
//
// In the metadata form the name comes from the mailbox owner's own METADATA: a claim. It counts only
// for users on sp's mail hosts and, where the host uses keyed aliases, only with the right MAC.
func (s *Store) Resolve(ctx context.Context, sp Speaker, name string) (id UserID, reason string, err error) {
	if sp.form == FormMetadata {
		return s.resolveAlias(ctx, sp, name)
	}
	users, err := s.residentsByLogin(ctx, name)
	if err != nil {
		return UserID{}, "", err
	}
	mine := 0
	for _, u := range users {
		if sp.speaksFor(u.host, u.ID.Context) {
			id = u.ID
			mine++
		}
	}
	switch {
	case mine == 1:
		return id, "", nil
	case mine > 1:
		return UserID{}, ReasonAmbiguousUser, nil
	case len(users) > 0:
		return UserID{}, ReasonForeignUser, nil
	}
	return UserID{}, ReasonUnknownUser, nil
}

func (s *Store) resolveAlias(ctx context.Context, sp Speaker, name string) (UserID, string, error) {
	bare, mac, keyed := strings.Cut(name, ".")
	id, err := ParseUserID(bare)
	if err != nil {
		return UserID{}, ReasonUnknownUser, nil //nolint:nilerr // not an error of ours: the name is a claim
	}
	users, err := s.residentByID(ctx, id)
	if err != nil {
		return UserID{}, "", err
	}
	switch {
	case len(users) == 0:
		return UserID{}, ReasonUnknownUser, nil
	case !sp.speaksFor(users[0].host, id.Context):
		return UserID{}, ReasonForeignUser, nil
	case (users[0].host.KeyedAlias || keyed) && !s.verifyMAC(id, mac):
		return UserID{}, ReasonUnverifiedUser, nil
	}
	return id, "", nil
}

func (sp Speaker) speaksFor(h *home, inContext int64) bool {
	if sp.mailhost == "" {
		return h.NotifyLogin == ""
	}
	return sp.mailhost == h.Name && (len(sp.contexts) == 0 || slices.Contains(sp.contexts, inContext))
}

// Alias is what a user is registered as at a mail host: "3@1", or "3@1.<MAC>" where the host uses
// keyed aliases. Only this installation can make the MAC, so an owner who writes another user's id
// into his METADATA names nobody.
func (s *Store) Alias(h MailHost, id UserID) string {
	if !h.KeyedAlias {
		return id.String()
	}
	return id.String() + "." + aliasMAC(s.alias[0], id)
}

// Aliases are all names that a registration of the user may bear from earlier: the bare one, and those
// with a MAC of any key of the ring.
func (s *Store) Aliases(id UserID) []string {
	all := []string{id.String()}
	for _, key := range s.alias {
		all = append(all, id.String()+"."+aliasMAC(key, id))
	}
	return all
}

func (s *Store) verifyMAC(id UserID, mac string) bool {
	ok := 0
	for _, key := range s.alias {
		ok |= subtle.ConstantTimeCompare([]byte(mac), []byte(aliasMAC(key, id)))
	}
	return ok == 1
}

// aliasMAC is HMAC-SHA256 of the id, cut to 128 bits, as base64url.
func aliasMAC(key []byte, id UserID) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id.String()))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// Package api is the REST face of Posthorn: for devices on the public listener, for the operator on
// the admin socket.
//
// It translates: requests into calls, errors into RFC 9457 problem documents. No rule lives here that
// another face would need too. Every handler is safe for concurrent use.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/cluster"
	"github.com/posthorn-mail/posthorn/internal/listen"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// API answers requests. Every field is needed. It must not be copied.
type API struct {
	Tenants       *tenant.Store
	Accounts      *account.Service
	Subscriptions *subscription.Store
	Push          *push.Service
	Listen        *listen.Service
	Cluster       *cluster.Cluster
	Doctor        *onboard.Doctor
	Audit         *audit.Log
	// LastEvents calls f with when something was last heard of each user's mailbox.
	LastEvents func(ctx context.Context, f func(u tenant.UserID, at time.Time)) error
	Log        *slog.Logger
	Now        func() time.Time
	// TrustedProxies are the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// VAPIDPublicKey is what the browsers of a provider's users subscribe with; "" when Web Push is off.
	VAPIDPublicKey func(provider string) string
	// CheckCredentials opens the push credentials of a provider: keys, certificates and their ends. Errors are
	// *tenant.InvalidError.
	CheckCredentials func(tenant.Provider) error
	// UseProviders has the push credentials of providers used as they now are.
	UseProviders func(context.Context) error
	// Rotate seals the next batch anew.
	Rotate func(ctx context.Context, after string) (Rotated, error)
	// Reload reads configuration and credentials again.
	Reload func(ctx context.Context) (Reloaded, error)

	// Discoverer answers everybody, and so dials public addresses only; OperatorDiscoverer also what outbound.allow lists.
	Discoverer, OperatorDiscoverer *onboard.Discoverer
	DiscoverLimit                  *account.AddressLimiter
	// Version is the server's own.
	Version string

	documents   [2]document  // of devices, of the administration
	discoveries atomic.Int32 // under way for everybody
}

// maxBody bounds a request's body in bytes.
const maxBody = 64 << 10

// handler is an http.Handler that returns its answer: a value for JSON, or an error for a problem.
type handler func(r *http.Request) (status int, body any, err error)

// Public is the face for devices, below /api/v1/.
func (a *API) Public() http.Handler {
	mux := http.NewServeMux()
	a.serve(mux, deviceFace.prefix, a.deviceOperations(), func(o *operation) handler { return o.do })
	a.serveAdmin(mux, adminFace.prefix, a.keyHolder)
	mux.HandleFunc("/", notFound)
	return mux
}

func notFound(w http.ResponseWriter, r *http.Request) {
	problem.Write(w, problem.New(http.StatusNotFound, "not_found", "there is nothing at "+r.URL.Path))
}

// route serves a path by method, and answers the other methods with a 405 that names these.
func (a *API) route(mux *http.ServeMux, path string, methods map[string]handler) {
	if get := methods[http.MethodGet]; get != nil {
		methods[http.MethodHead] = get // whose body nobody sends (RFC 9110 section 9.3.2)
	}
	allow := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		h, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", allow)
			problem.Write(w, problem.New(http.StatusMethodNotAllowed, "method_not_allowed", "this takes "+allow))
			return
		}
		var status int
		var body any
		err := plainText(r)
		if err == nil {
			status, body, err = h(r)
		}
		if err != nil {
			p := a.problemOf(r.Context(), err)
			if p.Status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Bearer realm="posthorn"`)
			}
			problem.Write(w, p)
			return
		}
		a.reply(w, r, status, body)
	})
}

// written is the body of an answer that its handler has sent already.
type written struct{}

func (a *API) reply(w http.ResponseWriter, r *http.Request, status int, body any) {
	if body == (written{}) {
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if body == nil {
		w.WriteHeader(status)
		return
	}
	raw, err := json.Marshal(body)
	if err != nil {
		problem.Write(w, a.problemOf(r.Context(), fmt.Errorf("encode answer: %w", err)))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n'))
}

// listOf answers a listing: each of all as view shows it.
func listOf[T, V any](all []T, err error, view func(T) V) (int, any, error) {
	if err != nil {
		return 0, nil, err
	}
	list := List[V]{Items: make([]V, 0, len(all))}
	for _, one := range all {
		list.Items = append(list.Items, view(one))
	}
	return http.StatusOK, list, nil
}

// problemOf is the one table of which error becomes which answer. What is not in it is ours: logged
// here, and told without detail.
func (a *API) problemOf(ctx context.Context, err error) *problem.Problem {
	var p *problem.Problem
	var invalid *tenant.InvalidError
	var tooMany *account.TooManyError
	var refused *account.RefusedError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return problem.InField(invalid.Field, invalid.Problem)
	case errors.As(err, &tooMany):
		p := problem.New(http.StatusTooManyRequests, "too_many_attempts", "too many failed sign-ins: wait before the next")
		p.RetryAfter = tooMany.RetryAfter
		return p
	case errors.As(err, &refused):
		p := problem.New(http.StatusForbidden, refused.Reason, refused.Detail)
		p.Contact = refused.Contact
		return p
	case errors.Is(err, account.ErrBadLogin):
		return problem.New(http.StatusUnauthorized, "bad_login", account.ErrBadLogin.Error())
	case errors.Is(err, account.ErrBadCode):
		return problem.New(http.StatusUnauthorized, "bad_code", account.ErrBadCode.Error())
	case errors.Is(err, account.ErrIdentityProvider):
		a.Log.WarnContext(ctx, "cannot ask the identity provider", slog.Any("err", err))
		p := problem.New(http.StatusServiceUnavailable, "identity_provider_unavailable", "the identity provider cannot be asked now: try again")
		p.RetryAfter = 5 * time.Second
		return p
	case errors.Is(err, account.ErrNoSession):
		return problem.New(http.StatusUnauthorized, "no_session", "sign in first: POST /api/v1/sessions")
	case errors.Is(err, account.ErrMailServer):
		p := problem.New(http.StatusServiceUnavailable, "mail_server_unavailable", "the mail server cannot be asked now: try again")
		p.RetryAfter = 5 * time.Second
		return p
	case errors.Is(err, tenant.ErrNotFound), errors.Is(err, subscription.ErrNotFound):
		return problem.New(http.StatusNotFound, "not_found", err.Error())
	case errors.Is(err, tenant.ErrExists):
		return problem.New(http.StatusConflict, "exists", err.Error())
	case errors.Is(err, tenant.ErrInUse):
		return problem.New(http.StatusConflict, "in_use", err.Error())
	case errors.Is(err, subscription.ErrTooMany):
		return problem.New(http.StatusConflict, "too_many_subscriptions", err.Error())
	case ctx.Err() != nil: // the client went away, or the server is stopping
		return problem.New(http.StatusServiceUnavailable, "interrupted", "the request was interrupted: send it again")
	}
	a.Log.ErrorContext(ctx, "request failed", slog.Any("err", err))
	return problem.New(http.StatusInternalServerError, "internal", "this is our fault; the server's log says more")
}

// decode reads a JSON object. Members it does not know are ignored.
func decode(r *http.Request, into any) error {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.New(http.StatusRequestEntityTooLarge, "too_large", "a request has at most 64 KiB")
	} else if err != nil {
		return problem.New(http.StatusBadRequest, "unreadable_body", "the request's body ended early")
	}
	return unmarshal(raw, into)
}

// plainText refuses a path or a query with what no database takes: NUL, and what is not UTF-8.
func plainText(r *http.Request) error {
	odd := func(s string) bool { return strings.ContainsRune(s, 0) || !utf8.ValidString(s) }
	if odd(r.URL.Path) {
		return problem.New(http.StatusNotFound, "not_found", "there is nothing of this name")
	}
	if r.URL.RawQuery == "" {
		return nil
	}
	for name, values := range r.URL.Query() {
		if slices.ContainsFunc(values, odd) {
			return problem.InField(name, "must be UTF-8 without the character U+0000")
		}
	}
	return nil
}

// nul finds the escape of NUL in JSON, and not a reverse solidus that is escaped itself before "u0000".
var nul = regexp.MustCompile(`(^|[^\\])(\\\\)*\\u0000`)

func unmarshal(raw []byte, into any) error {
	err := json.Unmarshal(raw, into)
	if err == nil && nul.Match(raw) {
		members := map[string]json.RawMessage{}
		_ = json.Unmarshal(raw, &members) // what is no object has no member to name
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if nul.Match(members[name]) {
				return problem.InField(name, "must not have the character U+0000")
			}
		}
		return problem.New(http.StatusBadRequest, "not_json", "no text may have the character U+0000")
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return problem.InField(wrong.Field, "must not be a "+wrong.Value)
	case err != nil:
		return problem.New(http.StatusBadRequest, "not_json", "the body must be one JSON object")
	}
	return nil
}

// bearer is the token of a request (RFC 6750 section 2.1), "" when it has none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// session authenticates a request by its bearer token, and asks whether its user may still use its client by this
// host: what was switched off after a sign-in is off for the session, too.
func (a *API) session(r *http.Request) (account.Session, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return account.Session{}, err
	}
	return sess, a.Tenants.Admit(r.Context(), sess.User, sess.Client, a.host(r))
}

// signedIn is session for what a user may do whatever is switched off: see what there is of his, and end it.
func (a *API) signedIn(r *http.Request) (account.Session, error) {
	token := bearer(r)
	if token == "" {
		return account.Session{}, account.ErrNoSession
	}
	sess, err := a.Accounts.Authenticate(r.Context(), token)
	if stolen, ok := errors.AsType[*account.StolenError](err); ok {
		if failed := a.stolen(r, stolen); failed != nil {
			return account.Session{}, failed
		}
	}
	if err != nil {
		return account.Session{}, err
	}
	if a.Now().Sub(sess.LastUsed) > activeEvery {
		if err := a.Subscriptions.Active(r.Context(), sess.User, sess.Client); err != nil { // no reason to turn him away
			a.Log.WarnContext(r.Context(), "cannot note the use of a session", slog.Any("err", err))
		}
	}
	return sess, nil
}

// activeEvery is how stale the word of a session's use may be: a third of what it is good for.
const activeEvery = subscription.SessionBound / 3

// clientAddress is where a request comes from: the peer, or what trusted proxies say of it. Each proxy
// appends the address it saw, so the last one that is not itself trusted is the client.
func (a *API) clientAddress(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := plain(peer.Addr())
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !a.trusted(addr) {
			break
		}
		before, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			break
		}
		addr = before
	}
	return addr
}

// parseHop reads an address of X-Forwarded-For, to which some proxies add the port.
func parseHop(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(text)
		addr = withPort.Addr()
	}
	return plain(addr), err == nil
}

// plain is an address as networks have it: IPv4 as such, and without a zone, which is any text.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// fromProxy reports whether the peer is a proxy whose headers are believed.
func (a *API) fromProxy(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && a.trusted(plain(peer.Addr()))
}

func (a *API) trusted(addr netip.Addr) bool {
	return slices.ContainsFunc(a.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// stamp is a time as the API shows it; "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

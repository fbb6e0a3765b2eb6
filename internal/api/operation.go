package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// An operation is one line of a table: that of administration in operations.go, or that for devices in
// deviceoperations.go, which uses less of what follows. The table is all there is: it makes
//   - the admin socket's paths, /admin/v1…, where everybody is the operator,
//   - the public ones, /api/v1/admin…, for who has a key (account.AdminKey),
//   - who may: the operator everything, others what roles says, and no handler is asked before that is clear,
//   - the line in the audit log, for each that changes something,
//   - the OpenAPI document, from in, out and query.
//
// To add one: a line, a handler, and a call in the tests of the document and of tenants (internal/server), which fail
// until it is there. The handler judges only what it is about: it asks mayContext, mayUser or mayProvider for each
// thing that a request names, and reach for a listing.
type operation struct {
	// id is the operation's name in the document and its act in the audit log: "addContext".
	id string
	// method and path; what is in braces is r.PathValue's, and is described in pathParams.
	method, path string
	// tag is the noun that the document lists it under.
	tag string
	// summary is one sentence without full stop.
	summary string
	// roles is who may, beside the operator.
	roles roles
	query []param
	// in is a value of the request's body's type, nil for none; out of the answer's.
	in, out any
	// status is that of success.
	status int
	// secret has a GET audited: its answer holds something that is not to be read unseen.
	secret bool
	// open needs no key and no session; optional is one that has another answer with a session.
	open, optional bool
	// refuses is what it may refuse with beside what others like it do.
	refuses []int
	// slow lets the request take longer than others: the handler calls goOn with each step of its work.
	slow bool
	do   handler
	// page, in place of do, gives bytes of one of the types in media; raw answers by itself. What do answers in JSON may
	// also come in lines of these types.
	page  func(*http.Request) (page, error)
	raw   http.HandlerFunc
	media []string
}

// roles is a set of roles beside the operator's.
type roles uint8

const (
	byReseller roles = 1 << iota // for its own contexts
	byBrand                      // for its own provider and what belongs to it
)

// param is one member of a request's query.
type param struct {
	name, doc string
	// example is a value of the type that the parameter has; its kind makes the schema.
	example any
	need    bool
}

// Role is what an actor may be.
type Role = account.Role

// The roles.
const (
	RoleOperator = account.RoleOperator
	RoleReseller = account.RoleReseller
	RoleBrand    = account.RoleBrand
)

// Actor is who makes an administrative request.
type Actor struct {
	Role Role
	// Subject is the reseller, or the brand's provider.
	Subject string
	// Key is the id of the key; "" on the admin socket.
	Key string
}

func (a Actor) String() string {
	switch {
	case a.Key == "":
		return "cli"
	case a.Subject == "":
		return fmt.Sprintf("key %s (%s)", a.Key, a.Role)
	}
	return fmt.Sprintf("key %s (%s %s)", a.Key, a.Role, a.Subject)
}

// may says whether the actor's role has an operation at all.
func (a Actor) may(o *operation) bool {
	switch a.Role {
	case RoleOperator:
		return true
	case RoleReseller:
		return o.roles&byReseller != 0
	case RoleBrand:
		return o.roles&byBrand != 0
	}
	return false
}

// act is an administrative request under way.
type act struct {
	actor   Actor
	subject string // what it is about, for the audit log
	context int64  // 0 for none
	detail  string // what else there is to say of one that succeeded
	reach   *reach // what the actor may see, when it was asked for
}

type actKey struct{}

// actorOf is who makes the request. Whoever came past the table has one; all others are nobody.
func actorOf(r *http.Request) Actor { return actorIn(r.Context()) }

func actorIn(ctx context.Context) Actor {
	if a, ok := ctx.Value(actKey{}).(*act); ok {
		return a.actor
	}
	return Actor{}
}

// about says what a request is about where its path does not: what it has made.
func about(r *http.Request, subject string, inContext int64) {
	if a, ok := r.Context().Value(actKey{}).(*act); ok {
		a.subject, a.context = subject, inContext
	}
}

// note adds to the audit log what a request did.
func note(r *http.Request, detail string) {
	if a, ok := r.Context().Value(actKey{}).(*act); ok {
		a.detail = detail
	}
}

// slowStep is how long a slow request may take from one step of its work to the next.
const slowStep = time.Minute

// extend gives a slow request the time for another step.
func extend(w http.ResponseWriter) {
	c, until := http.NewResponseController(w), time.Now().Add(slowStep)
	_ = c.SetReadDeadline(until) // a writer that has none waits for ever
	_ = c.SetWriteDeadline(until)
}

// serve puts a table on a mux below a prefix; with makes the handler of a line that has neither page nor raw.
func (a *API) serve(mux *http.ServeMux, prefix string, table []operation, with func(*operation) handler) {
	paths := map[string]map[string]handler{}
	for _, o := range table {
		path := prefix + o.path
		switch {
		case o.page != nil:
			a.publish(mux, path, o.page)
			continue
		case o.raw != nil:
			mux.HandleFunc(path, o.raw)
			continue
		case paths[path] == nil:
			paths[path] = map[string]handler{}
		}
		paths[path][o.method] = with(&o)
	}
	for path, methods := range paths {
		inner := http.NewServeMux()
		a.route(inner, path, methods)
		mux.Handle(path, withWriter(inner))
	}
}

// serveAdmin is serve for the administration.
func (a *API) serveAdmin(mux *http.ServeMux, prefix string, who func(*http.Request) (Actor, error)) {
	a.serve(mux, prefix, a.operations(), func(o *operation) handler { return a.perform(o, prefix, who) })
}

// perform is an operation with all that comes around it.
func (a *API) perform(o *operation, prefix string, who func(*http.Request) (Actor, error)) handler {
	return func(r *http.Request) (int, any, error) {
		if o.open {
			return o.do(r)
		}
		actor, err := who(r)
		if err != nil {
			return 0, nil, err
		}
		done := &act{actor: actor, context: contextIn(r)}
		done.subject = cmp.Or(r.PathValue("user"), strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, prefix), "/"))
		ctx := context.WithValue(r.Context(), actKey{}, done)
		r = r.WithContext(ctx)
		status, body, err := a.ask(o, actor, r)
		if err != nil {
			err = a.problemOf(ctx, err)
		}
		if o.method != http.MethodGet || o.secret {
			a.record(r, o, done, err)
		}
		return status, body, err
	}
}

// ask has an operation done by an actor who has it.
func (a *API) ask(o *operation, actor Actor, r *http.Request) (int, any, error) {
	if !actor.may(o) {
		return 0, nil, problem.New(http.StatusForbidden, "not_your_role",
			fmt.Sprintf("a key of a %s has no right to this: ask the operator", actor.Role))
	}
	if err := o.takes(r.Header.Get("Content-Type")); err != nil {
		return 0, nil, err
	}
	if o.slow {
		goOn(r)
	}
	return o.do(r)
}

// takes refuses a body of a type that the operation does not read. One that does not say its type is tried.
func (o *operation) takes(contentType string) error {
	if o.in == nil || contentType == "" {
		return nil
	}
	types, ok := o.in.(lines)
	if !ok {
		types = lines{mediaJSON}
	}
	given, _, err := mime.ParseMediaType(contentType)
	if err == nil && slices.Contains(types, given) {
		return nil
	}
	return problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body with Content-Type: "+strings.Join(types, " or "))
}

// record writes an act to the audit log. One that was refused belongs to no context unless the operator did it: who
// asks for what is not his is no news for those whose it is.
func (a *API) record(r *http.Request, o *operation, done *act, err error) {
	e := audit.Entry{
		Actor: done.actor.String(), Act: o.id, Subject: done.subject, Context: done.context, Outcome: audit.OK, Detail: done.detail,
	}
	if addr := a.clientAddress(r); addr.IsValid() {
		e.Address = addr.String()
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		e.Detail, e.Outcome = p.Error(), audit.Refused
		if p.Status >= http.StatusInternalServerError {
			e.Outcome = audit.Failed
		}
		if done.actor.Role != RoleOperator {
			e.Context = 0
		}
	}
	a.Audit.Write(r.Context(), e)
}

// contextIn is the context that a request's path or query names, or 0.
func contextIn(r *http.Request) int64 {
	if u, err := tenant.ParseUserID(r.PathValue("user")); err == nil {
		return u.Context
	}
	for _, s := range []string{r.PathValue("id"), r.URL.Query().Get("context")} {
		if id, err := strconv.ParseInt(s, 10, 64); err == nil {
			return id
		}
	}
	return 0
}

// keyHolder is who speaks on the public listener.
func (a *API) keyHolder(r *http.Request) (Actor, error) {
	k, err := a.Accounts.AuthenticateAdmin(r.Context(), bearer(r), a.clientAddress(r))
	if tooMany, ok := errors.AsType[*account.TooManyError](err); ok {
		p := problem.New(http.StatusTooManyRequests, "too_many_attempts", "too many wrong keys from this address: wait before the next")
		p.RetryAfter = tooMany.RetryAfter
		return Actor{}, p
	}
	if errors.Is(err, account.ErrNoKey) {
		err = problem.New(http.StatusUnauthorized, "no_key", "this needs a key of the administration that has not expired: Authorization: Bearer pha_…")
	}
	if err != nil {
		return Actor{}, err
	}
	return Actor{Role: k.Role, Subject: k.Subject, Key: k.ID}, nil
}

// theOperator is who speaks on the admin socket, which authenticates by itself.
func theOperator(*http.Request) (Actor, error) { return Actor{Role: RoleOperator}, nil }

package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Context is one tenant.
type Context struct {
	ID   int64  `json:"id" example:"1" doc:"the next free one when a request does not say it"`
	Name string `json:"name" example:"Example GmbH" doc:"unique in the installation"`
	// Reseller is whose it is; empty is the operator's own.
	Reseller string `json:"reseller,omitempty" example:"north" doc:"whose it is; none is the operator's own"`
	// Tags are what context sets ask for.
	Tags []string `json:"tags,omitempty" example:"webmail,premium" doc:"what context sets ask for"`
}

// Reseller is whose a number of contexts are.
type Reseller struct {
	Name    string `json:"name" example:"north" need:"true"`
	Title   string `json:"title" example:"North Mail" doc:"the name for people"`
	Contact string `json:"contact,omitempty" example:"support@north.example"`
}

// ContextSet is the contexts whose tags meet a condition.
type ContextSet struct {
	Name string `json:"name" example:"premium" need:"true"`
	// WithTags is the condition.
	WithTags string `json:"with_tags" example:"webmail & (premium | trial)" need:"true" doc:"a condition over tags, with & | ! and brackets"`
	Priority int    `json:"priority" doc:"of several sets that match, the higher one wins"`
	Origin   string `json:"origin,omitempty" doc:"the file and line of a set that is made there"`
	// Contexts has the contexts that are in it now; nil in a request.
	Contexts []int64 `json:"contexts,omitempty" doc:"the contexts that are in it"`
}

// ContextSetTest is what a condition says.
type ContextSetTest struct {
	// Matches says whether it holds for the tags that were given; missing when none were.
	Matches  *bool     `json:"matches,omitempty" doc:"whether it holds for the tags that were given; missing when none were"`
	Contexts []Context `json:"contexts" doc:"those for whose tags it holds"`
}

// contextID reads the {id} of a path.
func contextID(r *http.Request) (int64, error) { return contextNumber("id", r.PathValue("id")) }

// contextNumber reads a context's number as it is written everywhere: 1, and not +1 or 01, which would be other names of
// it in the audit log.
func contextNumber(field, text string) (int64, error) {
	id, ok := parseNumber(text)
	if !ok {
		return 0, problem.InField(field, "must be a context's number, as 1")
	}
	return id, nil
}

func (a *API) listContexts(r *http.Request) (int, any, error) {
	seen, err := a.reach(r)
	if err != nil {
		return 0, nil, err
	}
	all, err := a.Tenants.Contexts(r.Context())
	list := List[Context]{Items: []Context{}}
	for _, c := range all {
		if seen.has(c.ID) {
			list.Items = append(list.Items, Context(c))
		}
	}
	return http.StatusOK, list, err
}

func (a *API) addContext(r *http.Request) (int, any, error) {
	var c Context
	if err := decode(r, &c); err != nil {
		return 0, nil, err
	}
	actor := actorOf(r)
	if actor.Role == RoleReseller {
		c.Reseller = cmp.Or(c.Reseller, actor.Subject)
	}
	err := cmp.Or(
		onlyOperator(r, "id", c.ID != 0), // one that is taken would tell of others
		onlyOperator(r, "reseller", c.Reseller != actor.Subject),
		onlyOperator(r, "tags", len(c.Tags) > 0), // they decide which values hold, protected ones too
	)
	if err != nil {
		return 0, nil, err
	}
	added, err := a.Tenants.AddContext(r.Context(), tenant.Context(c))
	if err == nil {
		about(r, fmt.Sprintf("contexts/%d", added.ID), added.ID)
	}
	return http.StatusCreated, Context(added), err
}

// changeContext takes what a change gives of a context and keeps the rest.
func (a *API) changeContext(r *http.Request) (int, any, error) {
	id, err := contextID(r)
	if err != nil {
		return 0, nil, err
	}
	var change struct {
		ID       *int64
		Name     *string
		Reseller *string
		Tags     *[]string
	}
	if err := a.mayContext(r, id); err != nil {
		return 0, nil, err
	}
	if err := decode(r, &change); err != nil {
		return 0, nil, err
	}
	if change.ID != nil && *change.ID != id {
		return 0, nil, problem.InField("id", "cannot be changed: users are numbered under it")
	}
	if err := cmp.Or(onlyOperator(r, "reseller", change.Reseller != nil), onlyOperator(r, "tags", change.Tags != nil)); err != nil {
		return 0, nil, err
	}
	changed, err := a.Tenants.ChangeContext(r.Context(), id, func(c *tenant.Context) error {
		give(&c.Name, change.Name)
		give(&c.Reseller, change.Reseller)
		give(&c.Tags, change.Tags)
		return nil
	})
	return http.StatusOK, Context(changed), err
}

// give sets what a change has.
func give[T any](into, given *T) {
	if given != nil {
		*into = *given
	}
}

func (a *API) removeContext(r *http.Request) (int, any, error) {
	id, err := contextID(r)
	if err != nil {
		return 0, nil, err
	}
	if err := a.mayContext(r, id); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.Tenants.RemoveContext(r.Context(), id)
}

func (a *API) listResellers(r *http.Request) (int, any, error) {
	all, err := a.Tenants.Resellers(r.Context())
	actor := actorOf(r)
	list := List[Reseller]{Items: []Reseller{}}
	for _, one := range all {
		if actor.Role == RoleOperator || one.Name == actor.Subject {
			list.Items = append(list.Items, Reseller(one))
		}
	}
	return http.StatusOK, list, err
}

func (a *API) addReseller(r *http.Request) (int, any, error) {
	var v Reseller
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	added, err := a.Tenants.AddReseller(r.Context(), tenant.Reseller(v))
	if err == nil {
		about(r, "resellers/"+added.Name, 0)
		err = a.Accounts.RemoveAdminKeysOf(r.Context(), RoleReseller, added.Name) // of who had the name before, if something cut that off
	}
	return http.StatusCreated, Reseller(added), err
}

func (a *API) changeReseller(r *http.Request) (int, any, error) {
	var change json.RawMessage
	if err := decode(r, &change); err != nil {
		return 0, nil, err
	}
	changed, err := a.Tenants.ChangeReseller(r.Context(), r.PathValue("reseller"), func(one *tenant.Reseller) error {
		v := Reseller(*one)
		if err := unmarshal(change, &v); err != nil {
			return err
		}
		if v.Name != one.Name {
			return problem.InField("name", "cannot be changed: contexts and keys are under it")
		}
		*one = tenant.Reseller(v)
		return nil
	})
	return http.StatusOK, Reseller(changed), err
}

// removeReseller removes the keys last: they reach nothing once he is gone. Whoever has his name later must not find
// providers under it.
func (a *API) removeReseller(r *http.Request) (int, any, error) {
	name := r.PathValue("reseller")
	providers, err := a.Tenants.Providers(r.Context())
	if err != nil {
		return 0, nil, err
	}
	for _, p := range providers {
		if p.Reseller == name {
			return 0, nil, fmt.Errorf("reseller %q is %w by the provider %q: remove it, or give it to another reseller, first", name, tenant.ErrInUse, p.Name)
		}
	}
	if err := a.Tenants.RemoveReseller(r.Context(), name); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.Accounts.RemoveAdminKeysOf(r.Context(), RoleReseller, name)
}

func contextSetView(c tenant.ContextSet) ContextSet {
	return ContextSet{Name: c.Name, WithTags: c.WithTags, Priority: c.Priority, Origin: c.Origin}
}

// matching lists the contexts for whose tags a condition holds.
func (a *API) matching(r *http.Request, e cascade.Expression) ([]Context, error) {
	all, err := a.Tenants.Contexts(r.Context())
	matching := []Context{}
	for _, c := range all {
		if e.Matches(c.Tags) {
			matching = append(matching, Context(c))
		}
	}
	return matching, err
}

func (a *API) listContextSets(r *http.Request) (int, any, error) {
	all, err := a.Tenants.ContextSets(r.Context())
	if err != nil {
		return 0, nil, err
	}
	list := List[ContextSet]{Items: []ContextSet{}}
	for _, c := range all {
		v := contextSetView(c)
		e, err := cascade.ParseExpression(c.WithTags)
		if err != nil {
			return 0, nil, err
		}
		contexts, err := a.matching(r, e)
		if err != nil {
			return 0, nil, err
		}
		for _, one := range contexts {
			v.Contexts = append(v.Contexts, one.ID)
		}
		list.Items = append(list.Items, v)
	}
	return http.StatusOK, list, nil
}

func (a *API) addContextSet(r *http.Request) (int, any, error) {
	var v ContextSet
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	added, err := a.Tenants.AddContextSet(r.Context(), tenant.ContextSet{Name: v.Name, WithTags: v.WithTags, Priority: v.Priority})
	if err == nil {
		about(r, "contextsets/"+added.Name, 0)
	}
	return http.StatusCreated, contextSetView(added), err
}

func (a *API) changeContextSet(r *http.Request) (int, any, error) {
	var change struct {
		Name     *string
		WithTags *string `json:"with_tags"`
		Priority *int
	}
	if err := decode(r, &change); err != nil {
		return 0, nil, err
	}
	changed, err := a.Tenants.ChangeContextSet(r.Context(), r.PathValue("set"), func(c *tenant.ContextSet) error {
		if change.Name != nil && *change.Name != c.Name {
			return problem.InField("name", "cannot be changed: values are set under it")
		}
		give(&c.WithTags, change.WithTags)
		give(&c.Priority, change.Priority)
		return nil
	})
	return http.StatusOK, contextSetView(changed), err
}

func (a *API) removeContextSet(r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, a.Tenants.RemoveContextSet(r.Context(), r.PathValue("set"))
}

func (a *API) testContextSet(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	e, err := cascade.ParseExpression(q.Get("expression"))
	if err != nil {
		return 0, nil, problem.InField("expression", err.Error())
	}
	var v ContextSetTest
	if q.Has("tags") {
		var tags []string
		for tag := range strings.SplitSeq(q.Get("tags"), ",") {
			if tag = strings.TrimSpace(tag); tag == "" {
				continue
			}
			normal, err := cascade.CheckTag(tag)
			if err != nil {
				return 0, nil, problem.InField("tags", err.Error())
			}
			tags = append(tags, normal)
		}
		matches := e.Matches(tags)
		v.Matches = &matches
	}
	v.Contexts, err = a.matching(r, e)
	return http.StatusOK, v, err
}

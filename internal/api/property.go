package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// PropertyType is what a property may be.
type PropertyType struct {
	Name    string   `json:"name" example:"push.privacy"`
	Aliases []string `json:"aliases" doc:"names that stand for it"`
	Type    string   `json:"type" enum:"bool,int,duration,string,enum,list"`
	Default string   `json:"default" example:"full"`
	// One is the words of an enum, Min and Max the bounds of an int or a duration.
	One       []string `json:"one,omitempty"`
	Min       string   `json:"min,omitempty"`
	Max       string   `json:"max,omitempty"`
	Scopes    []string `json:"scopes" doc:"where it may be set"`
	Protected bool     `json:"protected" doc:"only the operator sets it"`
	Secret    bool     `json:"secret" doc:"its values are shown to nobody"`
	Doc       string   `json:"doc"`
}

// PropertyValue is a value that is set for a subject.
type PropertyValue struct {
	Scope    string `json:"scope" enum:"server,contextset,reseller,context,user" need:"true"`
	Subject  string `json:"subject,omitempty" example:"3@1" doc:"a context set or reseller by its name, a context or a user by its number; empty for the server"`
	Property string `json:"property" example:"push.privacy" need:"true"`
	Value    string `json:"value" example:"sender" need:"true" doc:"that of a list has commas between its entries"`
	Origin   string `json:"origin,omitempty" doc:"file and line, or who set it and when; only in answers"`
	SetBy    string `json:"set_by,omitempty" doc:"only in answers"`
	SetAt    string `json:"set_at,omitempty" format:"date-time" doc:"only in answers"`
}

// PropertyStep is one place where a value may be, or is.
type PropertyStep struct {
	Scope   string `json:"scope" enum:"default,server,contextset,reseller,context,user"`
	Subject string `json:"subject,omitempty" example:"1"`
	// Value is missing where nothing is set, which is not the same as an empty one.
	Value  *string `json:"value,omitempty" doc:"missing where nothing is set; an empty value is set"`
	Origin string  `json:"origin,omitempty" doc:"file and line, or who set it and when"`
	State  string  `json:"state" enum:"wins,passed over,not set,does not match"`
	Reason string  `json:"reason,omitempty"`
}

// PropertyExplanation is the value that holds, and why. Steps are from the most to the least specific.
type PropertyExplanation struct {
	Property string         `json:"property" example:"push.privacy"`
	Value    string         `json:"value"`
	Winner   PropertyStep   `json:"winner"`
	Steps    []PropertyStep `json:"steps"`
}

func (a *API) propertyOperations() []operation {
	subject := []param{
		{name: "scope", doc: "server, contextset, reseller, context or user", example: "context"},
		{name: "subject", doc: "the set, reseller, context or user", example: "1"},
	}
	return []operation{
		{
			id: "listPropertyTypes", method: "GET", path: "/properties/types", tag: "properties", summary: "List the properties that there are",
			roles: byReseller | byBrand, out: List[PropertyType]{}, status: http.StatusOK, do: a.listPropertyTypes,
		},
		{
			id: "listProperties", method: "GET", path: "/properties", tag: "properties", summary: "List the values that are set",
			roles: byReseller, query: subject, out: List[PropertyValue]{}, status: http.StatusOK, do: a.listProperties,
		},
		{
			id: "setProperty", method: "PUT", path: "/properties", tag: "properties", summary: "Set a value",
			roles: byReseller, in: PropertyValue{}, status: http.StatusNoContent, do: a.setProperty,
		},
		{
			id: "unsetProperty", method: "DELETE", path: "/properties", tag: "properties", summary: "Take a value away that was set by command or API",
			roles: byReseller, query: append(subject, param{name: "property", doc: "the property", example: "push.privacy", need: true}),
			status: http.StatusNoContent, do: a.unsetProperty,
		},
		{
			id: "explainProperty", method: "GET", path: "/properties/explain/{property}", tag: "properties",
			summary: "Say which value holds for a user, a context or the server, and why",
			roles:   byReseller, query: []param{
				{name: "user", doc: "for this user", example: "3@1"},
				{name: "context", doc: "for this context", example: int64(1)},
			}, out: PropertyExplanation{}, status: http.StatusOK, do: a.explainProperty,
		},
	}
}

func (a *API) listPropertyTypes(*http.Request) (int, any, error) {
	return listOf(cascade.Standard.Definitions(), nil, func(d cascade.Definition) PropertyType {
		v := PropertyType{
			Name: d.Name, Aliases: append([]string{}, d.Aliases...), Type: d.Type, Default: d.Default, One: d.One, Min: d.Min, Max: d.Max,
			Protected: d.Protected, Secret: d.Secret, Doc: d.Doc,
		}
		for _, s := range d.Scopes {
			v.Scopes = append(v.Scopes, s.String())
		}
		return v
	})
}

// subjectOf reads a subject, which the actor may see.
func (a *API) subjectOf(r *http.Request, scope, name string) (tenant.Subject, error) {
	s := tenant.Subject{Name: name}
	if err := s.Scope.UnmarshalText([]byte(scope)); err != nil || s.Scope == cascade.Default {
		return s, problem.InField("scope", "must be server, contextset, reseller, context or user")
	}
	return s, a.maySubject(r, s)
}

// maySubject is nil for a subject whose values the actor may see and change.
func (a *API) maySubject(r *http.Request, s tenant.Subject) error {
	seen, err := a.reach(r)
	if err != nil {
		return err
	}
	return maySubject(actorOf(r), seen, s)
}

// maySubject is the same for who has found out already what he may see.
func maySubject(actor Actor, seen reach, s tenant.Subject) error {
	if actor.Role == RoleOperator {
		return nil
	}
	var may bool
	switch s.Scope {
	case cascade.Reseller:
		may = actor.Role == RoleReseller && s.Name == actor.Subject
	case cascade.Context:
		id, err := contextNumber("subject", s.Name)
		if err != nil {
			return err
		}
		may = seen.has(id)
	case cascade.User:
		id, err := tenant.ParseUserID(s.Name)
		if err != nil {
			return err
		}
		may = seen.has(id.Context)
	default:
		return problem.New(http.StatusForbidden, "operators_scope",
			fmt.Sprintf("the scope %s is the operator's: set the value for a context or a user of yours", s.Scope))
	}
	if !may {
		return fmt.Errorf("%s %w", s, tenant.ErrNotFound)
	}
	return nil
}

// mayProperty is nil when the actor may set the property at all.
func (a *API) mayProperty(r *http.Request, name string) error {
	d, err := a.Tenants.Property(name)
	if err == nil && d.Protected && actorOf(r).Role != RoleOperator {
		err = problem.New(http.StatusForbidden, "protected_property", d.Name+" is set by the operator only: ask him to")
	}
	return err
}

func (a *API) listProperties(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	var only *tenant.Subject
	if q.Get("scope") != "" {
		s, err := a.subjectOf(r, q.Get("scope"), q.Get("subject"))
		if err != nil {
			return 0, nil, err
		}
		only = &s
	}
	all, err := a.Tenants.Properties(r.Context(), only)
	if err != nil {
		return 0, nil, err
	}
	seen, err := a.reach(r)
	if err != nil {
		return 0, nil, err
	}
	list := List[PropertyValue]{Items: []PropertyValue{}}
	for _, v := range all {
		if only == nil && maySubject(actorOf(r), seen, v.Subject) != nil {
			continue
		}
		item := PropertyValue{Scope: v.Scope.String(), Subject: v.Name, Property: v.Property, Value: v.Value, Origin: v.Origin, SetBy: v.SetBy}
		if !v.SetAt.IsZero() {
			item.SetAt = v.SetAt.UTC().Format(time.RFC3339)
		}
		list.Items = append(list.Items, item)
	}
	return http.StatusOK, list, nil
}

func (a *API) setProperty(r *http.Request) (int, any, error) {
	var v PropertyValue
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	s, err := a.subjectOf(r, v.Scope, v.Subject)
	if err == nil {
		err = a.mayProperty(r, v.Property)
	}
	if err != nil {
		return 0, nil, err
	}
	aboutProperty(r, s, v.Property)
	return http.StatusNoContent, nil, a.Tenants.SetProperty(r.Context(), s, v.Property, v.Value, actorOf(r).String())
}

func (a *API) unsetProperty(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	s, err := a.subjectOf(r, q.Get("scope"), q.Get("subject"))
	if err == nil {
		err = a.mayProperty(r, q.Get("property"))
	}
	if err != nil {
		return 0, nil, err
	}
	aboutProperty(r, s, q.Get("property"))
	return http.StatusNoContent, nil, a.Tenants.UnsetProperty(r.Context(), s, q.Get("property"))
}

// aboutProperty tells the audit log what a request is about.
func aboutProperty(r *http.Request, s tenant.Subject, property string) {
	var inContext int64
	switch s.Scope {
	case cascade.Context:
		inContext, _ = strconv.ParseInt(s.Name, 10, 64)
	case cascade.User:
		id, _ := tenant.ParseUserID(s.Name)
		inContext = id.Context
	default:
	}
	about(r, "properties/"+s.Scope.String()+"/"+s.Name+"/"+property, inContext)
}

func (a *API) explainProperty(r *http.Request) (int, any, error) {
	of, err := a.explainedFor(r, r.URL.Query())
	if err != nil {
		return 0, nil, err
	}
	e, err := a.Tenants.Explain(r.Context(), r.PathValue("property"), of)
	if err != nil {
		return 0, nil, err
	}
	operator := actorOf(r).Role == RoleOperator
	v := PropertyExplanation{Property: e.Name, Value: e.Value, Winner: stepView(e.Winner, operator), Steps: []PropertyStep{}}
	for _, s := range e.Steps {
		if operator || s.State != cascade.DoesNotMatch { // which sets there are for others is not told
			v.Steps = append(v.Steps, stepView(s, operator))
		}
	}
	return http.StatusOK, v, nil
}

// explainedFor reads whom an explanation is for, as tenant.Store.Explain takes it.
func (a *API) explainedFor(r *http.Request, q url.Values) (tenant.UserID, error) {
	user, inContext := q.Get("user"), q.Get("context")
	switch {
	case user != "" && inContext != "":
		return tenant.UserID{}, problem.InField("user", "name a user or a context, not both")
	case user != "":
		id, err := tenant.ParseUserID(user)
		if err != nil {
			return id, err
		}
		return id, a.mayUser(r, id)
	case inContext != "":
		id, err := contextNumber("context", inContext)
		if err != nil {
			return tenant.UserID{}, err
		}
		return tenant.UserID{Context: id}, a.mayContext(r, id)
	}
	return tenant.UserID{}, a.maySubject(r, tenant.Subject{Scope: cascade.Server})
}

// stepView shows others than the operator no paths of his files.
func stepView(s cascade.Step, operator bool) PropertyStep {
	v := PropertyStep{Scope: s.Scope.String(), Subject: s.Subject, Origin: s.Origin, State: string(s.State), Reason: s.Reason}
	if s.State != cascade.NotSet {
		v.Value = &s.Value
	}
	if !operator && s.Scope <= cascade.ContextSet && s.Scope > cascade.Default && v.Origin != "" {
		v.Subject, v.Origin = "", "set by the operator"
	}
	return v
}

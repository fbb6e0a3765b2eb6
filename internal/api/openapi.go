package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// face is one of the two APIs that a table makes, as its document describes it.
type face struct {
	title, intro string
	// prefix is where the public listener has the table.
	prefix string
	// scheme names how who asks is known, format is what his token looks like, about where it is from.
	scheme, format, about string
	// params are what stands in braces in paths.
	params map[string]param
	// closed is what every operation may refuse with that is not open, change what each may that changes something.
	closed, change []int
	// refusals are the answers that are no success, by status; an operation has no others.
	refusals map[int]string
}

// adminFace is the administration.
var adminFace = face{
	title: "Posthorn administration", prefix: "/api/v1/admin",
	intro: `Administration of a Posthorn installation: contexts (tenants), users, keys and what hangs on them.

Each request bears a key: ` + "`Authorization: Bearer pha_…`" + `. A key has a role. The operator's may do everything; a reseller's
acts for the contexts of that reseller; a brand's for that one provider. x-roles says who has an operation. What a key
may not see is answered with 404, as if it were not there. Every error is a problem document (RFC 9457).`,
	scheme: "key", format: "pha_…", about: "a key of the administration, made with posthorn key add or addKey",
	params:   pathParams,
	closed:   []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests},
	change:   []int{http.StatusConflict},
	refusals: refusals,
}

// mediaJSON is the media type of nearly everything.
const mediaJSON = "application/json"

// document is an OpenAPI document, which is made when it is first asked for.
type document struct {
	once sync.Once
	raw  json.RawMessage
	err  error
}

func (d *document) get(f *face, table func() []operation) (int, any, error) {
	d.once.Do(func() { d.raw, d.err = json.Marshal(f.document(table())) })
	return http.StatusOK, d.raw, d.err
}

func (a *API) deviceDocument(*http.Request) (int, any, error) {
	return a.documents[0].get(&deviceFace, a.deviceOperations)
}

func (a *API) adminDocument(*http.Request) (int, any, error) {
	return a.documents[1].get(&adminFace, a.operations)
}

type object = map[string]any

// document makes the OpenAPI 3.1 document of a table.
func (f *face) document(table []operation) object {
	s := schemas{}
	paths := object{}
	tags := []any{}
	seen := map[string]bool{}
	for _, o := range table {
		path := f.prefix + o.path
		item, ok := paths[path].(object)
		if !ok {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(o.method)] = f.describe(&o, s)
		if !seen[o.tag] {
			seen[o.tag] = true
			tags = append(tags, object{"name": o.tag})
		}
	}
	trouble := s.of(problem.Problem{}, false)
	responses := object{}
	for status, doc := range f.refusals {
		r := object{"description": doc, "content": object{problem.MediaType: object{"schema": trouble}}}
		header := func(name, doc string) {
			r["headers"] = object{name: object{"description": doc, "schema": object{"type": "string"}}}
		}
		switch status {
		case http.StatusUnauthorized:
			header("WWW-Authenticate", "the scheme to answer with (RFC 6750)")
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			header("Retry-After", "seconds to wait")
		}
		responses[strconv.Itoa(status)] = r
	}
	return object{
		"openapi":           "3.1.0",
		"jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
		"info": object{
			"title": f.title, "version": "1", "description": f.intro,
			"license": object{"name": "Apache License 2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []any{object{"url": "/"}},
		"security": []any{object{f.scheme: []any{}}},
		"tags":     tags,
		"paths":    paths,
		"components": object{
			"schemas":   maps.Clone(s),
			"responses": responses,
			"securitySchemes": object{f.scheme: object{
				"type": "http", "scheme": "bearer", "bearerFormat": f.format, "description": f.about,
			}},
		},
	}
}

// refusals are those of the administration.
var refusals = map[int]string{
	http.StatusBadRequest:            "the body is not what its type says",
	http.StatusUnauthorized:          "there is no key, or it is not valid, or it has expired",
	http.StatusForbidden:             "the key's role has not this operation, or not this member of it",
	http.StatusNotFound:              "there is no such thing, or it is not for this key",
	http.StatusConflict:              "it exists already, or is still in use",
	http.StatusRequestEntityTooLarge: "the body is too large",
	http.StatusUnsupportedMediaType:  "the body is of a type that this does not take",
	http.StatusUnprocessableEntity:   "a member or a parameter is wrong: field says which, detail what to do",
	http.StatusTooManyRequests:       "too many wrong keys from this address",
	http.StatusInternalServerError:   "a fault of the server, whose log says more",
	http.StatusServiceUnavailable:    "cannot be done now: try again",
}

// refused is the statuses that an operation may refuse with.
func (f *face) refused(o *operation) []int {
	all := slices.Clone(o.refuses)
	if !o.open || o.optional {
		all = append(all, f.closed...)
	}
	params := len(pathParameters(o.path)) > 0
	if params && o.raw == nil {
		all = append(all, http.StatusNotFound)
	}
	if o.method != http.MethodGet {
		all = append(all, f.change...)
	}
	if o.in != nil {
		all = append(all, http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if o.raw == nil && (o.in != nil || params || len(o.query) > 0) {
		all = append(all, http.StatusNotFound, http.StatusUnprocessableEntity)
	}
	if o.page != nil {
		all = append(all, http.StatusPreconditionFailed)
	}
	all = append(all, http.StatusInternalServerError, http.StatusServiceUnavailable)
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(status int) bool { return f.refusals[status] == "" })
}

// who names the roles that have an operation.
func (o *operation) who() []string {
	all := []string{string(RoleOperator)}
	if o.roles&byReseller != 0 {
		all = append(all, string(RoleReseller))
	}
	if o.roles&byBrand != 0 {
		all = append(all, string(RoleBrand))
	}
	return all
}

func (f *face) describe(o *operation, s schemas) object {
	answers := object{}
	for _, status := range f.refused(o) {
		answers[strconv.Itoa(status)] = object{"$ref": fmt.Sprintf("#/components/responses/%d", status)}
	}
	success := object{"description": cmp.Or(http.StatusText(o.status), "done")}
	text := func(doc string) object { return object{"description": doc, "schema": object{"type": "string"}} }
	switch {
	case o.raw != nil:
		success["headers"] = object{"Location": text("where the browser goes on")}
		answers["400"] = object{"description": "a page for people: nothing is under way", "content": contents(o.media, object{"type": "string"})}
	case o.page != nil:
		success["headers"] = object{"ETag": text("to be sent again as If-None-Match"), brand.SignatureHeader: text("of the directory and of a branding: who signed it, and how")}
		success["content"] = contents(o.media, object{})
		if o.out != nil {
			success["content"] = contents(o.media, s.of(o.out, false))
		}
		answers["304"] = object{"description": "it is what If-None-Match says"}
	case o.out != nil:
		content := contents(o.media, object{"type": "string"})
		content[mediaJSON] = object{"schema": s.of(o.out, false)}
		success["content"] = content
	}
	answers[strconv.Itoa(o.status)] = success
	d := object{
		"operationId": o.id, "tags": []any{o.tag}, "summary": o.summary, "responses": answers,
	}
	switch {
	case o.optional:
		d["security"] = []any{object{}, object{f.scheme: []any{}}}
	case o.open:
		d["security"] = []any{}
	case f.prefix != "":
		d["x-roles"] = o.who()
		d["description"] = "For a key of: " + strings.Join(o.who(), ", ") + "."
	}
	params := []any{}
	for _, name := range pathParameters(o.path) {
		p, ok := f.params[name]
		if !ok {
			p = param{doc: "the " + name, example: "example"}
		}
		params = append(params, object{
			"name": name, "in": "path", "required": true, "description": p.doc,
			"schema": s.of(p.example, false), "example": p.example,
		})
	}
	for _, p := range o.query {
		q := object{"name": p.name, "in": "query", "description": p.doc, "schema": s.of(p.example, false), "example": p.example}
		if p.need {
			q["required"] = true
		}
		params = append(params, q)
	}
	if len(params) > 0 {
		d["parameters"] = params
	}
	if o.in != nil {
		var content object
		if types, ok := o.in.(lines); ok {
			content = contents(types, object{"type": "string"})
		} else {
			content = contents([]string{mediaJSON}, s.request(o.in, o.method))
		}
		d["requestBody"] = object{"required": true, "content": content}
	}
	return d
}

// contents are bodies of one schema, each of a media type.
func contents(types []string, schema any) object {
	all := object{}
	for _, t := range types {
		all[t] = object{"schema": schema}
	}
	return all
}

// lines is the in of an operation whose body is lines of text, as the media types that it may have.
type lines []string

// pathParams are those of the administration.
var pathParams = map[string]param{
	"id":       {doc: "the context's number", example: int64(1)},
	"user":     {doc: "the user, <id>@<context>", example: "3@1"},
	"name":     {doc: "the name", example: "main"},
	"device":   {doc: "the subscription's id", example: "eac3bbc35f75301634566966"},
	"key":      {doc: "the key's id, not the key", example: "0123456789abcdef"},
	"reseller": {doc: "the reseller's name", example: "north"},
	"set":      {doc: "the context set's name", example: "premium"},
	"provider": {doc: "the provider's name", example: "blue"},
	"property": {doc: "the property's name, or an alias", example: "push.privacy"},
}

// pathParameters are the names in a path's braces.
func pathParameters(path string) []string {
	var all []string
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			all = append(all, strings.TrimSuffix(name, "}"))
		}
	}
	return all
}

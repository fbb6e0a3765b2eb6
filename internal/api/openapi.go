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
)

// adminPrefix is where the public listener has the table.
const adminPrefix = "/api/v1/admin"

// document is the OpenAPI document, which is made when it is first asked for.
type document struct {
	once sync.Once
	raw  json.RawMessage
	err  error
}

func (a *API) openAPI(*http.Request) (int, any, error) {
	a.document.once.Do(func() {
		a.document.raw, a.document.err = json.Marshal(documentOf(a.operations()))
	})
	return http.StatusOK, a.document.raw, a.document.err
}

type object = map[string]any

const documentIntro = `Administration of a Posthorn installation: contexts (tenants), users, keys and what hangs on them.

Each request bears a key: ` + "`Authorization: Bearer pha_…`" + `. A key has a role. The operator's may do everything; a reseller's
acts for the contexts of that reseller; a brand's for that one provider. x-roles says who has an operation. What a key
may not see is answered with 404, as if it were not there. Every error is a problem document (RFC 9457).`

// documentOf makes the OpenAPI 3.1 document of a table.
func documentOf(table []operation) object {
	s := schemas{}
	paths := object{}
	tags := []any{}
	seen := map[string]bool{}
	for _, o := range table {
		path := adminPrefix + o.path
		item, ok := paths[path].(object)
		if !ok {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(o.method)] = o.describe(s)
		if !seen[o.tag] {
			seen[o.tag] = true
			tags = append(tags, object{"name": o.tag})
		}
	}
	trouble := s.of(problem.Problem{}, false)
	responses := object{}
	for status, doc := range refusals {
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
			"title": "Posthorn administration", "version": "1", "description": documentIntro,
			"license": object{"name": "Apache License 2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []any{object{"url": "/"}},
		"security": []any{object{"key": []any{}}},
		"tags":     tags,
		"paths":    paths,
		"components": object{
			"schemas":   maps.Clone(s),
			"responses": responses,
			"securitySchemes": object{"key": object{
				"type": "http", "scheme": "bearer", "bearerFormat": "pha_…",
				"description": "a key of the administration, made with posthorn key add or addKey",
			}},
		},
	}
}

// refusals are the answers that are no success, by status.
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
func (o *operation) refused() []int {
	var all []int
	if !o.open {
		all = append(all, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests)
	}
	params := len(pathParameters(o.path)) > 0
	if params {
		all = append(all, http.StatusNotFound)
	}
	if o.method != http.MethodGet {
		all = append(all, http.StatusConflict)
	}
	if o.in != nil {
		all = append(all, http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if o.in != nil || params || len(o.query) > 0 {
		all = append(all, http.StatusNotFound, http.StatusUnprocessableEntity)
	}
	all = append(all, http.StatusInternalServerError, http.StatusServiceUnavailable)
	if o.id == "reload" { // a configuration that cannot be used
		all = append(all, http.StatusUnprocessableEntity)
	}
	slices.Sort(all)
	return slices.Compact(all)
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

func (o *operation) describe(s schemas) object {
	answers := object{}
	success := object{"description": cmp.Or(http.StatusText(o.status), "done")}
	if o.out != nil {
		success["content"] = object{"application/json": object{"schema": s.of(o.out, false)}}
	}
	answers[strconv.Itoa(o.status)] = success
	for _, status := range o.refused() {
		answers[strconv.Itoa(status)] = object{"$ref": fmt.Sprintf("#/components/responses/%d", status)}
	}
	d := object{
		"operationId": o.id, "tags": []any{o.tag}, "summary": o.summary, "responses": answers,
	}
	if o.open {
		d["security"] = []any{}
	} else {
		d["x-roles"] = o.who()
		d["description"] = "For a key of: " + strings.Join(o.who(), ", ") + "."
	}
	params := []any{}
	for _, name := range pathParameters(o.path) {
		p, ok := pathParams[name]
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
		content := object{}
		if types, ok := o.in.(lines); ok {
			for _, t := range types {
				content[t] = object{"schema": object{"type": "string"}}
			}
		} else {
			content["application/json"] = object{"schema": s.request(o.in, o.method)}
		}
		d["requestBody"] = object{"required": true, "content": content}
	}
	return d
}

// lines is the in of an operation whose body is lines of text, as the media types that it may have.
type lines []string

// pathParams are what stands in braces in paths.
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

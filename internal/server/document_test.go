package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// documented is the OpenAPI document of a server, and a client that holds every request and every answer to it.
type documented struct {
	w   *world
	doc *openapi3.T
	ops map[string]routers.Route // by operationId
	// done counts what was called with success.
	done map[string]int
}

// Where the documents are.
const adminDocument, deviceDocument = "/api/v1/admin/openapi.json", "/api/v1/openapi.json"

// readDocument fetches a document as anybody can, and has it judged.
func readDocument(w *world, path string) *documented {
	w.tb.Helper()
	req, err := http.NewRequestWithContext(w.tb.Context(), http.MethodGet, w.public+path, nil)
	must(w.tb, err)
	res, err := http.DefaultClient.Do(req)
	must(w.tb, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(w.tb, err)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
		w.tb.Fatalf("the document: %d %s", res.StatusCode, raw)
	}
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	must(w.tb, err)
	if err := doc.Validate(w.tb.Context()); err != nil {
		w.tb.Fatalf("the document is not valid: %v", err)
	}
	if !doc.IsOpenAPI31OrLater() {
		w.tb.Fatalf("version %s", doc.OpenAPI)
	}
	d := &documented{w: w, doc: doc, ops: map[string]routers.Route{}, done: map[string]int{}}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if _, twice := d.ops[op.OperationID]; op.OperationID == "" || twice {
				w.tb.Errorf("%s %s: operationId %q", method, path, op.OperationID)
			}
			d.ops[op.OperationID] = routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op}
		}
	}
	// A validator lets members pass that the document does not know; ours are to have none in an answer.
	no := false
	for name, s := range doc.Components.Schemas {
		if !strings.HasSuffix(name, "Request") && !strings.HasSuffix(name, "Change") && len(s.Value.Properties) > 0 {
			s.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
		}
	}
	return d
}

func init() { // the validator reads a body of lines as it reads text
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", openapi3filter.RegisteredBodyDecoder("text/plain"))
	openapi3filter.RegisterBodyDecoder("text/csv", openapi3filter.RegisteredBodyDecoder("text/plain"))
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.RegisteredBodyDecoder("text/plain"))
	for _, media := range []string{"image/png", "image/svg+xml", "application/x-pem-file", "application/schema+json"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.FileBodyDecoder)
	}
}

// request is a call of an operation.
type request struct {
	op    string
	path  map[string]string // values of what is in braces
	query url.Values
	in    any // JSON, or a string as it is
	media string
	known string // what was had before, as If-None-Match
}

// unfollowed shows redirects as they are.
var unfollowed = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	raw    []byte
}

func (a answer) member(tb testing.TB, name string) string {
	tb.Helper()
	var m map[string]any
	must(tb, json.Unmarshal(a.raw, &m))
	return fmt.Sprint(m[name])
}

// send makes a request as the document describes it, and holds the answer to it: status, content type, body.
func (d *documented) send(r request, key string) answer {
	tb := d.w.tb
	tb.Helper()
	route, ok := d.ops[r.op]
	if !ok {
		tb.Fatalf("the document has no %s", r.op)
	}
	path := route.Path
	for name, value := range r.path {
		path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(value))
	}
	if strings.Contains(path, "{") {
		tb.Fatalf("%s: no value for %s", r.op, path)
	}
	var raw []byte
	media := r.media
	switch in := r.in.(type) {
	case nil:
	case string:
		raw = []byte(in)
	default:
		var err error
		raw, err = json.Marshal(in)
		must(tb, err)
		media = "application/json"
	}
	newRequest := func() *http.Request {
		req, err := http.NewRequestWithContext(tb.Context(), route.Method, d.w.public+path+"?"+r.query.Encode(), bytes.NewReader(raw))
		must(tb, err)
		if media != "" {
			req.Header.Set("Content-Type", media)
		}
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		if r.known != "" {
			req.Header.Set("If-None-Match", r.known)
		}
		return req
	}
	res, err := unfollowed.Do(newRequest())
	must(tb, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(tb, err)

	input := &openapi3filter.RequestValidationInput{
		Request: newRequest(), PathParams: r.path, QueryParams: r.query, Route: &route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, ExcludeWriteOnlyValidations: true, MultiError: true,
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, RejectWhenRequestBodyNotSpecified: true,
		},
	}
	err = openapi3filter.ValidateRequest(context.WithoutCancel(tb.Context()), input)
	if good := res.StatusCode < 400; good && err != nil {
		tb.Errorf("%s: %d for a request that the document does not allow: %v", r.op, res.StatusCode, err)
	}
	if media := res.Header.Get("Content-Type"); res.StatusCode >= 400 && media != "application/problem+json" && r.op != "finishSignIn" {
		tb.Errorf("%s: %d with content type %q", r.op, res.StatusCode, media)
	}
	err = openapi3filter.ValidateResponse(context.WithoutCancel(tb.Context()), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: res.StatusCode, Header: res.Header, Body: io.NopCloser(bytes.NewReader(body)), Options: input.Options,
	})
	if err != nil {
		tb.Errorf("%s: the answer is not as the document says: %v\n%d %s", r.op, err, res.StatusCode, body)
	}
	if res.StatusCode < 400 {
		d.done[r.op]++
	}
	return answer{res.StatusCode, res.Header, body}
}

// ask is send for a request that must succeed.
func (d *documented) ask(r request, key string) answer {
	d.w.tb.Helper()
	a := d.send(r, key)
	if a.status >= 400 {
		d.w.tb.Fatalf("%s: %d %s", r.op, a.status, a.raw)
	}
	return a
}

// adminKey makes a key on the admin socket.
func (w *world) adminKey(k api.Key) api.Key {
	w.tb.Helper()
	var made api.Key
	must(w.tb, w.admin.Do(w.tb.Context(), "POST", "/admin/v1/keys", nil, k, &made))
	return made
}

// TestDocument calls every operation of the OpenAPI document on the public listener, and holds what is sent and what
// comes back to the document. An operation that is not called fails.
func TestDocument(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	d := readDocument(w, adminDocument)
	const alice = "alice@rig.test"
	dovecot := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(dovecot, api.MailHost{}, alice)
	token := w.signIn(alice, secret, "phone")
	p := w.apnsPhone()
	device := w.subscribe(token, p.transport, p.token, "registered")
	key := w.adminKey(api.Key{Role: api.RoleOperator}).Key
	path := func(name, value string) map[string]string { return map[string]string{name: value} }

	d.send(request{op: "listContexts"}, "")
	d.send(request{op: "listContexts"}, "pha_nonsense")
	d.ask(request{op: "getDocument"}, "")

	d.ask(request{op: "addReseller", in: api.Reseller{Name: "north"}}, key)
	d.ask(request{op: "changeReseller", path: path("reseller", "north"), in: map[string]any{"contact": "help@north.example"}}, key)
	d.ask(request{op: "listResellers"}, key)
	d.ask(request{op: "addContextSet", in: api.ContextSet{Name: "trials", WithTags: "trial & !paid"}}, key)
	d.ask(request{op: "changeContextSet", path: path("set", "trials"), in: map[string]any{"priority": 3}}, key)
	d.ask(request{op: "testContextSet", query: url.Values{"expression": {"trial & !paid"}, "tags": {"trial,new"}}}, key)
	two := d.ask(request{op: "addContext", in: api.Context{Name: "two"}}, key).member(t, "id")
	d.ask(request{op: "changeContext", path: path("id", two), in: map[string]any{"tags": []string{"trial"}, "reseller": "north"}}, key)
	d.ask(request{op: "listContexts"}, key)
	d.ask(request{op: "listContextSets"}, key)
	d.ask(request{op: "addMailHost", in: api.MailHost{Name: "other", IMAP: "mail.example.org", NotifyLogin: "other", MasterLogin: "m", MasterPassword: "x", PasswordSource: "global"}}, key)
	d.ask(request{op: "changeMailHost", path: path("name", "other"), in: map[string]any{"source": "idle"}}, key)
	d.ask(request{op: "listMailHosts"}, key)
	bob := d.ask(request{op: "addUser", in: api.User{User: "@" + two, Login: "bob@rig.test", MailHost: "other"}}, key).member(t, "user")
	d.ask(request{op: "listUsers", query: url.Values{"context": {two}}}, key)
	if a := d.send(request{op: "removeContext", path: path("id", two)}, key); a.status != 409 {
		t.Errorf("a context with users: %d %s", a.status, a.raw)
	}
	d.ask(request{op: "removeUser", path: path("user", bob)}, key)
	d.ask(request{op: "removeMailHost", path: path("name", "other")}, key)
	d.ask(request{op: "removeContext", path: path("id", two)}, key)
	d.ask(request{op: "removeContextSet", path: path("set", "trials")}, key)
	d.ask(request{op: "removeReseller", path: path("reseller", "north")}, key)
	for _, r := range []request{
		{op: "removeContext", path: path("id", two)},
		{op: "removeUser", path: path("user", bob)},
		{op: "tracePush", path: path("device", "nobodys")},
	} {
		if a := d.send(r, key); a.status != 404 {
			t.Errorf("%s of what is gone: %d %s", r.op, a.status, a.raw)
		}
	}

	w.notify(alice, 1)
	w.receive(p)
	d.ask(request{op: "testPush", in: api.PushTest{User: "1@1"}}, key)
	w.receive(p)
	d.ask(request{op: "listPushUsers", query: url.Values{"user": {"1@1"}}}, key)
	d.ask(request{op: "listPushDevices", query: url.Values{"user": {"1@1"}}}, key)
	d.ask(request{op: "listPushRegistrations"}, key)
	d.ask(request{op: "explainPush", path: path("user", "1@1")}, key)
	w.waitFor("a trace", func() bool {
		return strings.Contains(string(d.ask(request{op: "tracePush", path: path("device", device)}, key).raw), "delivered")
	})
	d.ask(request{op: "removePushRegistration", query: url.Values{"user": {"1"}, "context": {"1"}, "client": {"posthorn-app"}}}, key)

	d.ask(request{
		op: "importUsers", in: "context,login,mailhost\n1,many@rig.test,dove\nnew,more@rig.test,dove\n9,x@rig.test,dove\n", media: "text/csv",
		query: url.Values{"create_contexts": {"1"}},
	}, key)
	d.ask(request{op: "importUsers", in: `{"user":"9@1","login":"x@rig.test","mailhost":"dove"}`, media: "application/x-ndjson", query: url.Values{"dry_run": {"1"}}}, key)
	d.ask(request{op: "listPropertyTypes"}, key)
	d.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "context", Subject: "1", Property: "push.privacy", Value: "sender"}}, key)
	ofOne := url.Values{"scope": {"context"}, "subject": {"1"}}
	d.ask(request{op: "listProperties", query: ofOne}, key)
	if got := d.ask(request{op: "explainProperty", path: path("property", "push.privacy"), query: url.Values{"user": {"1@1"}}}, key).member(t, "value"); got != "sender" {
		t.Errorf("push.privacy of 1@1 is %s", got)
	}
	ofOne.Set("property", "push.privacy")
	d.ask(request{op: "unsetProperty", query: ofOne}, key)
	d.ask(request{op: "addProvider", in: map[string]any{
		"name": "blue", "colour": "#1c6ea4", "sign_in": "oidc", "logo": []byte(blueLogo),
		"oidc": map[string]any{"issuer": "https://login.blue.example", "client_id": "posthorn", "client_secret": "secret"},
	}}, key)
	d.ask(request{op: "changeProvider", path: path("provider", "blue"), in: map[string]any{"title": "Blue", "listed": true}}, key)
	d.ask(request{op: "showProvider", path: path("provider", "blue")}, key)
	d.ask(request{op: "listProviders"}, key)
	d.ask(request{op: "checkProvider", path: path("provider", "blue"), in: map[string]any{
		"accounts": []any{map[string]any{"login": alice, "password": secret, "mailhost": "dove"}}, "user": "1@1",
	}}, key)
	d.ask(request{op: "removeProvider", path: path("provider", "blue")}, key)
	d.ask(request{op: "listHosts"}, key)
	d.ask(request{op: "discover", in: api.Discover{Input: "https://127.0.0.1"}}, key)
	d.ask(request{op: "checkHost", query: url.Values{"host": {"mail.example.org"}}}, key)
	id := d.ask(request{op: "addKey", in: api.Key{Role: api.RoleOperator, Note: "soon gone"}}, key).member(t, "id")
	d.ask(request{op: "listKeys"}, key)
	d.ask(request{op: "removeKey", path: path("key", id)}, key)
	d.ask(request{op: "listNodes"}, key)
	d.ask(request{op: "drainNode"}, key)
	d.ask(request{op: "undrainNode"}, key)
	d.ask(request{op: "rotateCredentials", in: api.Rotate{}}, key)
	d.ask(request{op: "runDoctor", in: api.Doctor{MailHosts: []string{"dove"}}}, key)
	d.ask(request{op: "reload"}, key)
	w.waitFor("the audit log", func() bool {
		return strings.Contains(string(d.ask(request{op: "listAudit", query: url.Values{"act": {"removeKey"}, "limit": {"5"}}}, key).raw), `"keys/`+id)
	})

	// Requests that are refused for their form are in the document as well.
	for status, r := range map[int]request{
		400: {op: "addContext", in: "{", media: "application/json"},
		413: {op: "addContext", in: `{"name":"` + strings.Repeat("x", 65<<10) + `"}`, media: "application/json"},
		415: {op: "addContext", in: "name=x", media: "application/x-www-form-urlencoded"},
		422: {op: "addContext", in: map[string]any{"name": 1}},
		409: {op: "addContext", in: api.Context{Name: "one"}},
	} {
		if a := d.send(r, key); a.status != status {
			t.Errorf("%d, want %d: %s", a.status, status, a.raw)
		}
	}
	d.whole()
}

// whole fails for an operation that was not called.
func (d *documented) whole() {
	d.w.tb.Helper()
	for _, op := range slices.Sorted(maps.Keys(d.ops)) {
		if d.done[op] == 0 {
			d.w.tb.Errorf("%s is not called: add a call of it here", op)
		}
	}
}

// TestAdminMethods: what is not in the table is answered with a problem as well.
func TestAdminMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	w.start()
	key := w.adminKey(api.Key{Role: api.RoleOperator}).Key
	w.call("PUT", "/api/v1/admin/contexts", key, nil, 405)
	w.call("GET", "/api/v1/admin/nothing", key, nil, 404)
	w.call("HEAD", "/api/v1/admin/contexts", key, nil, 200)
	w.call("HEAD", "/api/v1/admin/contexts", "", nil, 401)
	w.call("HEAD", "/api/v1/admin/reload", key, nil, 405)
	for _, query := range []string{"context=1;context=2", "context=%zz", "context=%00"} { // and not the users of all contexts
		w.call("GET", "/api/v1/admin/users?"+query, key, nil, 422)
	}
	if out := w.call("GET", "/api/v1/admin/contexts", "", nil, 401); out["reason"] != "no_key" {
		t.Errorf("%v", out)
	}
}

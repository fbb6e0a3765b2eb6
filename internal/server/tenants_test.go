package server_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// side is what one tenant has.
type side struct {
	reseller, provider string
	mark               string // in all of his texts
	contexts           [2]string
	user               string // of the first context
	login              string
	device             string // a subscription of the user
	session            string
	signedIn           string // a device with a session, as the API lists it
	keyID              string
	token              string // of the user's session
	key, brand         string
	secrets            []string // what nobody else may read, besides the mark
}

// nobody has the form of a side, and does not exist.
var nobody = side{
	reseller: "nobody", provider: "nowhere", mark: "spectre", contexts: [2]string{"4000000077", "4000000078"}, user: "1@4000000077", login: "spectre@rig.test",
	device: "0123456789abcdef01234567", session: "0123456789abcdef", signedIn: "0123456789abcdef", keyID: "0123456789abcdef",
}

// tenants is a server with two resellers, who have two contexts, a provider and a key each, and in each context a user
// with a device that was told of mail.
type tenants struct {
	*documented
	operator     string
	north, south side
}

func newTenants(t *testing.T) *tenants {
	w := newWorld(t, sqliteURL(t), "login")
	w.edit("push: {", "sign_in: {attempts_per_address: 100000, attempts_per_login: 2}\npush: {") // of wrong keys
	w.start()
	x := &tenants{documented: readDocument(w, adminDocument), operator: w.adminKey(api.Key{Role: api.RoleOperator}).Key}
	logins := map[string]string{}
	for _, mark := range []string{"nordlicht7f3a", "suedwind9c1e"} {
		for i := range 2 {
			logins[fmt.Sprintf("%s.%d@rig.test", mark, i)] = secret
		}
	}
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: logins, NotifyURL: w.notifyURL()})
	host := api.MailHost{Name: "dove", Security: "none", IMAP: fmt.Sprintf("%s:%d", d.Host, d.IMAPPort)}
	x.ask(request{op: "addMailHost", in: host}, x.operator)
	x.north = x.furnish("north", "blue", "nordlicht7f3a")
	x.south = x.furnish("south", "red", "suedwind9c1e")
	return x
}

func (x *tenants) furnish(reseller, provider, mark string) side {
	w := x.w
	s := side{reseller: reseller, provider: provider, mark: mark}
	x.ask(request{op: "addReseller", in: api.Reseller{Name: reseller, Title: "Title " + mark, Contact: mark + "@example.org"}}, x.operator)
	x.ask(request{op: "addProvider", in: api.Provider{
		Name: provider, Title: "Brand " + mark, Colour: "#1c6ea4", Contact: mark, Reseller: reseller, Hosts: []string{mark + ".example"},
	}}, x.operator)
	for i := range s.contexts {
		made := x.ask(request{op: "addContext", in: api.Context{Name: fmt.Sprintf("Context %s %d", mark, i), Reseller: reseller}}, x.operator)
		s.contexts[i] = made.member(w.tb, "id")
		login := fmt.Sprintf("%s.%d@rig.test", mark, i)
		user := x.ask(request{op: "addUser", in: api.User{User: "@" + s.contexts[i], Login: login, MailHost: "dove"}}, x.operator).member(w.tb, "user")
		x.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "context", Subject: s.contexts[i], Property: "provider", Value: provider}}, x.operator)
		x.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "user", Subject: user, Property: "push.quiet_hours", Value: ""}}, x.operator)
		token := w.signIn(login, secret, "phone of "+mark)
		p := w.apnsPhone()
		device := w.subscribe(token, p.transport, p.token, "registered")
		w.notify(login, 1)
		w.receive(p)
		w.waitFor("the trace of "+device, func() bool {
			return strings.Contains(string(x.ask(request{op: "tracePush", path: map[string]string{"device": device}}, x.operator).raw), "delivered")
		})
		s.secrets = append(s.secrets, device, p.target[len(p.target)-8:])
		if i == 0 {
			s.user, s.login, s.device, s.token = user, login, device, token
			s.session = w.call("GET", "/api/v1/sessions", token, nil, 200)["items"].([]any)[0].(map[string]any)["id"].(string)
			s.signedIn = w.call("GET", "/api/v1/devices", token, nil, 200)["items"].([]any)[0].(map[string]any)["id"].(string)
		}
	}
	x.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "reseller", Subject: reseller, Property: "push.allowed_clients", Value: "posthorn-*," + mark}}, x.operator)
	k := w.adminKey(api.Key{Role: api.RoleReseller, Reseller: reseller, Note: "Note " + mark})
	s.key, s.keyID = k.Key, k.ID
	b := w.adminKey(api.Key{Role: api.RoleBrand, Provider: provider, Note: "Note " + mark})
	s.brand = b.Key
	s.secrets = append(s.secrets, s.mark, s.session, s.signedIn, k.ID, b.ID)
	return s
}

// rows is all that the database holds, but for what changes by itself.
func (w *world) rows() map[string][]string {
	w.tb.Helper()
	d, err := db.Open(w.tb.Context(), w.databaseURL, db.Options{})
	must(w.tb, err)
	defer d.Close() //nolint:errcheck // only read from
	all := map[string][]string{}
	for table, columns := range map[string]string{
		"contexts": "*", "users": "*", "resellers": "*", "context_sets": "*", "properties": "*", "providers": "*", "mailhosts": "*",
		"subscriptions": "*", "sequences": "*", "admin_keys": "id, role, subject, note, expires_ms", "sessions": "id, token_hash, context_id, user_id, client",
	} {
		rows, err := d.Query(w.tb.Context(), "SELECT "+columns+" FROM "+table)
		must(w.tb, err)
		names, err := rows.Columns()
		must(w.tb, err)
		for rows.Next() {
			row := make([]any, len(names))
			for i := range row {
				row[i] = new(any)
			}
			must(w.tb, rows.Scan(row...))
			line := ""
			for _, v := range row {
				line += fmt.Sprint(*v.(*any)) + "|"
			}
			all[table] = append(all[table], line)
		}
		must(w.tb, rows.Err())
		must(w.tb, rows.Close())
		slices.Sort(all[table])
	}
	return all
}

// unchanged fails when an act had an effect.
func (x *tenants) unchanged(who string, before map[string][]string) {
	x.w.tb.Helper()
	after := x.w.rows()
	for table, rows := range before {
		if !slices.Equal(rows, after[table]) {
			x.w.tb.Errorf("%s changed %s:\n%s\n%s", who, table, strings.Join(rows, "\n"), strings.Join(after[table], "\n"))
		}
	}
}

// silent fails when an answer holds something of a side that was not in the question.
func (x *tenants) silent(who string, a answer, s side, asked string) {
	x.w.tb.Helper()
	for _, word := range s.secrets {
		if !strings.Contains(asked, word) && bytes.Contains(bytes.ToLower(a.raw), []byte(strings.ToLower(word))) {
			x.w.tb.Errorf("%s reads %q of %s: %d %s", who, word, s.reseller, a.status, a.raw)
		}
	}
}

// roles are who may, as the document says.
func (x *tenants) roles(op string) []string {
	var roles []string
	all, _ := x.ops[op].Operation.Extensions["x-roles"].([]any)
	for _, role := range all {
		roles = append(roles, role.(string))
	}
	return roles
}

// TestTenants sends every operation of both documents, aimed at what is one tenant's, with every other key that there
// is: it is refused, says nothing that it would not say of what does not exist, and does nothing.
func TestTenants(t *testing.T) {
	t.Parallel()
	x := newTenants(t)
	w := x.w
	gone := w.adminKey(api.Key{Role: api.RoleOperator})
	w.exec("UPDATE admin_keys SET expires_ms = 1 WHERE id = '" + gone.ID + "'")

	covered := map[string]bool{}
	for _, a := range aimed {
		covered[a.op] = true
		if _, ok := x.ops[a.op]; !ok {
			t.Errorf("the document has no %s any more: take it out of aimed", a.op)
		}
	}
	for _, op := range slices.Sorted(maps.Keys(x.ops)) {
		if !covered[op] {
			t.Fatalf("%s is not tried across tenants: add it to aimed", op)
		}
	}

	type actor struct {
		name, key, role string
		mine            side
	}
	actors := []actor{
		{"reseller north", x.north.key, "reseller", x.north},
		{"reseller south", x.south.key, "reseller", x.south},
		{"brand blue", x.north.brand, "brand", x.north},
		{"brand red", x.south.brand, "brand", x.south},
		{"nobody", "", "", side{}},
		{"an expired key", gone.Key, "", side{}},
		{"a key that is none", "pha_" + strings.Repeat("A", 43), "", side{}},
		{"the user of north", x.north.token, "", side{}},
		{"the user of south", x.south.token, "", side{}},
	}
	before := w.rows()
	for _, who := range actors {
		for _, other := range []side{x.north, x.south} {
			if other.reseller == who.mine.reseller {
				continue
			}
			for _, a := range aimed {
				if a.op == "getDocument" {
					continue
				}
				requests, ghosts := a.requests(other), a.requests(nobody)
				for i, r := range requests {
					r.op, ghosts[i].op = a.op, a.op
					where := fmt.Sprintf("%s: %s of %s (%d)", who.name, a.op, other.reseller, i)
					got := x.send(r, who.key)
					x.silent(where, got, other, fmt.Sprint(r))
					switch {
					case who.role == "" && got.status != 401:
						t.Errorf("%s: %d, want 401: %s", where, got.status, got.raw)
					case who.role == "":
					case !slices.Contains(x.roles(a.op), who.role):
						if got.status != 403 {
							t.Errorf("%s: %d, want 403: %s", where, got.status, got.raw)
						}
					default:
						if !draft(r) {
							x.sameAsNothing(where, got, x.send(ghosts[i], who.key), other)
						}
						names := r.path != nil || r.in != nil
						if names && got.status != 404 && got.status != 403 && got.status != 422 && !slices.Contains(answersAll, a.op) {
							t.Errorf("%s: %d for what is not his: %s", where, got.status, got.raw)
						}
					}
				}
			}
		}
	}
	x.unchanged("somebody", before)
	x.audited()
	x.others()
	x.owners()
}

// draft says whether a request proposes a new provider: that a name is taken is told then, as it is when one is added.
func draft(r request) bool {
	check, ok := r.in.(api.ProviderCheck)
	return ok && check.Provider != nil
}

// sameAsNothing: what is somebody else's is answered as what does not exist.
func (x *tenants) sameAsNothing(where string, got, ghost answer, other side) {
	x.w.tb.Helper()
	text := string(ghost.raw)
	for _, pair := range [][2]string{
		{nobody.user, other.user},
		{nobody.device, other.device},
		{nobody.reseller, other.reseller},
		{nobody.contexts[0], other.contexts[0]},
		{nobody.contexts[1], other.contexts[1]},
		{nobody.provider, other.provider},
		{nobody.mark, other.mark},
	} {
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	if got.status != ghost.status || !sameButForTimes(string(got.raw), text) {
		x.w.tb.Errorf("%s tells that it exists:\n%d %s\nfor nothing:\n%d %s", where, got.status, got.raw, ghost.status, text)
	}
}

// sameButForTimes compares two answers; a listing may grow by what happens meanwhile, which the audit log tells.
func sameButForTimes(a, b string) bool {
	return a == b || strings.Contains(a, `"actor"`) && strings.Contains(b, `"actor"`)
}

// audited: what others tried is in nobody's log but the operator's.
func (x *tenants) audited() {
	w := x.w
	w.tb.Helper()
	w.waitFor("the refusals are in the log", func() bool {
		a := x.ask(request{op: "listAudit", query: url.Values{"act": {"removeUser"}, "limit": {"1000"}}}, x.operator)
		return bytes.Contains(a.raw, []byte("(reseller north)")) && bytes.Contains(a.raw, []byte("(brand red)"))
	})
	for _, s := range []side{x.north, x.south} {
		a := x.ask(request{op: "listAudit", query: url.Values{"limit": {"1000"}}}, s.key)
		if !bytes.Contains(a.raw, []byte(`"act":"addUser"`)) {
			w.tb.Errorf("%s does not see who added its users: %s", s.reseller, a.raw)
		}
		if bytes.Contains(a.raw, []byte("refused")) {
			w.tb.Errorf("%s sees what others tried: %s", s.reseller, a.raw)
		}
	}
}

// owners: the same requests are good for those whose things they name, or nothing would be proved above.
func (x *tenants) owners() {
	w := x.w
	w.tb.Helper()
	w.waitFor("the sides are still there", func() bool { return len(w.rows()["users"]) == 4 })
	for _, a := range aimed {
		for i, r := range a.requests(x.north) {
			r.op = a.op
			key, who := x.operator, "the operator"
			if slices.Contains(x.roles(a.op), "reseller") && a.op != "changeContext" {
				key, who = x.north.key, "reseller north"
			}
			got := x.send(r, key)
			if key != x.operator {
				x.silent(fmt.Sprintf("%s: %s (%d)", who, a.op, i), got, x.south, "")
			}
			if want := slices.Contains(refusedAtLast, a.op); want && got.status != 409 || !want && got.status >= 300 {
				w.tb.Errorf("%s: %s (%d) of his own: %d %s", who, a.op, i, got.status, got.raw)
			}
		}
	}
	// A mail host that is limited to contexts is not there for others.
	limited := api.MailHost{Name: "limited", IMAP: "imap.example.org", NotifyLogin: "limited", Contexts: []int64{1}}
	x.ask(request{op: "addMailHost", in: limited}, x.operator)
	var told []string
	for _, host := range []string{"limited", "nowhere"} {
		got := x.send(request{op: "addUser", in: api.User{User: "@" + x.south.contexts[0], Login: "guest@rig.test", MailHost: host}}, x.south.key)
		line := "context,login,mailhost\n" + x.south.contexts[0] + ",guest@rig.test," + host + "\n"
		report := x.ask(request{op: "importUsers", in: line, media: "text/csv"}, x.south.key)
		if got.status != 422 || report.member(w.tb, "added") != "0" {
			w.tb.Errorf("south adds a user at %s: %d %s, %s", host, got.status, got.raw, report.raw)
		}
		told = append(told, strings.ReplaceAll(string(got.raw)+string(report.raw), host, "HOST"))
	}
	if told[0] != told[1] {
		w.tb.Errorf("south is told of a mail host that is not its own:\n%s\n%s", told[0], told[1])
	}
	if got := x.send(request{op: "changeContext", path: map[string]string{"id": x.south.contexts[0]}, in: map[string]any{"name": "Anew"}}, x.south.key); got.status != 200 {
		w.tb.Errorf("south cannot name its context: %d %s", got.status, got.raw)
	}
	for what, in := range map[string]any{
		"tags": map[string]any{"tags": []string{"premium"}}, "reseller": map[string]any{"reseller": "north"},
	} {
		got := x.send(request{op: "changeContext", path: map[string]string{"id": x.south.contexts[0]}, in: in}, x.south.key)
		if got.status != 403 {
			w.tb.Errorf("south sets the %s of its context: %d %s", what, got.status, got.raw)
		}
	}
	for _, v := range []api.PropertyValue{
		{Scope: "server", Property: "push.privacy", Value: "none"},
		{Scope: "contextset", Subject: "premium", Property: "push.privacy", Value: "none"}, // which reaches into contexts of others
	} {
		if got := x.send(request{op: "setProperty", in: v}, x.south.key); got.status != 403 {
			w.tb.Errorf("south sets %+v: %d %s", v, got.status, got.raw)
		}
	}
	protected := api.PropertyValue{Scope: "context", Subject: x.south.contexts[0], Property: "provider", Value: "blue"}
	if got := x.send(request{op: "setProperty", in: protected}, x.south.key); got.status != 403 || !strings.Contains(string(got.raw), "by the operator only") {
		w.tb.Errorf("south chooses its provider: %d %s", got.status, got.raw)
	}
	if until := time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339); until != "" {
		got := x.send(request{op: "addKey", in: api.Key{Role: api.RoleOperator, Expires: until}}, x.south.key)
		if got.status != 403 {
			w.tb.Errorf("south makes a key of the operator: %d %s", got.status, got.raw)
		}
	}
}

package server_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// TestReachOfResellers: what a reseller or a brand may do leads to nothing of the operator's.
func TestReachOfResellers(t *testing.T) {
	t.Parallel()
	x := newTenants(t)
	provider := func(name string) map[string]string { return map[string]string{"provider": name} }
	others, err := strconv.ParseInt(x.south.contexts[0], 10, 64)
	must(t, err)
	limited := api.MailHost{Name: "limited", IMAP: "imap.example.org", NotifyLogin: "limited", Contexts: []int64{others}}
	x.ask(request{op: "addMailHost", in: limited}, x.operator)
	x.ask(request{op: "changeProvider", path: provider("blue"), in: map[string]any{"mailhosts": []string{"dove"}}}, x.operator)

	// Where a value is set that closes a gate: no name and no file of the operator's.
	x.ask(request{op: "addContextSet", in: api.ContextSet{Name: "quarantine", WithTags: "!trusted"}}, x.operator)
	x.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "contextset", Subject: "quarantine", Property: "capability.push", Value: "false"}}, x.operator)
	explain := request{op: "explainPush", path: map[string]string{"user": x.north.user}}
	if a := x.ask(explain, x.operator); !strings.Contains(string(a.raw), "contextset quarantine") {
		t.Errorf("the operator is not told where the value is set: %s", a.raw)
	}
	if a := x.ask(explain, x.north.key); strings.Contains(string(a.raw), "quarantine") || !strings.Contains(string(a.raw), "set by the operator") {
		t.Errorf("a reseller reads the name of a context set: %s", a.raw)
	}
	x.ask(request{op: "setProperty", in: api.PropertyValue{Scope: "server", Property: "app.clients", Value: "posthorn-*"}}, x.operator)

	// Mail hosts that are not for him do not exist, and he guesses no passwords at the others.
	for who, key := range map[string]string{"reseller": x.north.key, "brand": x.north.brand} {
		var told []string
		for _, host := range []string{"limited", "nowhere"} {
			change := map[string]any{"mailhosts": []string{"dove", host}}
			a := x.send(request{op: "changeProvider", path: provider("blue"), in: change}, key)
			draft := api.Provider{Name: "blue", Colour: "#1c6ea4", MailHosts: []string{"dove", host}}
			b := x.send(request{op: "checkProvider", path: provider("blue"), in: api.ProviderCheck{Provider: &draft}}, key)
			if a.status != 422 || b.status != 422 {
				t.Errorf("a %s names the mail host %s: %d %s, %d %s", who, host, a.status, a.raw, b.status, b.raw)
			}
			told = append(told, strings.ReplaceAll(string(a.raw)+string(b.raw), host, "HOST"))
		}
		if told[0] != told[1] {
			t.Errorf("a %s is told of a mail host:\n%s\n%s", who, told[0], told[1])
		}
	}
	guess := api.ProviderCheck{}
	for range 5 {
		guess.Accounts = append(guess.Accounts, api.ProviderAccount{Login: x.south.login, Password: "guessed"})
	}
	guesses := request{op: "checkProvider", path: provider("blue"), in: guess}
	a := x.ask(guesses, x.north.brand)
	if strings.Count(string(a.raw), "too many failed sign-ins") != 3 || strings.Contains(string(a.raw), "127.0.0.1") {
		t.Errorf("of 5 guesses 2 are tried, and no address of a mail host is told: %s", a.raw)
	}

	// The host of the installation, by which everybody is told whose server it is, is the operator's.
	take := map[string]any{"hosts": []string{"PUSH.example.org"}, "base_url": "https://evil.example"}
	if a := x.send(request{op: "changeProvider", path: provider("red"), in: take}, x.south.key); a.status != 422 || a.member(t, "field") != "hosts[0]" {
		t.Errorf("a reseller takes the installation's host: %d %s", a.status, a.raw)
	}
	x.ask(request{op: "changeProvider", path: provider("red"), in: map[string]any{"hosts": []string{"push.example.org"}}}, x.operator)
	x.ask(request{op: "changeProvider", path: provider("red"), in: map[string]any{"contact": "help"}}, x.south.key)

	// Keys end with whose they were, also when the removal was cut off before it came to them.
	x.ask(request{op: "addReseller", in: api.Reseller{Name: "west"}}, x.operator)
	old := x.w.adminKey(api.Key{Role: api.RoleReseller, Reseller: "west"}).Key
	x.w.exec("DELETE FROM resellers WHERE name = 'west'")
	x.ask(request{op: "addReseller", in: api.Reseller{Name: "west"}}, x.operator)
	if a := x.send(request{op: "listContexts", query: url.Values{}}, old); a.status != 401 {
		t.Errorf("a key of who had the name before: %d %s", a.status, a.raw)
	}

	// A number has one form.
	for _, id := range []string{"+" + x.north.contexts[0], "0" + x.north.contexts[0], "-1", "0", "1e0", "１"} {
		for _, r := range []request{
			{op: "changeContext", path: map[string]string{"id": id}, in: map[string]any{"name": "another"}},
			{op: "setProperty", in: api.PropertyValue{Scope: "context", Subject: id, Property: "push.privacy", Value: "none"}},
			{op: "listUsers", query: url.Values{"context": {id}}},
			{op: "listAudit", query: url.Values{"context": {id}}},
			{op: "explainProperty", path: map[string]string{"property": "push.privacy"}, query: url.Values{"context": {id}}},
		} {
			if a := x.send(r, x.north.key); a.status != 422 {
				t.Errorf("%s of context %s: %d %s", r.op, id, a.status, a.raw)
			}
		}
	}
}

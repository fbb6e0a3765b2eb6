package server_test

import (
	"net/url"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// aimed is the requests that name what is a side's, operation by operation, in an order in which they succeed for the
// operator. An operation of the document that is missing here fails the test: to add one, write a request that names
// each thing that it can name; one that names nothing is a request that has nothing but the operation.
var aimed = []struct {
	op       string
	requests func(side) []request
}{
	{"listContexts", plain},
	{"listUsers", func(s side) []request {
		return []request{{}, {query: url.Values{"context": {s.contexts[0]}}}, {query: url.Values{"context": {s.contexts[1]}, "mailhost": {"dove"}}}}
	}},
	{"listPushUsers", ofUser},
	{"listPushDevices", ofUser},
	{"listPushRegistrations", plain},
	{"explainPush", func(s side) []request { return []request{{path: map[string]string{"user": s.user}}} }},
	{"tracePush", func(s side) []request { return []request{{path: map[string]string{"device": s.device}}} }},
	{"testPush", func(s side) []request {
		return []request{{in: api.PushTest{User: s.user}}, {in: api.PushTest{Device: s.device}}}
	}},
	{"listAudit", func(s side) []request {
		return []request{
			{},
			{query: url.Values{"user": {s.user}}},
			{query: url.Values{"context": {s.contexts[0]}}},
			{query: url.Values{"act": {"addUser"}, "limit": {"1000"}}},
		}
	}},
	{"listPropertyTypes", plain},
	{"listProperties", func(s side) []request {
		return []request{{}, {query: of("context", s.contexts[0])}, {query: of("user", s.user)}, {query: of("reseller", s.reseller)}}
	}},
	{"explainProperty", func(s side) []request {
		path := map[string]string{"property": "provider"}
		return []request{{path: path, query: url.Values{"user": {s.user}}}, {path: path, query: url.Values{"context": {s.contexts[1]}}}}
	}},
	{"listResellers", plain},
	{"listContextSets", plain},
	{"testContextSet", func(side) []request { return []request{{query: url.Values{"expression": {"!x"}}}} }},
	{"listMailHosts", plain},
	{"listHosts", plain},
	{"discover", func(side) []request { return []request{{in: api.Discover{Input: "https://127.0.0.1"}}} }},
	{"checkHost", func(side) []request { return []request{{query: url.Values{"host": {"mail.example.org"}}}} }},
	{"listProviders", plain},
	{"showProvider", func(s side) []request { return []request{{path: map[string]string{"provider": s.provider}}} }},
	{"checkProvider", func(s side) []request {
		return []request{
			{path: map[string]string{"provider": s.provider}, in: api.ProviderCheck{User: s.user}},
			{path: map[string]string{"provider": s.provider}, in: api.ProviderCheck{Provider: &api.Provider{Name: s.provider, Colour: "#123456"}}},
		}
	}},
	{"listKeys", plain},
	{"listNodes", plain},
	{"runDoctor", func(s side) []request { return []request{{in: api.Doctor{User: s.user, MailHosts: []string{"dove"}}}} }},
	{"rotateCredentials", func(side) []request { return []request{{in: api.Rotate{}}} }},
	{"reload", plain},
	{"drainNode", plain},
	{"undrainNode", plain},

	{"addContext", func(s side) []request {
		return []request{{in: api.Context{Name: "of " + s.reseller, Reseller: s.reseller}}}
	}},
	{"changeContext", func(s side) []request {
		return []request{
			{path: map[string]string{"id": s.contexts[0]}, in: map[string]any{"name": "taken from " + s.reseller}},
			{path: map[string]string{"id": s.contexts[1]}, in: map[string]any{"tags": []string{"mine"}}},
		}
	}},
	{"addUser", func(s side) []request {
		return []request{
			{in: api.User{User: "@" + s.contexts[0], Login: "mallory@rig.test", MailHost: "dove"}},
			{in: api.User{User: "99@" + s.contexts[1], Login: "mallet@rig.test", MailHost: "dove"}},
		}
	}},
	{"importUsers", func(s side) []request {
		line := "context,user,login,mailhost\n"
		return []request{
			{in: line + s.contexts[0] + ",,mallory2@rig.test,dove\n", media: "text/csv"},
			{in: line + "Context " + s.mark + " 1,,mallory3@rig.test,dove\n", media: "text/csv"},
			{in: `{"user":"98@` + s.contexts[0] + `","login":"mallory4@rig.test","mailhost":"dove"}`, media: "application/x-ndjson", query: url.Values{"dry_run": {"1"}}},
		}
	}},
	{"setProperty", func(s side) []request {
		return []request{
			{in: api.PropertyValue{Scope: "context", Subject: s.contexts[0], Property: "push.privacy", Value: "none"}},
			{in: api.PropertyValue{Scope: "user", Subject: s.user, Property: "push.privacy", Value: "none"}},
			{in: api.PropertyValue{Scope: "reseller", Subject: s.reseller, Property: "push.privacy", Value: "none"}},
		}
	}},
	{"unsetProperty", func(s side) []request {
		q := of("context", s.contexts[0])
		q.Set("property", "push.privacy")
		return []request{{query: q}}
	}},
	{"addReseller", func(side) []request { return []request{{in: api.Reseller{Name: "third"}}} }},
	{"changeReseller", func(s side) []request {
		return []request{{path: map[string]string{"reseller": s.reseller}, in: map[string]any{"contact": "mallory"}}}
	}},
	{"addProvider", func(s side) []request {
		return []request{{in: api.Provider{Name: "third-of-" + s.reseller, Colour: "#123456", Reseller: s.reseller}}}
	}},
	{"changeProvider", func(s side) []request {
		return []request{{path: map[string]string{"provider": s.provider}, in: map[string]any{"contact": "mallory"}}}
	}},
	{"addContextSet", func(side) []request { return []request{{in: api.ContextSet{Name: "all", WithTags: "!never"}}} }},
	{"changeContextSet", func(side) []request {
		return []request{{path: map[string]string{"set": "all"}, in: map[string]any{"priority": 9}}}
	}},
	{"removeContextSet", func(side) []request { return []request{{path: map[string]string{"set": "all"}}} }},
	{"addMailHost", func(side) []request { return []request{{in: api.MailHost{Name: "mallory", IMAP: "imap.example.org"}}} }},
	{"changeMailHost", func(side) []request {
		return []request{{path: map[string]string{"name": "mallory"}, in: map[string]any{"source": "idle"}}}
	}},
	{"removeMailHost", func(side) []request { return []request{{path: map[string]string{"name": "mallory"}}} }},
	{"addKey", func(s side) []request {
		return []request{{in: api.Key{Role: api.RoleReseller, Reseller: s.reseller}}}
	}},
	{"removePushRegistration", func(s side) []request {
		id, in, _ := strings.Cut(s.user, "@")
		return []request{{query: url.Values{"user": {id}, "context": {in}, "client": {"posthorn-app"}}}}
	}},
	{"removeUser", func(s side) []request { return []request{{path: map[string]string{"user": s.user}}} }},
	{"removeContext", func(s side) []request { return []request{{path: map[string]string{"id": s.contexts[1]}}} }},
	{"removeProvider", func(s side) []request { return []request{{path: map[string]string{"provider": s.provider}}} }},
	{"removeReseller", func(s side) []request { return []request{{path: map[string]string{"reseller": s.reseller}}} }},
	{"removeKey", func(s side) []request { return []request{{path: map[string]string{"key": s.keyID}}} }},
	{"getDocument", plain},
}

// refusedAtLast are those that the operator is refused as well, since something is left.
var refusedAtLast = []string{"removeContext", "removeReseller", "removeProvider"}

// answersAll are those that answer for what does not exist as well: with a closed gate, or a line that failed.
var answersAll = []string{"explainPush", "importUsers"}

// of names a subject of properties.
func of(scope, subject string) url.Values { return url.Values{"scope": {scope}, "subject": {subject}} }

func plain(side) []request { return []request{{}} }

func ofUser(s side) []request { return []request{{}, {query: url.Values{"user": {s.user}}}} }

package server_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestOddText sends what PostgreSQL takes in no text, NUL and what is no UTF-8, wherever a request may have text: it is
// refused as what does not exist or is not good, and the audit log goes on.
func TestOddText(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testpeer.PostgresURL(t), "login")
	w.start()
	const alice = "alice@rig.test"
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	admin := func(method, path string, in any) {
		t.Helper()
		must(t, w.admin.Do(t.Context(), method, "/admin/v1"+path, nil, in, nil))
	}
	admin("POST", "/resellers", api.Reseller{Name: "north"})
	admin("POST", "/providers", api.Provider{Name: "blue", Colour: "#1c6ea4", Reseller: "north"})
	admin("PATCH", "/contexts/1", map[string]any{"reseller": "north"})
	token := w.signIn(alice, secret, "phone")
	operator := w.adminKey(api.Key{Role: api.RoleOperator}).Key
	reseller := w.adminKey(api.Key{Role: api.RoleReseller, Reseller: "north"}).Key
	brand := w.adminKey(api.Key{Role: api.RoleBrand, Provider: "blue"}).Key

	send := func(key, method, path string, body []byte, media string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, w.public+path, bytes.NewReader(body))
		must(t, err)
		req.Header.Set("Content-Type", media)
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		res, err := unfollowed.Do(req)
		must(t, err)
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		must(t, err)
		if res.StatusCode >= 500 {
			t.Errorf("%s %s %q: %d %s", method, path, body, res.StatusCode, raw)
		}
	}
	for _, document := range []string{adminDocument, deviceDocument} {
		doc := readDocument(w, document)
		for _, odd := range []string{"a\x00b", "a\xffb", "a\xed\xa0\x80b", strings.Repeat("é", 400)} {
			for op, route := range doc.ops {
				if op == "reload" || op == "drainNode" || op == "undrainNode" || strings.HasPrefix(op, "signOut") {
					continue
				}
				keys := []string{token}
				if document == adminDocument {
					keys = []string{operator, reseller, brand}
				}
				path := route.Path
				for {
					before, rest, ok := strings.Cut(path, "{")
					if !ok {
						break
					}
					_, after, _ := strings.Cut(rest, "}")
					path = before + url.PathEscape(odd) + after
				}
				query := url.Values{}
				for _, p := range route.Operation.Parameters {
					if p.Value.In == "query" {
						query.Set(p.Value.Name, odd)
					}
				}
				for _, key := range keys {
					send(key, route.Method, path+"?"+query.Encode(), nil, "")
					if route.Operation.RequestBody == nil {
						continue
					}
					for media, content := range route.Operation.RequestBody.Value.Content {
						switch media {
						case "text/csv":
							send(key, route.Method, path+"?create_contexts=1", []byte("context,user,login,mailhost\n1,,"+odd+",dove\n"+odd+",,x,dove\n1,,x,"+odd+"\n"), media)
						case "application/json":
							if op == "runDoctor" {
								continue
							}
							text := strings.NewReplacer("\x00", `\u0000`).Replace(odd)
							var members []string
							for name, p := range content.Schema.Value.Properties {
								value := `"` + text + `"`
								if p.Value.Type.Is("array") {
									value = "[" + value + "]"
								}
								members = append(members, `"`+name+`":`+value)
								send(key, route.Method, strings.ReplaceAll(route.Path, "{provider}", "blue"), []byte(`{"name":"n","colour":"#123456",`+members[len(members)-1]+`}`), media)
							}
							send(key, route.Method, strings.ReplaceAll(route.Path, "{provider}", "blue"), []byte("{"+strings.Join(members, ",")+"}"), media)
						}
					}
				}
			}
		}
	}
	id := w.adminKey(api.Key{Role: api.RoleOperator, Note: "last"}).ID
	w.waitFor("the audit log goes on", func() bool {
		var page api.AuditPage
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/audit", url.Values{"act": {"addKey"}}, nil, &page))
		for _, e := range page.Items {
			if e.Subject == "keys/"+id {
				return true
			}
		}
		return false
	})
}

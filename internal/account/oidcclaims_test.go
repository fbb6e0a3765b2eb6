package account

import (
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// An identity provider that gives no refresh token is asked once more, with the user's consent.
func TestOIDCConsent(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	e.idp.asks = true
	for _, gives := range []bool{true, false} {
		e.idp.mu.Lock()
		e.idp.noGrant = !gives
		e.idp.mu.Unlock()
		verifier := oauth2.GenerateVerifier()
		first := e.start(verifier)
		end := e.FinishOIDC(t.Context(), first)
		if end.Err != nil || !strings.HasPrefix(end.Redirect, e.idp.url+"/authorize?") || !strings.Contains(end.Redirect, "prompt=consent") {
			t.Fatalf("%+v", end)
		}
		cb := e.idp.authorize(end.Redirect)
		if cb.State == first.State {
			t.Error("the same state")
		}
		end = e.FinishOIDC(t.Context(), cb)
		if back := e.back(end); gives != (back.Get("code") != "") || !gives && back.Get("error") != "server_error" || end.User != e.alice.ID {
			t.Fatalf("%+v", end)
		} else if gives {
			_, _, err := e.redeem(back.Get("code"), verifier)
			must(t, err)
			c, err := e.Dial(t.Context(), e.alice)
			must(t, err)
			c.Close()
		}
	}
	if n := count(t, e.Service, "SELECT COUNT(*) FROM sign_ins"); n != 0 {
		t.Errorf("%d sign-ins are left", n)
	}
}

// TestUserInfo: what an identity provider says of a user may be at its userinfo endpoint only.
func TestUserInfo(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	e.idp.bare = true
	for name, c := range map[string]struct {
		spoil func(info map[string]any)
		want  string
	}{
		"good":                            {func(map[string]any) {}, ""},
		"proven, in a text":               {func(i map[string]any) { i["email_verified"] = "true" }, ""},
		"nothing of the proof":            {func(i map[string]any) { delete(i, "email_verified") }, ""},
		"not proven":                      {func(i map[string]any) { i["email_verified"] = false }, "access_denied"},
		"not proven, in a text":           {func(i map[string]any) { i["email_verified"] = "false" }, "access_denied"},
		"another subject":                 {func(i map[string]any) { i["sub"] = "2" }, "server_error"},
		"no subject":                      {func(i map[string]any) { delete(i, "sub") }, "server_error"},
		"no login":                        {func(i map[string]any) { delete(i, "email") }, "server_error"},
		"somebody else's login":           {func(i map[string]any) { i["email"] = "mallory@example.org" }, "access_denied"},
		"refused, with what was sent":     {func(map[string]any) { e.idp.info = nil }, "server_error"},
		"no JSON for the type of a claim": {func(i map[string]any) { i["email"] = []int{1} }, "server_error"},
	} {
		t.Run(name, func(t *testing.T) {
			e.idp.mu.Lock()
			e.idp.spoilInfo = c.spoil
			e.idp.mu.Unlock()
			end := e.FinishOIDC(t.Context(), e.start(oauth2.GenerateVerifier()))
			if back := e.back(end); back.Get("error") != c.want || (back.Get("code") == "") != (c.want != "") {
				t.Errorf("%v, %v", back, end.Err)
			}
		})
	}
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	for _, leak := range e.idp.given {
		if strings.Contains(e.log.b.String(), leak) {
			t.Errorf("the log holds %q", leak)
		}
	}
}

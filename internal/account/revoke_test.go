package account

import (
	"context"
	"slices"
	"testing"

	"golang.org/x/oauth2"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestRevokeGrant: what is forgotten here ends at the identity provider, too, if that is the one who gave it.
func TestRevokeGrant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(e *elsewhere)
		revoked bool
	}{
		"ends":                    {func(*elsewhere) {}, true},
		"no endpoint":             {func(e *elsewhere) { e.idp.revokeAt = "" }, false},
		"an endpoint elsewhere":   {func(e *elsewhere) { e.idp.revokeAt = newIDP(e.t, "posthorn", e.clock.now).revokeAt }, false},
		"an endpoint of no sense": {func(e *elsewhere) { e.idp.revokeAt = "::" }, false},
		"of another client": {func(e *elsewhere) {
			_, err := e.Tenants.ChangeProvider(e.t.Context(), "blue", true, func(p *tenant.Provider) error { p.OIDC.ClientID = "other"; return nil })
			must(e.t, err)
		}, false},
		"away": {func(e *elsewhere) { e.idp.secret = "another" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
			e.idp.revoked = make(chan string, 10)
			verifier := oauth2.GenerateVerifier()
			sess, _, err := e.redeem(e.back(e.FinishOIDC(t.Context(), e.start(verifier))).Get("code"), verifier)
			must(t, err)
			e.clock.pass(issuerLife)
			e.idp.mu.Lock()
			c.change(e)
			e.idp.mu.Unlock()

			// While he is signed in somewhere, nothing is.
			must(t, e.ForgetCredential(t.Context(), sess.User))
			_, err = e.SignOutEverywhere(t.Context(), sess.User)
			must(t, err)
			kept, err := e.secret(t.Context(), tokens, sess.User)
			must(t, err)
			must(t, e.ForgetCredential(t.Context(), sess.User))
			must(t, e.ForgetCredential(t.Context(), sess.User))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			must(t, e.Run(ctx)) // what is left is done at the end
			close(e.idp.revoked)
			var want []string
			if c.revoked {
				want = []string{string(kept)}
			}
			var got []string
			for token := range e.idp.revoked {
				got = append(got, token)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d revoked, want %d", len(got), len(want))
			}
			e.mustHaveNone(t, e.alice)
		})
	}
}

// A user who is removed leaves none behind, and the queue has a bound.
func TestEndGrant(t *testing.T) {
	t.Parallel()
	e := newElsewhere(t, testpeer.SQLiteURL(t), imapTaken)
	e.idp.revoked = make(chan string, 1)
	e.idp.refresh["given"] = true
	e.EndGrant(t.Context(), e.alice.ID)
	must(t, e.PutToken(t.Context(), e.alice.ID, "given"))
	for range maxRevocations + 1 {
		e.EndGrant(t.Context(), e.alice.ID)
	}
	for len(e.revocations) > 1 {
		<-e.revocations
	}
	must(t, e.Tenants.RemoveUser(t.Context(), e.alice.ID))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- e.Run(ctx) }()
	if got := <-e.idp.revoked; got != "given" {
		t.Errorf("%q", got)
	}
	cancel()
	must(t, <-ended)
}

package onboard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// signIns proves that the provider's users can sign in.
func (e *providerExam) signIns(ctx context.Context, accounts []TestAccount) {
	if e.p.SignIn == tenant.SignInOIDC {
		e.check(ctx, "identity_provider", e.identityProvider)
		if len(accounts) == 0 {
			e.check(ctx, "sign_in", func(context.Context) Check {
				return skipped("who signs in at an identity provider does so himself: try it with the app, with two test accounts")
			})
			return
		}
	}
	for _, a := range accounts {
		e.check(ctx, "sign_in", func(ctx context.Context) Check { return e.account(ctx, a) })
	}
	if len(accounts) < 2 {
		e.check(ctx, "test_accounts", func(context.Context) Check {
			return warning("give two with --accounts, so that one user's mail is seen not to reach the other", "%d of 2 test accounts are given", len(accounts))
		})
	}
}

// account signs in at the mail server as the app's user would, from the server's name on.
func (e *providerExam) account(ctx context.Context, a TestAccount) Check {
	name := a.MailHost
	if name == "" && len(e.p.MailHosts) == 1 {
		name = e.p.MailHosts[0]
	}
	if name == "" {
		return failed("name it behind the password in --accounts, or give the provider one with --mailhost", "%s: which mail host it lives on is not known", clip(a.Login))
	}
	if !slices.Contains(e.p.MailHosts, name) {
		return failed("add it to the provider with --mailhost "+name, "%s: mail host %s is not the provider's", clip(a.Login), name)
	}
	good := func() {}
	var err error
	if e.req.Guest {
		if good, err = e.Accounts.Attempt(ctx, a.Login, e.req.From); err != nil {
			if tooMany, ok := errors.AsType[*account.TooManyError](err); ok {
				return failed("wait "+in(tooMany.RetryAfter)+", and give the right password", "%s: too many failed sign-ins", clip(a.Login))
			}
			return failed("see the log", "%s", why(ctx, err))
		}
	}
	h, err := e.Tenants.MailHost(ctx, name)
	if err != nil {
		return failed("posthorn mailhost list shows those that there are", "%v", err)
	}
	m := e.newExam(Request{Login: a.Login, Password: a.Password}, h, nil)
	defer m.close()
	_ = m.run(ctx, "name", m.name) && m.run(ctx, "reachable", m.reachable) && m.run(ctx, "tls", m.tls) && m.run(ctx, "greeting", m.greeting) &&
		m.run(ctx, "sign_in", m.signIn)
	last := m.Checks[len(m.Checks)-1]
	switch {
	case last.State == Failed && e.req.Guest && last.Name != "sign_in":
		return failed("ask the operator of this server", "%s: mail host %s cannot be used now (%s)", clip(a.Login), name, last.Name)
	case last.State == Failed && e.req.Guest:
		last.Detail = clip(a.Login) + " at " + name + ": " + last.Detail
		return last
	case last.State == Failed:
		last.Detail = clip(a.Login) + " at " + name + " (" + address(h) + "): " + last.Detail
		return last
	}
	good()
	return ok("%s at %s", clip(a.Login), name)
}

// identityProvider looks at what an OpenID provider says of itself (OpenID Connect Discovery 1.0 section 4).
func (e *providerExam) identityProvider(ctx context.Context) Check {
	issuer := e.p.OIDC.Issuer
	v, c := e.fetch(ctx, strings.TrimSuffix(issuer, "/"), oidcPath)
	if c.State != OK {
		return c
	}
	var doc struct {
		Issuer    string   `json:"issuer"`
		Authorize string   `json:"authorization_endpoint"`
		Token     string   `json:"token_endpoint"`
		Keys      string   `json:"jwks_uri"`
		Types     []string `json:"response_types_supported"`
		Challenge []string `json:"code_challenge_methods_supported"`
		Grants    []string `json:"grant_types_supported"`
	}
	if err := json.Unmarshal(v.body, &doc); v.status != http.StatusOK || err != nil {
		return failed("compare the issuer with the identity provider's; its discovery document is at ISSUER"+oidcPath, "%s: no discovery document (HTTP %d)", issuer, v.status)
	}
	for _, endpoint := range []string{doc.Authorize, doc.Token, doc.Keys} {
		if u, err := url.Parse(endpoint); err != nil || u.Scheme != "https" && e.Guard.CheckURL(endpoint) != nil {
			return failed("set it right at the identity provider", "%s: the endpoint %q is not one that can be asked", issuer, clip(endpoint))
		}
	}
	switch {
	case doc.Issuer != issuer:
		return failed("write the issuer exactly so, to the last slash", "it calls itself %q, and not %q", clip(doc.Issuer), issuer)
	case len(doc.Types) > 0 && !slices.Contains(doc.Types, "code"):
		return failed("switch the authorization code flow on for the client", "%s: does not offer the authorization code flow", issuer)
	case len(doc.Challenge) > 0 && !slices.Contains(doc.Challenge, "S256"):
		return failed("switch PKCE with S256 on (RFC 7636)", "%s: does not offer PKCE with S256", issuer)
	case len(doc.Grants) > 0 && !slices.Contains(doc.Grants, "refresh_token"):
		return warning("switch refresh tokens on for the client: listeners sign in with them while the user is not there", "%s: offers no refresh tokens", issuer)
	case v.tls != nil && v.tls.PeerCertificates[0].NotAfter.Sub(e.Now()) < certificateSoon:
		return warning("have its certificate renewed", "%s: well, but its certificate ends on %s", issuer, v.tls.PeerCertificates[0].NotAfter.UTC().Format(time.DateOnly))
	}
	return ok("%s: code flow with PKCE", issuer)
}

// push asks Apple and Google for each credential, and has a test notification go to a user's devices.
func (e *providerExam) push(ctx context.Context, user tenant.UserID) {
	probes, closeAll := e.Probes(e.p)
	defer closeAll()
	if len(probes) == 0 {
		e.check(ctx, "push_credential", func(context.Context) Check {
			return skipped("it has none of its own: its users are told with those of the installation")
		})
	}
	for _, p := range probes {
		e.check(ctx, "push_credential", func(ctx context.Context) Check { return e.probe(ctx, p) })
	}
	if user == (tenant.UserID{}) {
		e.check(ctx, "test_push", func(context.Context) Check {
			return skipped("subscribe a phone of a test account with the app, and give --user: a test notification then goes all the way")
		})
		return
	}
	e.check(ctx, "test_push", func(ctx context.Context) Check { return e.testPush(ctx, user) })
}

// probe sends to a device that there is not: the answer that there is none shows that the credential is taken.
func (e *providerExam) probe(ctx context.Context, p PushProbe) Check {
	if p.Err != nil {
		return failed("give the credential anew, as Apple or Google hands it out", "%s: %v", p.Name, p.Err)
	}
	if left := p.Ends.Sub(e.Now()); !p.Ends.IsZero() && left <= 0 {
		return failed("renew it at Apple's developer site, or take a key (.p8), which does not end", "%s: the certificate ended on %s", p.Name, day(p.Ends))
	}
	if p.Send == nil {
		return ok("%s: it can be used; browsers learn its public key when they subscribe", p.Name)
	}
	a := p.Send(ctx)
	said := a.Outcome
	if a.Reason != "" {
		said = a.Reason
	}
	if a.Status != 0 {
		said += " (HTTP " + http.StatusText(a.Status) + ")"
	}
	switch a.Outcome {
	case "suspect", "gone", "delivered": // it is the device that there is not
		if !p.Ends.IsZero() && p.Ends.Sub(e.Now()) < certificateSoon {
			return warning("renew it, or take a key (.p8), which does not end", "%s: taken, but the certificate ends on %s", p.Name, day(p.Ends))
		}
		return ok("%s: taken; the device that was made up is unknown there, as it should be", p.Name)
	case "later":
		return warning("run the check again; if it stays, open the firewall to "+destinations[p.Transport], "%s: cannot be asked now: %s", p.Name, said)
	case "blocked":
		return failed(refusals[p.Transport], "%s: the credential is refused: %s", p.Name, said)
	}
	return failed(refusals[p.Transport], "%s: refused: %s", p.Name, said)
}

var (
	destinations = map[string]string{
		"apns": "api.push.apple.com and api.sandbox.push.apple.com, port 443", "fcm": "fcm.googleapis.com and oauth2.googleapis.com, port 443",
	}
	refusals = map[string]string{
		"apns": "compare key id, team id and topic (the app's bundle id) with Apple's developer site; the key must be for Apple Push Notifications and not be revoked",
		"fcm":  "in the Firebase console, take the key file of this project, switch on the Cloud Messaging API (V1), and give the account the role that may send",
	}
)

// testPush tells the devices of a user. That it shows on them, only a person sees.
func (e *providerExam) testPush(ctx context.Context, user tenant.UserID) Check {
	own, found, err := e.Tenants.ProviderOf(ctx, user)
	switch {
	case err != nil:
		return failed("see database", "%s", why(ctx, err))
	case !found || own.Name != e.p.Name:
		return failed("set the property provider for the context of the user: posthorn property set provider "+e.p.Name+" --context N",
			"%s is not a user of this provider, but of %q", user, own.Name)
	}
	answers, err := e.TestPush(ctx, user)
	if err != nil {
		return failed("posthorn push explain "+user.String()+" says more", "%s", why(ctx, err))
	}
	if len(answers) == 0 {
		return failed("sign in with the app, and allow notifications", "%s has no device that is subscribed", user)
	}
	var told []string
	for _, a := range answers {
		if a.Outcome != "delivered" {
			return failed("posthorn push trace "+a.Device+" says more", "device %s was not told: %s %s", a.Device, a.Outcome, a.Reason)
		}
		told = append(told, a.Device)
	}
	return ok("taken over for %s: look whether it shows", strings.Join(told, ", "))
}

package tenant

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

var (
	slug = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// appleID is the form of Apple's key ids and team ids.
	appleID = regexp.MustCompile(`^[A-Z0-9]{10}$`)
)

const (
	// maxNames bounds each list of names in a provider, maxCredentials those of credentials.
	maxNames, maxCredentials = 100, 20
	// maxKey bounds a key or certificate, in bytes. Apple's and Google's have 3 KB at most.
	maxKey = 16 << 10
	// googleTokens is the one token endpoint that Google puts into service accounts.
	googleTokens = "https://oauth2.googleapis.com/token" //nolint:gosec // G101: no credential
)

// normalise brings what can be written in several ways into one form.
func (p *Provider) normalise(operator bool) error {
	p.SignIn, p.Title = cmp.Or(p.SignIn, SignInPassword), cmp.Or(p.Title, p.Name)
	for field, colour := range map[string]*string{"colour": &p.Colour, "on_colour": &p.OnColour} {
		if *colour == "" && field == "on_colour" {
			continue
		}
		c, err := brand.ParseColour(*colour)
		if err != nil {
			return &InvalidError{field, err.Error()}
		}
		*colour = c.String()
	}
	for field, names := range map[string]*[]string{"hosts": &p.Hosts, "domains": &p.Domains} {
		if len(*names) > maxNames {
			return &InvalidError{field, fmt.Sprintf("must be %d names at most", maxNames)}
		}
		for i, name := range *names {
			host, err := hostrule.Normalise(name)
			if err == nil && field == "domains" {
				if _, notIP := netip.ParseAddr(host); notIP == nil {
					err = errors.New("is an address, not a domain")
				}
			}
			if err != nil {
				return &InvalidError{fmt.Sprintf("%s[%d]", field, i), err.Error()}
			}
			(*names)[i] = host
		}
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	var err error
	if p.BaseURL, err = origin("base_url", p.BaseURL, operator); err != nil {
		return err
	}
	for i := range p.APNs {
		a := &p.APNs[i]
		a.Client, a.Environment, a.Privacy = cmp.Or(a.Client, "*"), cmp.Or(a.Environment, "production"), inherited(a.Privacy)
		if a.URL, err = origin(fmt.Sprintf("apns[%d].url", i), a.URL, true); err != nil {
			return err
		}
		if a.OtherURL, err = origin(fmt.Sprintf("apns[%d].other_url", i), a.OtherURL, true); err != nil {
			return err
		}
	}
	for i := range p.FCM {
		f := &p.FCM[i]
		f.Client, f.Privacy = cmp.Or(f.Client, "*"), inherited(f.Privacy)
		if f.Endpoint, err = origin(fmt.Sprintf("fcm[%d].endpoint", i), f.Endpoint, true); err != nil {
			return err
		}
	}
	return nil
}

func inherited(privacy string) string {
	if privacy == "inherit" {
		return ""
	}
	return privacy
}

// origin reads scheme, host and perhaps a port (RFC 6454 section 4): https, or for the operator also http on this
// machine.
func origin(field, raw string, operator bool) (string, error) {
	if raw == "" {
		return "", nil
	}
	u, err := url.Parse(strings.TrimSuffix(raw, "/"))
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || strings.ContainsAny(raw, "*# "):
		return "", &InvalidError{field, "must be https:// followed by a host and perhaps a port"}
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery:
		return "", &InvalidError{field, "must be scheme, host and perhaps a port, and nothing else"}
	case u.Scheme != "https" && (u.Scheme != "http" || !operator || !loopback(u.Hostname())):
		return "", &InvalidError{field, "must begin with https://, as secrets travel over it"}
	}
	return strings.ToLower(u.Scheme + "://" + u.Host), nil
}

// operatorsFields refuses changes of what leads the server elsewhere than to Apple and Google: who could set that
// would have it send anything to anybody within reach.
func operatorsFields(before, p Provider) error {
	const problem = "is the operator's to set: leave it as it is"
	if before.Name != "" && p.Reseller != before.Reseller { // who adds one says whose it is, and his face has seen to that
		return &InvalidError{"reseller", problem}
	}
	type elsewhere struct{ url, other, ca string }
	had := map[elsewhere]bool{{}: true}
	for _, a := range before.APNs {
		had[elsewhere{a.URL, a.OtherURL, a.CA}] = true
	}
	for i, a := range p.APNs {
		if !had[elsewhere{a.URL, a.OtherURL, a.CA}] {
			return &InvalidError{fmt.Sprintf("apns[%d].url", i), problem + ", with other_url and ca"}
		}
	}
	hadFCM := map[string]bool{"": true}
	hadAccount := map[Secret]bool{}
	for _, f := range before.FCM {
		hadFCM[f.Endpoint], hadAccount[f.ServiceAccount] = true, true
	}
	for i, f := range p.FCM {
		if !hadFCM[f.Endpoint] {
			return &InvalidError{fmt.Sprintf("fcm[%d].endpoint", i), problem}
		}
		if account, err := readAccount(f.ServiceAccount); err == nil && account.TokenURI != googleTokens && !hadAccount[f.ServiceAccount] {
			return &InvalidError{fmt.Sprintf("fcm[%d].service_account", i), "its token_uri must be " + googleTokens + ", as in the file from the Firebase console"}
		}
	}
	return nil
}

// operatorsHost refuses the installation's own host: who asks there is told to go on at the base URL of whose it is.
func (s *Store) operatorsHost(before, p Provider) error {
	u, err := url.Parse(s.publicURL)
	if err != nil {
		return nil //nolint:nilerr // it has no host, then
	}
	own, err := hostrule.Normalise(u.Hostname())
	if i := slices.Index(p.Hosts, own); err == nil && i >= 0 && !slices.Contains(before.Hosts, own) {
		return &InvalidError{fmt.Sprintf("hosts[%d]", i), own + " is the installation's own: ask the operator to give it to the provider"}
	}
	return nil
}

// check judges a provider that is normalised. A secret that was lost with a key is missing, but for a change that
// concerns something else.
func (p *Provider) check(before Provider) error {
	if !slug.MatchString(p.Name) {
		return &InvalidError{"name", "must be 1 to 63 small letters, digits and hyphens, as blue-mail"}
	}
	if err := checkName("title", p.Title); err != nil {
		return err
	}
	if p.Contact != "" {
		if err := checkName("contact", p.Contact); err != nil {
			return err
		}
	}
	if err := p.checkLook(before); err != nil {
		return err
	}
	if len(p.MailHosts) > maxNames {
		return &InvalidError{"mailhosts", fmt.Sprintf("must be %d names at most", maxNames)}
	}
	if err := p.checkSignIn(); err != nil {
		return err
	}
	if len(p.APNs) > maxCredentials || len(p.FCM) > maxCredentials {
		return &InvalidError{"apns", fmt.Sprintf("there may be %d credentials of a kind at most", maxCredentials)}
	}
	for i, a := range p.APNs {
		if err := a.check(fmt.Sprintf("apns[%d]", i), before.Damaged != nil); err != nil {
			return err
		}
	}
	for i, f := range p.FCM {
		if err := f.check(fmt.Sprintf("fcm[%d]", i), before.Damaged != nil); err != nil {
			return err
		}
	}
	return p.checkVAPID()
}

// checkLook checks the colours, and cleans a logo that is new.
func (p *Provider) checkLook(before Provider) error {
	if _, err := p.Palette(); err != nil {
		if wrong, ok := errors.AsType[*brand.ColourError](err); ok {
			return &InvalidError{wrong.Field, wrong.Problem}
		}
		return err
	}
	switch {
	case len(p.Logo.Body) == 0 && p.Logo.SHA256 == "":
		p.Logo = Logo{}
	case p.Logo.SHA256 != "" && p.Logo.SHA256 == before.Logo.SHA256 && bytes.Equal(p.Logo.Body, before.Logo.Body): // as it was
	default:
		clean, mediaType, err := brand.CleanLogo(p.Logo.Body)
		if err != nil {
			return &InvalidError{"logo", err.Error()}
		}
		p.Logo = Logo{MediaType: mediaType, SHA256: digest(clean), Body: clean}
	}
	return nil
}

// Palette is what the app shows of the provider's colour.
func (p Provider) Palette() (brand.Palette, error) {
	colour, err := brand.ParseColour(p.Colour)
	if err != nil || p.OnColour == "" {
		if err != nil {
			return brand.Palette{}, &InvalidError{"colour", err.Error()}
		}
		return brand.NewPalette(colour, nil)
	}
	on, err := brand.ParseColour(p.OnColour)
	if err != nil {
		return brand.Palette{}, &InvalidError{"on_colour", err.Error()}
	}
	return brand.NewPalette(colour, &on)
}

func (p *Provider) checkSignIn() error {
	switch p.SignIn {
	case SignInPassword:
		if p.OIDC.Issuer != "" || p.OIDC.ClientID != "" || p.OIDC.ClientSecret != "" {
			return &InvalidError{"oidc", "belongs to sign_in oidc, and sign_in is password"}
		}
		p.OIDC = OIDC{}
		return nil
	case SignInOIDC:
	default:
		return &InvalidError{"sign_in", "must be password or oidc"}
	}
	u, err := url.Parse(p.OIDC.Issuer)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return &InvalidError{"oidc.issuer", "must be the URL of the identity provider, as https://login.example.org"}
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return &InvalidError{"oidc.issuer", "must begin with https:// (OpenID Connect Discovery 1.0 section 3)"}
	}
	if err := checkName("oidc.client_id", p.OIDC.ClientID); err != nil {
		return err
	}
	if err := p.OIDC.ClientSecret.check("oidc.client_secret"); err != nil {
		return err
	}
	for i, scope := range p.OIDC.Scopes {
		if scope == "" || strings.ContainsAny(scope, " \"\\") || strings.ContainsFunc(scope, notPrintable) {
			return &InvalidError{fmt.Sprintf("oidc.scopes[%d]", i), "must be one word"}
		}
	}
	p.OIDC.LoginClaim = cmp.Or(p.OIDC.LoginClaim, "email")
	return checkName("oidc.login_claim", p.OIDC.LoginClaim)
}

func checkCredential(at, client, privacy string) error {
	if err := checkName(at+".client", client); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "full", "sender", "none", "sealed"}, privacy) {
		return &InvalidError{at + ".privacy", "must be full, sender, none, sealed or inherit"}
	}
	return nil
}

func (a APNsCredential) check(at string, lost bool) error {
	if err := checkCredential(at, a.Client, a.Privacy); err != nil {
		return err
	}
	if a.Topic == "" || strings.ContainsAny(a.Topic, " */") || checkName("", a.Topic) != nil {
		return &InvalidError{at + ".topic", "must be the app's bundle id, as com.example.mail"}
	}
	if a.Environment != "production" && a.Environment != "sandbox" {
		return &InvalidError{at + ".environment", "must be production or sandbox"}
	}
	if a.OtherURL != "" && a.URL == "" {
		return &InvalidError{at + ".other_url", "is only beside a url"}
	}
	if a.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(a.CA)) {
		return &InvalidError{at + ".ca", "holds no PEM certificate"}
	}
	switch {
	case a.Key != "" && a.Certificate != "":
		return &InvalidError{at, "has both a key and a certificate: keep one"}
	case a.Key != "":
		return a.checkKey(at)
	case a.Certificate != "":
		raw, err := base64.StdEncoding.DecodeString(string(a.Certificate))
		switch {
		case err != nil || len(raw) == 0 || len(raw) > maxKey:
			return &InvalidError{at + ".certificate", "must be the .p12 file in base64, of 16 KB at most"}
		case a.CertificatePassword == "":
			return &InvalidError{at + ".certificate_password", "must not be empty: export the .p12 file again, with a password"}
		case a.KeyID != "" || a.TeamID != "":
			return &InvalidError{at + ".key_id", "belongs to a key, as team_id does, and this entry has a certificate"}
		}
		return a.CertificatePassword.check(at + ".certificate_password")
	case lost:
		return nil
	}
	return &InvalidError{at + ".key", "is needed, a .p8 file's text with key_id and team_id, or a certificate with certificate_password"}
}

func (a APNsCredential) checkKey(at string) error {
	switch {
	case !isP256(a.Key):
		return &InvalidError{at + ".key", `must be the text of the .p8 file, with its line "-----BEGIN PRIVATE KEY-----"`}
	case !appleID.MatchString(a.KeyID):
		return &InvalidError{at + ".key_id", "must be the ten capitals and digits of the key's id"}
	case !appleID.MatchString(a.TeamID):
		return &InvalidError{at + ".team_id", "must be the ten capitals and digits of your team's id"}
	case a.CertificatePassword != "":
		return &InvalidError{at + ".certificate_password", "belongs to a certificate, and this entry has a key"}
	}
	return nil
}

// isP256 reports whether a text is one P-256 key in PEM, unencrypted (PKCS #8), as Apple hands out and Web Push takes.
func isP256(text Secret) bool {
	block, rest := pem.Decode([]byte(text))
	if len(text) > maxKey || block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return false
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	return err == nil && ok && key.Curve == elliptic.P256()
}

// serviceAccount is what we look at in the key file of a service account.
type serviceAccount struct {
	Type        string `json:"type"`
	ProjectID   string `json:"project_id"`
	ClientEmail string `json:"client_email"`
	PrivateKey  string `json:"private_key"`
	TokenURI    string `json:"token_uri"`
}

func readAccount(text Secret) (a serviceAccount, err error) {
	return a, json.Unmarshal([]byte(text), &a)
}

func (f FCMCredential) check(at string, lost bool) error {
	if err := checkCredential(at, f.Client, f.Privacy); err != nil {
		return err
	}
	if f.Package != "" && (strings.ContainsAny(f.Package, " */") || checkName("", f.Package) != nil) {
		return &InvalidError{at + ".package", "must be the app's package name, as com.example.mail"}
	}
	if f.ServiceAccount == "" && lost {
		return nil
	}
	a, err := readAccount(f.ServiceAccount)
	if err != nil || len(f.ServiceAccount) > maxKey || a.Type != "service_account" || a.ProjectID == "" || a.ClientEmail == "" || a.PrivateKey == "" || a.TokenURI == "" {
		return &InvalidError{at + ".service_account", "must be the JSON key file of a service account, from the Firebase console"}
	}
	return nil
}

func (p *Provider) checkVAPID() error {
	if p.VAPIDKey != "" && !isP256(p.VAPIDKey) {
		return &InvalidError{"vapid_key", `must be a P-256 key as PEM text, with its line "-----BEGIN PRIVATE KEY-----"`}
	}
	raw := p.VAPIDSubject
	if raw == "" {
		return nil
	}
	var host string
	if mail, ok := strings.CutPrefix(raw, "mailto:"); ok {
		at := strings.LastIndex(mail, "@")
		if at < 1 || strings.ContainsAny(mail, " <>?,") {
			return &InvalidError{"vapid_subject", "must be one mail address, as mailto:postmaster@example.com"}
		}
		host = mail[at+1:]
	} else if u, err := url.Parse(raw); err == nil && u.Scheme == "https" && u.User == nil {
		host = u.Hostname()
	} else {
		return &InvalidError{"vapid_subject", "must begin with mailto: or https://"}
	}
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
		return &InvalidError{"vapid_subject", "must be at a public host name: Apple refuses notifications that are signed with another"}
	}
	return nil
}

// alone refuses a host or domain that another provider has.
func (p *Provider) alone(others map[string]Provider) error {
	for _, o := range others {
		for i, h := range p.Hosts {
			if slices.Contains(o.Hosts, h) {
				return &InvalidError{fmt.Sprintf("hosts[%d]", i), h + " belongs to another provider already"}
			}
		}
		for i, d := range p.Domains {
			if slices.Contains(o.Domains, d) {
				return &InvalidError{fmt.Sprintf("domains[%d]", i), d + " belongs to another provider already"}
			}
		}
	}
	return nil
}

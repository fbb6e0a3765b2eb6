package tenant

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// How the users of a provider sign in.
const (
	SignInPassword = "password" // login and password, proved at the mail server
	SignInOIDC     = "oidc"     // at the provider's identity provider
)

// Provider is what a user picks in the app: a brand with its hosts, its look, its mail hosts and its push credentials.
type Provider struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Colour is #rrggbb; the palettes of the app are computed from it.
	Colour string `json:"colour"`
	// OnColour is the colour of text on Colour, #rrggbb; "" has black or white chosen.
	OnColour string `json:"on_colour,omitempty"`
	// BaseURL is the origin that the app calls; "" is the installation's public.url.
	BaseURL string `json:"base_url,omitempty"`
	// Contact is where users turn to: a mail address, a telephone number or a page.
	Contact string `json:"contact,omitempty"`
	// Hosts are the names under which the app's requests come, in the form that [hostrule.Normalise] gives them.
	Hosts []string `json:"hosts,omitempty"`
	// Domains are those of its users' addresses, by which the directory finds it.
	Domains   []string `json:"domains,omitempty"`
	MailHosts []string `json:"mailhosts,omitempty"`
	// Reseller is whose provider it is; "" is the operator's own.
	Reseller string `json:"-"`
	// Listed providers are in the public directory. The others are found by their name alone.
	Listed bool   `json:"listed"`
	SignIn string `json:"sign_in"` // one of the SignIn words
	OIDC   OIDC   `json:"oidc,omitzero"`
	Logo   Logo   `json:"logo,omitzero"`

	APNs         []APNsCredential `json:"apns,omitempty"`
	FCM          []FCMCredential  `json:"fcm,omitempty"`
	VAPIDKey     Secret           `json:"vapid_key,omitempty"` // a PEM block
	VAPIDSubject string           `json:"vapid_subject,omitempty"`

	Created time.Time `json:"-"`
	// Updated is when it was last changed.
	Updated time.Time `json:"-"`
	// Damaged says why its secrets cannot be opened, and so are missing.
	Damaged error `json:"-"`
}

// OIDC is where the users of a provider sign in instead of at the mail server (OpenID Connect Core 1.0).
type OIDC struct {
	Issuer       string   `json:"issuer"`
	ClientID     string   `json:"client_id"`
	ClientSecret Secret   `json:"client_secret,omitempty"` // "" for a public client
	Scopes       []string `json:"scopes,omitempty"`
	// LoginClaim names the claim that is the mail login; "" is email.
	LoginClaim string `json:"login_claim,omitempty"`
}

// Logo is a picture that went through [brand.CleanLogo]. Body is there only after [Store.ProviderLogo].
type Logo struct {
	MediaType string `json:"media_type"`
	// SHA256 is the hexadecimal digest of Body, and so tells whether there is a logo.
	SHA256 string `json:"sha256"`
	Body   []byte `json:"-"`
}

// APNsCredential lets a provider's app be told by Apple: a key with its ids, or a certificate with its password.
type APNsCredential struct {
	Client              string `json:"client"` // a pattern of client names
	Topic               string `json:"topic"`
	Environment         string `json:"environment"`   // "production" or "sandbox"
	Key                 Secret `json:"key,omitempty"` // the text of the .p8 file
	KeyID               string `json:"key_id,omitempty"`
	TeamID              string `json:"team_id,omitempty"`
	Certificate         Secret `json:"certificate,omitempty"` // the .p12 file in base64
	CertificatePassword Secret `json:"certificate_password,omitempty"`
	Privacy             string `json:"privacy,omitempty"` // "" inherits
	// URL, OtherURL and CA (PEM) lead elsewhere than to Apple, and are the operator's to set.
	URL      string `json:"url,omitempty"`
	OtherURL string `json:"other_url,omitempty"`
	CA       string `json:"ca,omitempty"`
}

// FCMCredential lets a provider's app be told by Google.
type FCMCredential struct {
	Client         string `json:"client"`
	ServiceAccount Secret `json:"service_account,omitempty"` // the text of the JSON key file
	Package        string `json:"package,omitempty"`
	Privacy        string `json:"privacy,omitempty"`
	// Endpoint leads elsewhere than to Google, and is the operator's to set.
	Endpoint string `json:"endpoint,omitempty"`
}

const (
	providerColumns = `name, reseller, document, secrets, created_ms, updated_ms`
	sqlAddProvider  = `INSERT INTO providers (reseller, document, logo, secrets, updated_ms, name, created_ms)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	sqlChangeProvider = `UPDATE providers SET reseller = ?, document = ?, logo = ?, secrets = ?, updated_ms = ? WHERE name = ?`
	sqlProviders      = `SELECT ` + providerColumns + ` FROM providers ORDER BY name`
	sqlProviderLogo   = `SELECT logo FROM providers WHERE name = ?`
	sqlRemoveProvider = `DELETE FROM providers WHERE name = ?`
	sqlProviderUses   = `SELECT COUNT(*) FROM properties WHERE name = 'provider' AND value = ?`
)

// maxProviders bounds what every node holds in memory of them: about 10 KB each, with two credentials.
const maxProviders = 10_000

// AddProvider adds a provider and returns it as it is kept. Unless operator says that the operator does it, fields
// that are his to set must be empty.
func (s *Store) AddProvider(ctx context.Context, p Provider, operator bool) (Provider, error) {
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		all, err := s.lockProviders(ctx, tx)
		if err != nil {
			return User{}, err
		}
		if _, ok := all[p.Name]; ok {
			return User{}, fmt.Errorf("provider %q %w", p.Name, ErrExists)
		}
		if len(all) >= maxProviders {
			return User{}, &InvalidError{"name", fmt.Sprintf("there are %d providers already, and no room for more", maxProviders)}
		}
		values, err := s.providerValues(ctx, tx, Provider{}, &p, operator, all)
		if err != nil {
			return User{}, err
		}
		p.Created = p.Updated
		_, err = tx.Exec(ctx, sqlAddProvider, append(values, db.Millis(p.Created))...)
		return User{}, err
	})
	return p, err
}

// ChangeProvider changes a provider, but not its name, and returns what became of it. fn gets it with its secrets, or
// without those that no key opens, and with its logo; it may run more than once. Unless operator says that the
// operator does it, fields that are his to set must stay as they are.
func (s *Store) ChangeProvider(ctx context.Context, name string, operator bool, fn func(*Provider) error) (Provider, error) {
	var p Provider
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		all, err := s.lockProviders(ctx, tx)
		if err != nil {
			return User{}, err
		}
		before, ok := all[name]
		if !ok {
			return User{}, fmt.Errorf("provider %q %w", name, ErrNotFound)
		}
		var logo string
		if err := tx.QueryRow(ctx, sqlProviderLogo, name).Scan(&logo); err != nil {
			return User{}, err
		}
		if before.Logo.Body, err = logoBody(logo); err != nil {
			return User{}, err
		}
		p = before.clone()
		if err := fn(&p); err != nil {
			return User{}, err
		}
		p.Name = name
		delete(all, name)
		values, err := s.providerValues(ctx, tx, before, &p, operator, all)
		if err != nil {
			return User{}, err
		}
		_, err = tx.Exec(ctx, sqlChangeProvider, values...)
		return User{}, err
	})
	return p, err
}

// errChecked ends a write that was to change nothing.
var errChecked = errors.New("checked")

// CheckProvider judges a provider as AddProvider does, or ChangeProvider when there is one of its name, and returns it as
// it would be kept. It keeps nothing.
func (s *Store) CheckProvider(ctx context.Context, p Provider, operator bool) (Provider, error) {
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := s.lockProviders(ctx, tx)
		if err != nil {
			return err
		}
		before, ok := all[p.Name]
		delete(all, p.Name)
		if ok && p.Logo.SHA256 == before.Logo.SHA256 {
			p.Logo.Body, before.Logo.Body = nil, nil
		}
		if _, err := s.providerValues(ctx, tx, before, &p, operator, all); err != nil {
			return err
		}
		return errChecked
	})
	if errors.Is(err, errChecked) {
		err = nil
	}
	return p, err
}

// RemoveProvider removes a provider that no property names.
func (s *Store) RemoveProvider(ctx context.Context, name string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		var uses int64
		if err := tx.QueryRow(ctx, sqlProviderUses, name).Scan(&uses); err != nil {
			return User{}, err
		}
		if uses > 0 {
			return User{}, fmt.Errorf(`provider %q is %w: %d values of the property "provider" name it, unset them first`, name, ErrInUse, uses)
		}
		n, err := tx.Exec(ctx, sqlRemoveProvider, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("provider %q %w", name, ErrNotFound)
		}
		return User{}, err
	})
}

// Providers lists all providers by name, with their secrets, from memory. Nobody may change the lists in them.
func (s *Store) Providers(ctx context.Context) ([]Provider, error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Provider, len(t.all))
	for i, p := range t.all {
		all[i] = *p
	}
	return all, nil
}

// Provider finds a provider, or returns ErrNotFound. It answers from memory; nobody may change the lists in it.
func (s *Store) Provider(ctx context.Context, name string) (Provider, error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return Provider{}, err
	}
	p := t.named(name)
	if p == nil {
		return Provider{}, fmt.Errorf("provider %q %w", name, ErrNotFound)
	}
	return *p, nil
}

// ProviderByHost finds the provider that has a host, which may be written in any way, from memory.
func (s *Store) ProviderByHost(ctx context.Context, host string) (Provider, bool, error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return Provider{}, false, err
	}
	name, err := hostrule.Normalise(host)
	if err != nil {
		return Provider{}, false, nil //nolint:nilerr // not an error of ours: no provider has such a host
	}
	p := t.byHost[name]
	if p == nil {
		return Provider{}, false, nil
	}
	return *p, true, nil
}

// ProviderOf finds the provider that a user has by the property "provider", from memory. One that is named and not
// there is none.
func (s *Store) ProviderOf(ctx context.Context, u UserID) (Provider, bool, error) {
	v, err := s.ContextView(ctx, u.Context) // a user has none of his own
	if err != nil {
		return Provider{}, false, err
	}
	name := cascade.Provider.Of(v)
	if name == "" {
		return Provider{}, false, nil
	}
	p, err := s.Provider(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return Provider{}, false, nil
	}
	return p, err == nil, err
}

// ProviderLogo reads a provider's logo with its Body; one that has none is ErrNotFound.
func (s *Store) ProviderLogo(ctx context.Context, name string) (Logo, error) {
	p, err := s.Provider(ctx, name)
	if err != nil {
		return Logo{}, err
	}
	var row string
	err = s.db.QueryRow(ctx, sqlProviderLogo, name).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) || err == nil && row == "" {
		return Logo{}, fmt.Errorf("logo of provider %q %w", name, ErrNotFound)
	}
	if err != nil {
		return Logo{}, fmt.Errorf("read logo of provider %q: %w", name, err)
	}
	// The row may be newer than what memory has of it, so both values are the row's.
	mediaType, _, _ := strings.Cut(row, ",")
	l := Logo{MediaType: mediaType}
	if l.Body, err = logoBody(row); err != nil {
		return Logo{}, fmt.Errorf("read logo of provider %q: %w", p.Name, err)
	}
	l.SHA256 = digest(l.Body)
	return l, nil
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func logoBody(row string) ([]byte, error) {
	if row == "" {
		return nil, nil
	}
	_, text, _ := strings.Cut(row, ",")
	return base64.StdEncoding.DecodeString(text)
}

// providerTable is all providers, as one version of the database has them.
type providerTable struct {
	all    []*Provider // by name
	byHost map[string]*Provider

	published published
}

func (t *providerTable) named(name string) *Provider {
	i, ok := slices.BinarySearchFunc(t.all, name, func(p *Provider, name string) int { return strings.Compare(p.Name, name) })
	if !ok {
		return nil
	}
	return t.all[i]
}

func (s *Store) providerTable(ctx context.Context) (*providerTable, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	t, ok, changes := s.cache.providers.Get(struct{}{})
	if ok {
		return t, nil
	}
	rows, err := s.db.Query(ctx, sqlProviders)
	if err != nil {
		return nil, fmt.Errorf("find providers: %w", err)
	}
	all, err := scanAll(rows, s.scanProvider)
	if err != nil {
		return nil, fmt.Errorf("find providers: %w", err)
	}
	t = &providerTable{byHost: map[string]*Provider{}}
	for _, p := range all {
		t.all = append(t.all, &p)
		for _, h := range p.Hosts {
			t.byHost[h] = &p
		}
	}
	slices.SortFunc(t.all, func(a, b *Provider) int { return strings.Compare(a.Name, b.Name) }) // a database has an order of its own
	s.cache.providers.Put(struct{}{}, t, changes)
	return t, nil
}

// lockProviders keeps other changes of providers away until the commit, and returns all there are.
func (s *Store) lockProviders(ctx context.Context, tx *db.Tx) (map[string]Provider, error) {
	if err := tx.Lock(ctx, "providers"); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, sqlProviders)
	if err != nil {
		return nil, err
	}
	list, err := scanAll(rows, s.scanProvider)
	if err != nil {
		return nil, err
	}
	all := make(map[string]Provider, len(list))
	for _, p := range list {
		all[p.Name] = p
	}
	return all, nil
}

// scanProvider reads a row, and opens its secrets where it can.
func (s *Store) scanProvider(rows *sql.Rows, p *Provider) error {
	var name, document, secrets string
	var created, updated int64
	if err := rows.Scan(&name, &p.Reseller, &document, &secrets, &created, &updated); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(document), p); err != nil {
		return fmt.Errorf("provider %q: damaged document: %w", name, err)
	}
	p.Name, p.Created, p.Updated = name, time.UnixMilli(created), time.UnixMilli(updated)
	p.Damaged = s.openProviderSecrets(p, secrets)
	return nil
}

// providerValues checks a provider against what it was before and against all others, completes it, and returns its
// values in the order of sqlChangeProvider.
func (s *Store) providerValues(ctx context.Context, tx *db.Tx, before Provider, p *Provider, operator bool, others map[string]Provider) ([]any, error) {
	if err := p.normalise(operator); err != nil {
		return nil, err
	}
	if !operator {
		if err := operatorsFields(before, *p); err != nil {
			return nil, err
		}
		if err := s.operatorsHost(before, *p); err != nil {
			return nil, err
		}
	}
	if err := p.check(before); err != nil {
		return nil, err
	}
	if err := p.alone(others); err != nil {
		return nil, err
	}
	for i, h := range p.MailHosts {
		field := fmt.Sprintf("mailhosts[%d]", i)
		err := mustHaveMailHost(ctx, tx, h, field)
		if invalid, ok := errors.AsType[*InvalidError](err); ok && !operator { // the names are the operator's
			invalid.Problem = fmt.Sprintf("there is no mail host %q: ask the operator", h)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.Reseller != "" {
		if err := mustHaveReseller(ctx, tx, p.Reseller); err != nil {
			return nil, err
		}
	}
	logo := ""
	if p.Logo.SHA256 != "" {
		logo = p.Logo.MediaType + "," + base64.StdEncoding.EncodeToString(p.Logo.Body)
	}
	p.Updated = s.now()
	document, err := json.Marshal(p.withoutSecrets())
	if err != nil {
		return nil, fmt.Errorf("encode provider: %w", err)
	}
	secrets, err := s.sealProviderSecrets(*p)
	if err != nil {
		return nil, err
	}
	p.Damaged = nil
	return []any{p.Reseller, string(document), logo, secrets, db.Millis(p.Updated), p.Name}, nil
}

// clone copies the lists, so that who changes one does not change what others see.
func (p Provider) clone() Provider {
	p.Hosts, p.Domains, p.MailHosts = slices.Clone(p.Hosts), slices.Clone(p.Domains), slices.Clone(p.MailHosts)
	p.OIDC.Scopes, p.APNs, p.FCM = slices.Clone(p.OIDC.Scopes), slices.Clone(p.APNs), slices.Clone(p.FCM)
	return p
}

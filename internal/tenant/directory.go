package tenant

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// directoryKey names the installation's key that signs the directory.
const directoryKey = "directory"

const (
	sqlAddInstallationKey    = `INSERT INTO installation_keys (name, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING`
	sqlInstallationKey       = `SELECT sealed FROM installation_keys WHERE name = ?`
	sqlInstallationKeys      = `SELECT name, sealed FROM installation_keys ORDER BY name`
	sqlResealInstallationKey = `UPDATE installation_keys SET sealed = ? WHERE name = ? AND sealed = ?`
)

func installationOwner(name string) string { return "installation/" + name }

// PublishAs says which origin the directory names as its own, and so where its logos are. It comes before the store is
// used concurrently.
func (s *Store) PublishAs(publicURL string) { s.publicURL = strings.TrimSuffix(publicURL, "/") }

// signingKey reads the key of the directory, which is made when the first directory is asked for, and is the same on
// all nodes.
func (s *Store) signingKey(ctx context.Context) (ed25519.PrivateKey, error) {
	if key := s.signing.Load(); key != nil {
		return *key, nil
	}
	var sealed string
	err := s.db.QueryRow(ctx, sqlInstallationKey, directoryKey).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		_, fresh, generr := ed25519.GenerateKey(rand.Reader)
		if generr != nil {
			return nil, fmt.Errorf("make the directory's key: %w", generr)
		}
		err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, sqlAddInstallationKey, directoryKey, s.keys.Seal(installationOwner(directoryKey), fresh.Seed())); err != nil {
				return err
			}
			return tx.QueryRow(ctx, sqlInstallationKey, directoryKey).Scan(&sealed) // another node's, if that was first
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the directory's key: %w", err)
	}
	seed, err := s.keys.Open(installationOwner(directoryKey), sealed)
	if err == nil && len(seed) != ed25519.SeedSize {
		err = errors.New("it is damaged")
	}
	if err != nil {
		return nil, fmt.Errorf("open the directory's key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	s.signing.Store(&key)
	return key, nil
}

// DirectoryKey is the public key that verifies the directory.
func (s *Store) DirectoryKey(ctx context.Context) (ed25519.PublicKey, error) {
	key, err := s.signingKey(ctx)
	if err != nil {
		return nil, err
	}
	return key.Public().(ed25519.PublicKey), nil
}

// published is what is made of a version of the providers, once it is asked for.
type published struct {
	mu        sync.Mutex // guards all below; held while documents are made
	directory *brand.Document
	brandings map[string]brand.Document
	words     []string // of each listed provider, in the order of the table
}

// Directory is the signed list of the listed providers.
func (s *Store) Directory(ctx context.Context) (brand.Document, error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return brand.Document{}, err
	}
	key, err := s.signingKey(ctx)
	if err != nil {
		return brand.Document{}, err
	}
	t.published.mu.Lock()
	defer t.published.mu.Unlock()
	if t.published.directory == nil {
		all := brand.Directory{Version: brand.Version, Issuer: s.publicURL, Providers: []brand.Entry{}}
		for _, p := range t.all {
			if !p.Listed {
				continue
			}
			e, err := s.entry(p)
			if err != nil {
				return brand.Document{}, err
			}
			all.Providers = append(all.Providers, e)
		}
		d, err := brand.Sign(all, key)
		if err != nil {
			return brand.Document{}, err
		}
		t.published.directory = &d
	}
	return *t.published.directory, nil
}

// Branding is the signed document of a provider, listed or not; one that is not there is ErrNotFound.
func (s *Store) Branding(ctx context.Context, name string) (brand.Document, error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return brand.Document{}, err
	}
	p := t.named(name)
	if p == nil {
		return brand.Document{}, fmt.Errorf("provider %q %w", name, ErrNotFound)
	}
	key, err := s.signingKey(ctx)
	if err != nil {
		return brand.Document{}, err
	}
	t.published.mu.Lock()
	defer t.published.mu.Unlock()
	d, ok := t.published.brandings[name]
	if !ok {
		e, err := s.entry(p)
		if err != nil {
			return brand.Document{}, err
		}
		palette, err := p.Palette()
		if err != nil {
			return brand.Document{}, fmt.Errorf("provider %q: %w", name, err)
		}
		d, err = brand.Sign(brand.Branding{Version: brand.Version, Issuer: s.publicURL, Provider: e, Palette: palette}, key)
		if err != nil {
			return brand.Document{}, err
		}
		if t.published.brandings == nil {
			t.published.brandings = map[string]brand.Document{}
		}
		t.published.brandings[name] = d
	}
	return d, nil
}

// SearchProviders finds listed providers of which a name, host or domain holds each of the words, whatever their case
// and accents, and reports whether there are more than most. Those whose title or name begins with the words are first.
func (s *Store) SearchProviders(ctx context.Context, words string, most int) (found []brand.Entry, more bool, err error) {
	t, err := s.providerTable(ctx)
	if err != nil {
		return nil, false, err
	}
	want := strings.Fields(brand.Fold(words))
	var first, later []*Provider
	for i, text := range s.providerWords(t) {
		if text == "" || !holdsAll(text, want) {
			continue
		}
		if begins := strings.Join(want, " "); strings.HasPrefix(text, begins) || strings.Contains(text, "\n"+begins) {
			first = append(first, t.all[i])
		} else {
			later = append(later, t.all[i])
		}
	}
	found = []brand.Entry{}
	for _, p := range append(first, later...) {
		if len(found) == most {
			return found, true, nil
		}
		e, err := s.entry(p)
		if err != nil {
			return nil, false, err
		}
		found = append(found, e)
	}
	return found, false, nil
}

func holdsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// providerWords are what the providers are found by; "" for one that is not listed.
func (s *Store) providerWords(t *providerTable) []string {
	t.published.mu.Lock()
	defer t.published.mu.Unlock()
	if t.published.words == nil {
		words := make([]string, len(t.all))
		for i, p := range t.all {
			if p.Listed {
				words[i] = brand.Entry{Name: p.Name, Title: p.Title, Hosts: p.Hosts, Domains: p.Domains}.Words()
			}
		}
		t.published.words = words
	}
	return t.published.words
}

// entry is what the public sees of a provider.
func (s *Store) entry(p *Provider) (brand.Entry, error) {
	base := s.publicURL + "/api/v1/providers/" + url.PathEscape(p.Name)
	e := brand.Entry{
		Name: p.Name, Title: p.Title, BaseURL: cmp.Or(p.BaseURL, s.publicURL), Hosts: append([]string{}, p.Hosts...),
		Domains: append([]string{}, p.Domains...), Contact: p.Contact, SignIn: p.SignIn, Branding: base,
	}
	if err := e.Colour.UnmarshalText([]byte(p.Colour)); err != nil {
		return e, fmt.Errorf("colour of provider %q %w", p.Name, err)
	}
	e.OnColour = brand.Readable(e.Colour)
	if p.OnColour != "" {
		if err := e.OnColour.UnmarshalText([]byte(p.OnColour)); err != nil {
			return e, fmt.Errorf("on_colour of provider %q %w", p.Name, err)
		}
	}
	if p.Logo.SHA256 != "" {
		e.Logo = &brand.LogoLink{URL: base + "/logo?sha256=" + p.Logo.SHA256, MediaType: p.Logo.MediaType, SHA256: p.Logo.SHA256}
	}
	return e, nil
}

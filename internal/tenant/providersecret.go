package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// providerSecrets are a provider's secrets as they are sealed, in one piece; those of lists in their order.
type providerSecrets struct {
	OIDC  string        `json:"oidc,omitempty"`
	APNs  []apnsSecrets `json:"apns,omitempty"`
	FCM   []string      `json:"fcm,omitempty"`
	VAPID string        `json:"vapid,omitempty"`
}

type apnsSecrets struct {
	Key                 string `json:"key,omitempty"`
	Certificate         string `json:"certificate,omitempty"`
	CertificatePassword string `json:"certificate_password,omitempty"`
}

func providerOwner(name string) string { return "provider/" + name }

// withoutSecrets is what may be shown, and is kept in clear.
func (p Provider) withoutSecrets() Provider {
	p = p.clone()
	p.OIDC.ClientSecret, p.VAPIDKey = "", ""
	for i := range p.APNs {
		a := &p.APNs[i]
		a.Key, a.Certificate, a.CertificatePassword = "", "", ""
	}
	for i := range p.FCM {
		p.FCM[i].ServiceAccount = ""
	}
	return p
}

// sealProviderSecrets returns what the row keeps: "" when there is nothing to hide.
func (s *Store) sealProviderSecrets(p Provider) (string, error) {
	plain := providerSecrets{OIDC: string(p.OIDC.ClientSecret), VAPID: string(p.VAPIDKey)}
	for _, a := range p.APNs {
		plain.APNs = append(plain.APNs, apnsSecrets{string(a.Key), string(a.Certificate), string(a.CertificatePassword)})
	}
	for _, f := range p.FCM {
		plain.FCM = append(plain.FCM, string(f.ServiceAccount))
	}
	if plain.OIDC == "" && plain.VAPID == "" && plain.APNs == nil && plain.FCM == nil {
		return "", nil
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return "", fmt.Errorf("encode secrets: %w", err)
	}
	return s.keys.Seal(providerOwner(p.Name), text), nil
}

// openProviderSecrets opens the secrets of a row that was read.
func (s *Store) openProviderSecrets(p *Provider, sealed string) error {
	if sealed == "" {
		return nil
	}
	text, err := s.keys.Open(providerOwner(p.Name), sealed)
	var plain providerSecrets
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err == nil && (len(plain.APNs) != len(p.APNs) || len(plain.FCM) != len(p.FCM)) {
		err = errors.New("they are of another version of its credentials")
	}
	if err != nil {
		return fmt.Errorf("open secrets of provider %q: %w", p.Name, err)
	}
	p.OIDC.ClientSecret, p.VAPIDKey = Secret(plain.OIDC), Secret(plain.VAPID)
	for i, a := range plain.APNs {
		p.APNs[i].Key, p.APNs[i].Certificate, p.APNs[i].CertificatePassword = Secret(a.Key), Secret(a.Certificate), Secret(a.CertificatePassword)
	}
	for i, account := range plain.FCM {
		p.FCM[i].ServiceAccount = Secret(account)
	}
	return nil
}

const (
	sqlSealedProviders = `SELECT name, secrets FROM providers WHERE secrets <> '' ORDER BY name`
	sqlResealProvider  = `UPDATE providers SET secrets = ? WHERE name = ? AND secrets = ?`
)

// resealAll seals the secrets of all providers and properties, and the keys of the installation, anew with the first
// key of the ring, see Reseal.
func (s *Store) resealAll(ctx context.Context) (int, error) {
	n, err := s.resealRows(ctx, sqlSealedProviders, sqlResealProvider, providerOwner)
	keys, keyErr := s.resealRows(ctx, sqlInstallationKeys, sqlResealInstallationKey, installationOwner)
	properties, propertyErr := s.resealProperties(ctx)
	return n + keys + properties, errors.Join(err, keyErr, propertyErr)
}

func (s *Store) resealRows(ctx context.Context, sqlAll, sqlSet string, owner func(name string) string) (n int, failed error) {
	rows, err := s.db.Query(ctx, sqlAll)
	if err != nil {
		return 0, err
	}
	all, err := scanAll(rows, scanSealed)
	if err != nil {
		return 0, err
	}
	for _, row := range all {
		fresh, old, err := s.keys.Reseal(owner(row.name), row.sealed)
		if err == nil && old {
			err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, sqlSet, fresh, row.name, row.sealed) // none: changed meanwhile, and so sealed anew
				return err
			})
		}
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("seal %q anew: %w", owner(row.name), err))
		case old:
			n++
		}
	}
	return n, failed
}

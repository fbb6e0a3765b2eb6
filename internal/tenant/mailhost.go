package tenant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// What a mail host sends as "user" in a notification.
const (
	FormLogin    = "login"    // the IMAP login, as Dovecot does by default
	FormMetadata = "metadata" // the "user=" of the METADATA entry, as with user_from_metadata
)

// How a mail host is reached.
const (
	SecurityTLS      = "tls"
	SecurityStartTLS = "starttls"
	SecurityNone     = "none"
)

// MailHost is one upstream mail server.
type MailHost struct {
	Name     string
	IMAPHost string
	IMAPPort int
	Security string
	// Insecure allows credentials over an unverified or plain connection although the host is not loopback.
	Insecure bool
	// CA holds PEM certificates that are trusted instead of the system's; "" for the system's.
	CA string
	// NotifyLogin is the login of the host's own notify credential; "" when the installation's speaks for it.
	NotifyLogin string
	// UserForm is FormLogin or FormMetadata. A host that uses the installation's credential has its form;
	// AddMailHost takes "" as that, else as FormLogin.
	UserForm string
	// KeyedAlias registers users with a MAC and refuses their ids without it.
	KeyedAlias bool
	AllowFrom  []netip.Prefix
	Contexts   []int64
}

const (
	mailHostColumns = `name, imap_host, imap_port, security, insecure, ca, COALESCE(notify_login, ''), notify_hash,
		user_form, keyed_alias, allow_from, contexts`
	sqlAddMailHost = `INSERT INTO mailhosts (name, imap_host, imap_port, security, insecure, ca, notify_login, notify_hash,
		user_form, keyed_alias, allow_from, contexts, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`
	sqlMailHosts          = `SELECT ` + mailHostColumns + ` FROM mailhosts ORDER BY name`
	sqlMailHost           = `SELECT ` + mailHostColumns + ` FROM mailhosts WHERE name = ?`
	sqlMailHostByNotifier = `SELECT ` + mailHostColumns + ` FROM mailhosts WHERE notify_login = ?`
	sqlRemoveMailHost     = `DELETE FROM mailhosts WHERE name = ?`
	sqlMailHostUsers      = `SELECT COUNT(*) FROM users WHERE mailhost = ?`
)

// NewPassword returns a random password of 192 bits for a notify credential, safe in a URL.
func NewPassword() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// HashPassword is how notify passwords are kept. They are long and random, so a fast hash is enough,
// and the endpoint has milliseconds.
func HashPassword(password string) [sha256.Size]byte { return sha256.Sum256([]byte(password)) }

// AddMailHost adds a mail host. password belongs to its NotifyLogin and is empty exactly when that is.
func (s *Store) AddMailHost(ctx context.Context, h MailHost, password string) error {
	if h.UserForm == "" {
		h.UserForm = FormLogin
		if h.NotifyLogin == "" {
			h.UserForm = s.dflt.UserForm
		}
	}
	if err := s.checkMailHost(h, password); err != nil {
		return err
	}
	allow, err := json.Marshal(h.AllowFrom)
	if err != nil {
		return fmt.Errorf("encode networks: %w", err)
	}
	contexts, err := json.Marshal(h.Contexts)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	var login sql.NullString
	hash := ""
	if h.NotifyLogin != "" {
		login = sql.NullString{String: h.NotifyLogin, Valid: true}
		sum := HashPassword(password)
		hash = hex.EncodeToString(sum[:])
	}
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		for _, c := range h.Contexts {
			if err := mustHave(ctx, tx, sqlHasContext, c, "contexts", "there is no context %v: add it first"); err != nil {
				return User{}, err
			}
		}
		n, err := tx.Exec(ctx, sqlAddMailHost, h.Name, h.IMAPHost, h.IMAPPort, h.Security, oneIf(h.Insecure), h.CA, login, hash,
			h.UserForm, oneIf(h.KeyedAlias), string(allow), string(contexts), db.Millis(s.now()))
		if err == nil && n == 0 {
			err = fmt.Errorf("mail host %q, or notify login %q, %w", h.Name, h.NotifyLogin, ErrExists)
		}
		return User{}, err
	})
}

func (s *Store) checkMailHost(h MailHost, password string) error {
	if err := checkName("name", h.Name); err != nil {
		return err
	}
	if h.IMAPHost == "" || strings.ContainsAny(h.IMAPHost, " /@\t\r\n") || strings.ContainsFunc(h.IMAPHost, notPrintable) {
		return &InvalidError{"imap", "must be the IMAP server's host name or address"}
	}
	if h.IMAPPort < 1 || h.IMAPPort > 65535 {
		return &InvalidError{"imap", "the port must be from 1 to 65535"}
	}
	if !slices.Contains([]string{SecurityTLS, SecurityStartTLS, SecurityNone}, h.Security) {
		return &InvalidError{"security", "must be tls, starttls or none"}
	}
	if !slices.Contains([]string{FormLogin, FormMetadata}, h.UserForm) {
		return &InvalidError{"user_form", "must be login or metadata"}
	}
	if h.KeyedAlias && h.UserForm != FormMetadata {
		return &InvalidError{"keyed_alias", "needs user_form metadata: a login is proved by the notify credential alone"}
	}
	if h.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(h.CA)) {
		return &InvalidError{"ca", "holds no PEM certificate"}
	}
	switch {
	case h.NotifyLogin == "" && password == "":
		if h.UserForm != s.dflt.UserForm {
			return &InvalidError{"user_form", "differs from the installation's notify credential: set internal.notify.user_form, or give the host its own notify_login"}
		}
		if len(h.AllowFrom) > 0 || len(h.Contexts) > 0 {
			return &InvalidError{"notify_login", "is needed for allow_from and contexts: they belong to the host's own credential"}
		}
		return nil
	case h.NotifyLogin == "" || password == "":
		return &InvalidError{"notify_login", "a notify credential is a login and a password, or neither"}
	case h.NotifyLogin == s.dflt.Login:
		return &InvalidError{"notify_login", "is the installation's own login: choose another"}
	case strings.Contains(h.NotifyLogin, ":"):
		return &InvalidError{"notify_login", "must not hold a colon (RFC 7617 section 2)"}
	case len(password) < 16:
		return &InvalidError{"notify_password", "must have 16 characters or more: only its hash is kept, and a fast one"}
	}
	return checkName("notify_login", h.NotifyLogin)
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// hostRow is a MailHost with what only this package sees of it.
type hostRow struct {
	MailHost
	hash [sha256.Size]byte
}

func scanHost(scan func(...any) error, h *hostRow) error {
	var insecure, keyed int64
	var allow, contexts, hash string
	err := scan(&h.Name, &h.IMAPHost, &h.IMAPPort, &h.Security, &insecure, &h.CA, &h.NotifyLogin, &hash,
		&h.UserForm, &keyed, &allow, &contexts)
	if err != nil {
		return err
	}
	h.Insecure, h.KeyedAlias = insecure == 1, keyed == 1
	if hash != "" {
		raw, err := hex.DecodeString(hash)
		if err != nil || len(raw) != sha256.Size {
			return fmt.Errorf("mail host %q: damaged password hash", h.Name)
		}
		h.hash = [sha256.Size]byte(raw)
	}
	return errors.Join(json.Unmarshal([]byte(allow), &h.AllowFrom), json.Unmarshal([]byte(contexts), &h.Contexts))
}

// MailHosts lists all mail hosts by name.
func (s *Store) MailHosts(ctx context.Context) ([]MailHost, error) {
	rows, err := s.db.Query(ctx, sqlMailHosts)
	if err != nil {
		return nil, err
	}
	return scanAll(rows, func(rows *sql.Rows, h *MailHost) error {
		var row hostRow
		err := scanHost(rows.Scan, &row)
		*h = row.MailHost
		return err
	})
}

// MailHost finds a mail host, or returns ErrNotFound.
func (s *Store) MailHost(ctx context.Context, name string) (MailHost, error) {
	var h hostRow
	err := scanHost(s.db.QueryRow(ctx, sqlMailHost, name).Scan, &h)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("mail host %q %w", name, ErrNotFound)
	}
	return h.MailHost, err
}

// RemoveMailHost removes a mail host that has no users.
func (s *Store) RemoveMailHost(ctx context.Context, name string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		var users int64
		if err := tx.QueryRow(ctx, sqlMailHostUsers, name).Scan(&users); err != nil {
			return User{}, err
		}
		if users > 0 {
			return User{}, fmt.Errorf("mail host %q is %w by %d users: remove them first", name, ErrInUse, users)
		}
		n, err := tx.Exec(ctx, sqlRemoveMailHost, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("mail host %q %w", name, ErrNotFound)
		}
		return User{}, err
	})
}

package tenant

import (
	"cmp"
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

	// Source is what makes new mail known to us, one of the Source words. AddMailHost takes "" as SourceAuto.
	Source string
	// PasswordSource is what we sign in with when no user is there, one of the Passwords words. AddMailHost
	// takes "" as PasswordsSession.
	PasswordSource string
	// MasterLogin may sign in as any user: the master user of PasswordsGlobal.
	MasterLogin    string
	MasterPassword Secret
	// DoveadmURL is Dovecot's doveadm HTTP API; "" when we do not use it.
	DoveadmURL string
	DoveadmKey Secret
	// OAuthTokenURL is the token endpoint of PasswordsOAuth (RFC 6749 section 3.2).
	OAuthTokenURL, OAuthClientID string
	OAuthClientSecret            Secret // "" for a public client
	OAuthScope                   string
}

const (
	mailHostColumns = `name, imap_host, imap_port, security, insecure, ca, COALESCE(notify_login, ''), notify_hash,
		user_form, keyed_alias, allow_from, contexts, source, password_source, master_login, doveadm_url, oauth_token_url,
		oauth_client_id, oauth_scope, secrets`
	sqlAddMailHost = `INSERT INTO mailhosts (imap_host, imap_port, security, insecure, ca, notify_login, notify_hash,
		user_form, keyed_alias, allow_from, contexts, source, password_source, master_login, doveadm_url, oauth_token_url,
		oauth_client_id, oauth_scope, secrets, name, created_ms)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	// sqlHoldMailHost changes nothing: it keeps other changes of the row away until the commit.
	sqlHoldMailHost   = `UPDATE mailhosts SET created_ms = created_ms WHERE name = ?`
	sqlChangeMailHost = `UPDATE mailhosts SET imap_host = ?, imap_port = ?, security = ?, insecure = ?, ca = ?,
		notify_login = ?, notify_hash = ?, user_form = ?, keyed_alias = ?, allow_from = ?, contexts = ?, source = ?,
		password_source = ?, master_login = ?, doveadm_url = ?, oauth_token_url = ?, oauth_client_id = ?, oauth_scope = ?,
		secrets = ? WHERE name = ?`
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
	h.Source = cmp.Or(h.Source, SourceAuto)
	h.PasswordSource = cmp.Or(h.PasswordSource, PasswordsSession)
	row := hostRow{MailHost: h}
	values, err := s.hostValues(&row, password)
	if err != nil {
		return err
	}
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		if err := mustHaveContexts(ctx, tx, h); err != nil {
			return User{}, err
		}
		n, err := tx.Exec(ctx, sqlAddMailHost, append(values, db.Millis(s.now()))...)
		if err == nil && n == 0 {
			what := fmt.Sprintf("mail host %q", h.Name)
			if h.NotifyLogin != "" {
				what += fmt.Sprintf(", or notify login %q,", h.NotifyLogin)
			}
			err = fmt.Errorf("%s %w", what, ErrExists)
		}
		return User{}, err
	})
}

// ChangeMailHost changes a mail host, but not its name, and returns what became of it. fn gets it with its
// secrets, or without those that the key at hand does not open, and may run more than once. The password it
// returns is that of the NotifyLogin; "" keeps the one there is.
func (s *Store) ChangeMailHost(ctx context.Context, name string, fn func(*MailHost) (password string, err error)) (MailHost, error) {
	var row hostRow
	err := s.change(ctx, func(ctx context.Context, tx *db.Tx) (User, error) {
		n, err := tx.Exec(ctx, sqlHoldMailHost, name)
		if err == nil && n == 0 {
			err = fmt.Errorf("mail host %q %w", name, ErrNotFound)
		}
		if err != nil {
			return User{}, err
		}
		row = hostRow{}
		if err := scanHost(tx.QueryRow(ctx, sqlMailHost, name).Scan, &row); err != nil {
			return User{}, err
		}
		_ = s.openSecrets(&row) // those that are missing are asked for by the check
		before := row.MailHost
		password, err := fn(&row.MailHost)
		if err != nil {
			return User{}, err
		}
		row.Name = name
		dropSecrets(before, &row.MailHost)
		values, err := s.hostValues(&row, password)
		if err != nil {
			return User{}, err
		}
		if err := mustHaveContexts(ctx, tx, row.MailHost); err != nil {
			return User{}, err
		}
		if row.NotifyLogin != "" {
			var other hostRow
			err := scanHost(tx.QueryRow(ctx, sqlMailHostByNotifier, row.NotifyLogin).Scan, &other)
			if err == nil && other.Name != name {
				err = fmt.Errorf("notify login %q %w", row.NotifyLogin, ErrExists)
			}
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return User{}, err
			}
		}
		_, err = tx.Exec(ctx, sqlChangeMailHost, values...)
		return User{}, err
	})
	return row.MailHost, err
}

// hostValues checks a mail host and returns its values in the order of sqlChangeMailHost. A password of ""
// leaves the hash as it is.
func (s *Store) hostValues(row *hostRow, password string) ([]any, error) {
	h := row.MailHost
	if err := s.checkMailHost(h, password, row.hash != [sha256.Size]byte{}); err != nil {
		return nil, err
	}
	if err := checkSource(h); err != nil {
		return nil, err
	}
	allow, err := json.Marshal(h.AllowFrom)
	if err != nil {
		return nil, fmt.Errorf("encode networks: %w", err)
	}
	contexts, err := json.Marshal(h.Contexts)
	if err != nil {
		return nil, fmt.Errorf("encode contexts: %w", err)
	}
	var login sql.NullString
	hash := ""
	if h.NotifyLogin != "" {
		login = sql.NullString{String: h.NotifyLogin, Valid: true}
		if password != "" {
			row.hash = HashPassword(password)
		}
		hash = hex.EncodeToString(row.hash[:])
	}
	secrets, err := s.sealSecrets(h)
	if err != nil {
		return nil, err
	}
	return []any{
		h.IMAPHost, h.IMAPPort, h.Security, oneIf(h.Insecure), h.CA, login, hash, h.UserForm, oneIf(h.KeyedAlias), string(allow),
		string(contexts), h.Source, h.PasswordSource, h.MasterLogin, h.DoveadmURL, h.OAuthTokenURL, h.OAuthClientID, h.OAuthScope,
		secrets, h.Name,
	}, nil
}

func mustHaveContexts(ctx context.Context, tx *db.Tx, h MailHost) error {
	for _, c := range h.Contexts {
		if err := mustHave(ctx, tx, sqlHasContext, c, "contexts", "there is no context %v: add it first"); err != nil {
			return err
		}
	}
	return nil
}

// checkMailHost checks how a mail host is reached and how it reports. hashed says that a notify password is kept
// of it already.
func (s *Store) checkMailHost(h MailHost, password string, hashed bool) error {
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
	case h.NotifyLogin == "" || password == "" && !hashed:
		return &InvalidError{"notify_login", "a notify credential is a login and a password, or neither"}
	case h.NotifyLogin == s.dflt.Login:
		return &InvalidError{"notify_login", "is the installation's own login: choose another"}
	case strings.Contains(h.NotifyLogin, ":"):
		return &InvalidError{"notify_login", "must not hold a colon (RFC 7617 section 2)"}
	case password != "" && len(password) < 16:
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
	hash   [sha256.Size]byte
	sealed string // its secrets, which scanHost does not open
}

func scanHost(scan func(...any) error, h *hostRow) error {
	var insecure, keyed int64
	var allow, contexts, hash string
	err := scan(&h.Name, &h.IMAPHost, &h.IMAPPort, &h.Security, &insecure, &h.CA, &h.NotifyLogin, &hash,
		&h.UserForm, &keyed, &allow, &contexts, &h.Source, &h.PasswordSource, &h.MasterLogin, &h.DoveadmURL, &h.OAuthTokenURL,
		&h.OAuthClientID, &h.OAuthScope, &h.sealed)
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

// MailHosts lists all mail hosts by name, without their secrets.
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

// MailHost finds a mail host, or returns ErrNotFound. It answers from memory, as a node that opens a connection
// for each of its users needs it to; nobody may change the lists in it.
func (s *Store) MailHost(ctx context.Context, name string) (MailHost, error) {
	if err := s.check(ctx); err != nil {
		return MailHost{}, err
	}
	h, err := s.host(ctx, name)
	switch {
	case err != nil:
		return MailHost{}, fmt.Errorf("find mail host: %w", err)
	case h == nil:
		return MailHost{}, fmt.Errorf("mail host %q %w", name, ErrNotFound)
	case h.damaged != nil:
		return MailHost{}, h.damaged
	}
	return h.MailHost, nil
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

package tenant

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// What makes new mail at a mail host known to us.
const (
	SourceDovecot    = "dovecot"    // Dovecot's push_notification, registered by METADATA or doveadm
	SourceIdle       = "idle"       // an IMAP connection for each user
	SourceMailNotify = "mailnotify" // datagrams of a Cyrus notifyd
	SourceAuto       = "auto"       // SourceDovecot where the server lets us register, else SourceIdle
)

// What we sign in with at a mail host when the user is not there.
const (
	PasswordsSession = "session" // the user's own password, kept at his sign-in
	PasswordsGlobal  = "global"  // a master user's
	PasswordsOAuth   = "oauth"   // an access token, from the user's refresh token
)

// checkSource checks what we need to hear of new mail, and to sign in for it.
func checkSource(h MailHost) error {
	if !slices.Contains([]string{SourceDovecot, SourceIdle, SourceMailNotify, SourceAuto}, h.Source) {
		return &InvalidError{"source", "must be dovecot, idle, mailnotify or auto"}
	}
	switch h.PasswordSource {
	case PasswordsSession:
	case PasswordsGlobal:
		if h.MasterLogin == "" {
			return &InvalidError{"master_login", "is needed for password_source global: the login of a master user"}
		}
	case PasswordsOAuth:
		if h.OAuthTokenURL == "" {
			return &InvalidError{"oauth_token_url", "is needed for password_source oauth: the address that gives access tokens"}
		}
	default:
		return &InvalidError{"password_source", "must be session, global or oauth"}
	}
	if h.MasterLogin != "" {
		if h.MasterPassword == "" {
			return &InvalidError{"master_password", "is needed with master_login"}
		}
		if err := checkName("master_login", h.MasterLogin); err != nil {
			return err
		}
	} else if h.MasterPassword != "" {
		return &InvalidError{"master_login", "is needed with master_password"}
	}
	if err := checkURL("doveadm_url", h.DoveadmURL, h.Insecure); err != nil {
		return err
	}
	switch {
	case h.DoveadmURL != "" && h.DoveadmKey == "":
		return &InvalidError{"doveadm_key", "is needed with doveadm_url: the value of doveadm_api_key at the mail server"}
	case h.DoveadmURL == "" && h.DoveadmKey != "":
		return &InvalidError{"doveadm_url", "is needed with doveadm_key"}
	}
	if err := checkURL("oauth_token_url", h.OAuthTokenURL, h.Insecure); err != nil {
		return err
	}
	switch {
	case h.OAuthTokenURL != "" && h.OAuthClientID == "":
		return &InvalidError{"oauth_client_id", "is needed with oauth_token_url"}
	case h.OAuthTokenURL == "" && (h.OAuthClientID != "" || h.OAuthScope != "" || h.OAuthClientSecret != ""):
		return &InvalidError{"oauth_token_url", "is needed with oauth_client_id, oauth_client_secret and oauth_scope"}
	case h.OAuthClientID != "":
		if err := checkName("oauth_client_id", h.OAuthClientID); err != nil {
			return err
		}
	}
	if h.OAuthScope != "" {
		if err := checkName("oauth_scope", h.OAuthScope); err != nil {
			return err
		}
	}
	for field, secret := range map[string]Secret{
		"master_password": h.MasterPassword, "doveadm_key": h.DoveadmKey, "oauth_client_secret": h.OAuthClientSecret,
	} {
		if err := secret.check(field); err != nil {
			return err
		}
	}
	return nil
}

// checkURL accepts "" and where a secret may be sent to.
func checkURL(field, s string, insecure bool) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return &InvalidError{field, "must be a URL as https://mail.example.org:8443"}
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return &InvalidError{field, "must hold neither a login nor a query: a secret has a field of its own"}
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return &InvalidError{field, "must be https, or the secret would travel in clear: http is for this machine, or with insecure"}
	}
	return nil
}

// loopback reports whether the host is this machine by its very name (see imap).
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

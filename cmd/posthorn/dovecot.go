package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

const notifyPath = "/preliminary/http-notify/v1/notify"

// In 2.3 a % in a plugin setting begins a variable, so the URL's are doubled there; in 2.4 only %{ does.
// The METADATA entry is asked for in both user forms: without one Dovecot's driver sends nothing.
const dovecot23 = `# Dovecot 2.3, for example in /etc/dovecot/conf.d/99-posthorn.conf
mail_attribute_dict = file:%h/dovecot-attributes
<offer>protocol lmtp {
  mail_plugins = $mail_plugins notify push_notification
}
protocol lda {
  mail_plugins = $mail_plugins notify push_notification
}
plugin {
  push_notification_driver = ox:url=<URL 2.3><metadata 2.3>
}
`

// The time-out is said because 2.4.0 to 2.4.3 wait a minute by default, once for each recipient of a
// delivery; 2.4.4 has the values given here. The HTTP client's settings count inside the named block in
// all of them.
const dovecot24 = `# Dovecot 2.4, for example in /etc/dovecot/conf.d/99-posthorn.conf
mail_attribute {
  dict file {
    path = %{home}/dovecot-attributes
  }
}
<offer>protocol lmtp {
  mail_plugins {
    notify = yes
    push_notification = yes
  }
}
protocol lda {
  mail_plugins {
    notify = yes
    push_notification = yes
  }
}
push_notification posthorn {
  driver = ox
  push_notification_ox_url = <URL><metadata 2.4>
  # 2.4.0 to 2.4.3 would hold each delivery for a minute when nobody answers.
  http_client_request_timeout = 2s
  http_client_request_max_attempts = 2
}
`

// dovecotOffer lets us register over IMAP, in both versions.
const dovecotOffer = `# Posthorn's address as Dovecot sees it: METADATA is nobody else's business.
remote 127.0.0.1 {
  imap_metadata = yes
}
`

// introduce tells how to point the new mail host at us. password is the one the operator chose; one
// that the server made is in h.
func (c *cli) introduce(cfg *config.Config, h api.MailHost, password string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Mail host %s added: %s (%s).\n", printable(h.Name), printable(h.IMAP), printable(h.Security))
	switch h.Source {
	case "idle":
		b.WriteString("We hear of new mail over IMAP, with a connection for each user: nothing is to be set up at the mail server.\n")
	case "mailnotify":
		fmt.Fprintf(&b, "Have its notifyd report to %s by UDP (mailnotify.listen, %s).\n", cfg.MailNotify.Listen, cfg.Origin("mailnotify.listen"))
	}
	if h.Source == "idle" || h.Source == "mailnotify" {
		_, err := fmt.Fprint(c.stdout, b.String())
		return err
	}
	login, note := h.NotifyLogin, ""
	switch {
	case h.NotifyPassword != "":
		password = h.NotifyPassword
		note = "The password in the URL was made for this mail host. It is not shown again.\n"
	case login != "":
	default:
		login, password, note = installationCredential(cfg)
	}
	listen := cfg.Internal.Listen
	url, everywhere := notifyURL(listen, login, password)
	fmt.Fprintf(&b, "Dovecot reports new mail to us once one of these is in its configuration.\n%s", note)
	fmt.Fprintf(&b, "We listen on %s (internal.listen, %s)", listen, cfg.Origin("internal.listen"))
	if ap, err := netip.ParseAddrPort(listen); everywhere {
		b.WriteString(", all addresses of this machine: put in the one that Dovecot reaches")
	} else if err == nil && ap.Addr().IsLoopback() {
		b.WriteString(", this machine only: change that first for a Dovecot on another one")
	}
	b.WriteString(".\n")
	metadata23, metadata24 := "", ""
	if h.UserForm == "metadata" {
		metadata23, metadata24 = " user_from_metadata", "\n  push_notification_ox_user_from_metadata = yes"
	}
	offer := dovecotOffer
	if h.DoveadmURL != "" { // we register by that
		offer = ""
	}
	fill := strings.NewReplacer(
		"<offer>", offer,
		"<URL>", url, "<URL 2.3>", strings.ReplaceAll(url, "%", "%%"),
		"<metadata 2.3>", metadata23, "<metadata 2.4>", metadata24,
	)
	b.WriteString("\n" + fill.Replace(dovecot23) + "\n" + fill.Replace(dovecot24))
	_, err := fmt.Fprint(c.stdout, b.String())
	return err
}

// passwordHere stands for a password that we do not print.
const passwordHere = "PASSWORD"

// installationCredential is what mail hosts use that have no credential of their own, and where to
// find the password.
func installationCredential(cfg *config.Config) (login, password, note string) {
	n := cfg.Internal.Notify
	if n.Password.IsSet() && n.Password.Reveal() == "" {
		return "", "", "No credential is asked for: internal.notify.password is empty.\n"
	}
	where := "the file " + filepath.Join(cfg.StateDir, server.NotifyPasswordFile)
	if n.Password.IsSet() {
		where = cfg.Origin("internal.notify.password")
	}
	return n.Login, passwordHere, "Put the installation's notify password for " + passwordHere + "; it is in " + where + ".\n"
}

// notifyURL is the address for Dovecot's push_notification. everywhere says that we listen on all
// addresses, so that the host in it is a guess: this machine's name.
func notifyURL(listen, login, password string) (url string, everywhere bool) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		host, port = listen, ""
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		everywhere = true
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	userinfo := ""
	if login != "" {
		userinfo = percentEncode(login) + ":" + percentEncode(password) + "@"
	}
	return "http://" + userinfo + net.JoinHostPort(host, port) + notifyPath, everywhere
}

// percentEncode encodes all but the unreserved characters (RFC 3986 section 2.3). More would be
// allowed in the userinfo of a URL, but $ and # mean something to Dovecot's configuration.
func percentEncode(s string) string {
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(unreserved, s[i]) >= 0 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

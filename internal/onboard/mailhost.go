package onboard

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// exam is the examination of one mail host.
type exam struct {
	*Doctor
	Report
	req   Request
	host  tenant.MailHost
	user  *tenant.User // nil when none is named
	roots *x509.CertPool
	addrs []netip.Addr // of the host
	// conn is signed in; nil before.
	conn *imap.Client
}

func (e *exam) addr() string { return net.JoinHostPort(e.host.IMAPHost, strconv.Itoa(e.host.IMAPPort)) }

func (d *Doctor) newExam(req Request, h tenant.MailHost, user *tenant.User) *exam {
	e := &exam{Doctor: d, req: req, host: h, user: user}
	e.MailHost, e.Address = h.Name, fmt.Sprintf("%s, %s", e.addr(), h.Security)
	if h.CA != "" {
		e.roots = x509.NewCertPool()
		e.roots.AppendCertsFromPEM([]byte(h.CA))
	}
	return e
}

func (e *exam) close() {
	if e.conn != nil {
		e.conn.Close()
	}
}

// mailHost walks from the name of a mail host to a mail that arrives.
func (d *Doctor) mailHost(ctx context.Context, req Request, h tenant.MailHost, user *tenant.User) Report {
	e := d.newExam(req, h, user)
	defer e.close()
	if e.run(ctx, "name", e.name) {
		if e.run(ctx, "reachable", e.reachable) && e.run(ctx, "tls", e.tls) && e.run(ctx, "greeting", e.greeting) && e.run(ctx, "sign_in", e.signIn) {
			e.signedIn(ctx)
		}
		e.run(ctx, "ports", e.ports)
		if e.local() {
			e.run(ctx, "inotify", e.inotify)
		}
	}
	if h.DoveadmURL != "" {
		e.run(ctx, "doveadm", e.doveadm)
	}
	if h.Source == tenant.SourceMailNotify {
		e.run(ctx, "mailnotify", e.mailNotify)
	}
	e.notify(ctx)
	return e.Report
}

// signedIn looks at what only a user sees.
func (e *exam) signedIn(ctx context.Context) {
	for _, c := range capabilities {
		e.run(ctx, c.name, func(context.Context) Check { return c.check(e) })
	}
	if e.conn.Has("METADATA") && e.source() == tenant.SourceDovecot {
		e.run(ctx, "metadata_write", e.metadata)
		if e.user != nil {
			e.run(ctx, "registration", e.registration)
		}
	}
	e.lag(ctx)
}

// name resolves the host.
func (e *exam) name(ctx context.Context) Check {
	if a, err := netip.ParseAddr(e.host.IMAPHost); err == nil {
		e.addrs = []netip.Addr{a.Unmap()}
		return ok("%s is an address", a)
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.host.IMAPHost)
	if err != nil {
		return failed("compare the name with the mail server's; the resolver is that of this machine (/etc/resolv.conf)",
			"%s cannot be resolved: %s", e.host.IMAPHost, why(ctx, err))
	}
	var texts []string
	for _, a := range found {
		e.addrs = append(e.addrs, a.Unmap())
		texts = append(texts, a.Unmap().String())
	}
	return ok("%s is %s", e.host.IMAPHost, strings.Join(texts, ", "))
}

// reachable connects to each address: a name with one that does not answer costs every connection to it time.
func (e *exam) reachable(ctx context.Context) Check {
	var answers, silent []string
	var last error
	for _, a := range e.addrs {
		one, cancel := context.WithTimeout(ctx, stepTimeout/time.Duration(len(e.addrs)+1))
		start := time.Now()
		c, err := (&net.Dialer{}).DialContext(one, "tcp", netip.AddrPortFrom(a, uint16(e.host.IMAPPort)).String()) //nolint:gosec // G115: checked when it was added
		cancel()
		if err != nil {
			silent, last = append(silent, a.String()), err
			continue
		}
		_ = c.Close()
		answers = append(answers, fmt.Sprintf("%s in %s", a, in(time.Since(start))))
	}
	switch {
	case len(answers) == 0:
		return failed("is the server up, the port right, and does the firewall let this machine through?", "nobody answers at port %d: %s", e.host.IMAPPort, why(ctx, last))
	case len(silent) > 0:
		return warning("remove the address from DNS, or have it answer", "%s answers, but not %s", strings.Join(answers, ", "), strings.Join(silent, ", "))
	}
	return ok("connected to %s", strings.Join(answers, ", "))
}

// greeting connects as the server does for its users.
func (e *exam) greeting(ctx context.Context) Check {
	conf := imap.Config{Host: e.host.IMAPHost, Port: e.host.IMAPPort, Security: e.host.Security, Insecure: e.host.Insecure, RootCAs: e.roots}
	c, err := imap.Dial(ctx, conf)
	if err != nil {
		refused, isRefused := errors.AsType[*imap.ResponseError](err)
		switch {
		case isRefused && refused.Status == "BYE":
			return failed("look into the mail server's log: it turns this machine away", "%v", refused)
		case e.host.Security == tenant.SecurityNone:
			return failed("is this the port of IMAP? what speaks TLS from the first byte needs --security tls", "no IMAP: %s", why(ctx, err))
		}
		return failed("is this the port of IMAP?", "no IMAP: %s", why(ctx, err))
	}
	e.conn = c
	return ok("it speaks IMAP")
}

// signIn signs in as the operator says, or as a user with what the server has for him.
func (e *exam) signIn(ctx context.Context) Check {
	switch {
	case e.req.Login != "":
		if err := e.conn.Login(ctx, e.req.Login, string(e.req.Password)); err != nil {
			return e.signInFailed(ctx, err, "compare login and password with a mail program's")
		}
		return ok("as %s", e.req.Login)
	case e.user != nil:
		e.conn.Close()
		c, err := e.Accounts.Dial(ctx, *e.user)
		if err != nil {
			return e.signInFailed(ctx, err, account.Reason(err))
		}
		e.conn = c
		return ok("as %s (%s), with what the server has for him", e.user.Login, e.user.ID)
	}
	return skipped("what only a user sees is not looked at: give --login with --password-file, or --user")
}

func (e *exam) signInFailed(ctx context.Context, err error, do string) Check {
	switch {
	case errors.Is(err, imap.ErrInsecure):
		return failed("use --security tls or starttls", "the password was not sent: %v", err)
	case errors.Is(err, account.ErrNoCredential):
		return failed("let the user sign in with the app, give --login with --password-file, or a master user (posthorn mailhost set --master-login)", "the server has nothing to sign in with for this user")
	}
	return failed(do, "%s", why(ctx, err))
}

// source is what tells of new mail here. The host's setting auto is decided as for a listener.
func (e *exam) source() string {
	if e.host.Source != tenant.SourceAuto {
		return e.host.Source
	}
	if e.host.DoveadmURL != "" || e.conn.Has("METADATA") {
		return tenant.SourceDovecot
	}
	return tenant.SourceIdle
}

// capability is an extension of IMAP, and what its lack means.
type capability struct {
	name  string
	check func(*exam) Check
}

var capabilities = []capability{
	{"METADATA", func(e *exam) Check {
		switch {
		case e.conn.Has("METADATA"):
			return ok("offered: the mail server can be asked to report deliveries")
		case e.host.DoveadmURL != "":
			return skipped("not offered, and not needed: registrations go by the doveadm API")
		case e.host.Source == tenant.SourceDovecot:
			return failed("set imap_metadata = yes for the address of this machine, or doveadm (posthorn mailhost set --doveadm-url), or --source idle",
				"not offered to us: nobody can be registered")
		case e.host.Source == tenant.SourceAuto:
			return warning("if it is a Dovecot, set imap_metadata = yes for the address of this machine", "not offered to us: each user is listened to by a connection (IDLE)")
		}
		return skipped("not needed for the source %s", e.host.Source)
	}},
	{"IDLE", func(e *exam) Check {
		switch {
		case e.conn.Has("IDLE") || e.conn.Has("IMAP4REV2"):
			return ok("offered: new mail is told over an open connection")
		case e.source() == tenant.SourceIdle:
			return warning("a mail server with IDLE would tell at once", "not offered: mailboxes are asked every few minutes")
		}
		return skipped("not offered, and not needed for the source %s", e.source())
	}},
	optional("CONDSTORE", "changes of flags are found by their number", "changes of flags are found by comparing the flags of the last messages"),
	optional("QRESYNC", "what was removed while nobody listened is told at once", "what was removed while nobody listened is found by a search"),
	optional("NOTIFY", "other folders than the INBOX are told over the same connection", "other folders than the INBOX are asked now and then"),
	optional("LIST-STATUS", "the counts of all folders come in one answer", "the counts of folders are asked one by one"),
}

// optional is a capability that makes things better where it is.
func optional(name, with, without string) capability {
	return capability{name, func(e *exam) Check {
		if e.conn.Has(name) {
			return ok("offered: %s", with)
		}
		return skipped("not offered: %s", without)
	}}
}

// mailNotify looks whether the datagrams of the mail server can be heard here.
func (e *exam) mailNotify(context.Context) Check {
	if !e.MailNotify {
		return warning("set mailnotify.enabled on the node that the mail server sends to; one node is enough", "this node does not receive its reports")
	}
	return ok("this node receives its reports, if they are sent to mailnotify.listen")
}

// probeEntry is where annotations of our own go, each with another name: no registration is touched, nor what another
// doctor tries at the same time.
const probeEntry = "/private/vendor/vendor.posthorn/doctor-"

// metadata writes an annotation, reads it back, and removes it.
func (e *exam) metadata(ctx context.Context) Check {
	const do = "is mail_attribute_dict set, and the place it names writable (disk, quota, owner)? the mail server's log says more"
	value := rand.Text()
	entry := probeEntry + value[:8]
	if err := e.conn.SetMetadata(ctx, "", entry, &value); err != nil {
		return failed(do, "cannot be written: %s", why(ctx, err))
	}
	got, found, err := e.conn.GetMetadata(ctx, "", entry)
	switch {
	case err != nil:
		return failed(do, "written, but cannot be read: %s", why(ctx, err))
	case !found || got != value:
		return failed(do, "written, but not kept")
	}
	if err := e.conn.SetMetadata(ctx, "", entry, nil); err != nil {
		return warning("remove "+entry+" by hand", "written and read back, but the probe cannot be removed: %s", why(ctx, err))
	}
	return ok("written, read back and removed")
}

// registrationEntry is where Dovecot looks a user up.
const registrationEntry = "/private/vendor/vendor.dovecot/http-notify"

// registration looks whom the mailbox reports to.
func (e *exam) registration(ctx context.Context) Check {
	value, found, err := e.conn.GetMetadata(ctx, "", registrationEntry)
	if err != nil {
		return failed("the mail server's log says more", "cannot be read: %s", why(ctx, err))
	}
	if !found {
		return skipped("none: %s has no subscribed device, or his listener is not registered yet (posthorn push users %s)", e.user.Login, e.user.ID)
	}
	for field := range strings.SplitSeq(value, "\t") {
		name, isUser := strings.CutPrefix(field, "user=")
		if isUser && slices.Contains(e.Tenants.Aliases(e.user.ID), name) {
			return ok("%s", field)
		}
	}
	return warning("if that system is gone, remove the entry with doveadm mailbox metadata unset, then open the app", "another system is registered: %q", value)
}

// isLoopback reports whether a host is this machine by its very name.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

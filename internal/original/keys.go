package original

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// get returns the value of a key, by its canonical name, without space at its ends.
func (r *Reader) get(key string) (string, bool) {
	f := r.tree.props[key]
	if f == nil {
		return "", false
	}
	return strings.TrimSpace(f.value), true
}

// flag returns a key that is true or false; what is neither is reported.
func (r *Reader) flag(key string, otherwise bool) bool {
	switch v, ok := r.get(key); {
	case !ok || v == "":
	case strings.EqualFold(v, "true"):
		return true
	case strings.EqualFold(v, "false"):
		return false
	default:
		r.finding(false, key, "%q is neither true nor false, and was %v", clip(v), otherwise)
	}
	return otherwise
}

// from says where a key is.
func (r *Reader) from(key string) string {
	f := r.tree.props[key]
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", f.file, f.line)
}

// judge puts what became of a key into the report; a key that is not there needs no verdict.
func (r *Reader) judge(key string, v Verdict, to, reason string) {
	r.verdict(key, v, to, reason, false)
}

// ask is judge for what the operator has to do something about.
func (r *Reader) ask(key string, v Verdict, to, reason string) { r.verdict(key, v, to, reason, true) }

func (r *Reader) verdict(key string, v Verdict, to, reason string, needsYou bool) {
	f := r.tree.props[key]
	if f == nil || f.judged {
		return
	}
	f.judged = true
	if spelled := misspelled(f.key, key); spelled != "" {
		if v == Taken {
			v = Changed
		}
		reason = strings.TrimSpace(spelled + " " + reason)
	}
	r.report.Entries = append(r.report.Entries, Entry{f.file, f.line, keyName(f.key), f.shown(), v, to, reason, needsYou})
}

// misspelled says what the trap in the names of the first generation meant for a key.
func misspelled(key, canonical string) string {
	switch {
	case spelling(key) > 0:
		return ""
	case strings.HasPrefix(canonical, mobilePush):
		return "The system before read com.openxchange.…, without the first e, so this line had no effect there."
	}
	return "The system before read com.openexchange.… here, so this line had no effect there."
}

// yamlEntry puts what became of a key of a YAML file into the report.
func (r *Reader) yamlEntry(file string, line int, key, value string, v Verdict, to, reason string, needsYou bool) {
	value = shown(key, value)
	if reason == notKnown || reason == noProperty || reason == noUse {
		value = hidden(value)
	}
	r.report.Entries = append(r.report.Entries, Entry{file, line, keyName(key), value, v, to, reason, needsYou})
}

// own is what the operator says of Posthorn itself.
func (r *Reader) own() {
	if r.opts.StateDir != "" {
		r.out.set("state_dir", r.opts.StateDir, "--state-dir")
	}
	if r.opts.DatabaseURLFile != "" {
		r.out.set("database.url_file", r.opts.DatabaseURLFile, "--database-url-file")
	}
}

// ourApp is the client of our own app.
const ourApp = "posthorn-app*"

func (r *Reader) push() {
	const permanent = "com.openexchange.push.allowPermanentPush"
	if _, ok := r.get(permanent); ok {
		r.out.set("listen.allow_permanent_push", r.flag(permanent, true), r.from(permanent))
		r.judge(permanent, Taken, "listen.allow_permanent_push", "")
	}
	const clients, client = "com.openexchange.push.allowedClients", "com.openexchange.push.allowedClient"
	key := clients
	if _, ok := r.get(clients); !ok {
		key = client
	} else {
		r.judge(client, Dropped, "", "allowedClients is set as well, and was the one that was read")
	}
	value, ok := r.get(key)
	if !ok {
		return
	}
	list, err := clientList(value)
	if err != "" {
		r.ask(key, Dropped, "", err+". Set push.allowed_clients by hand; every client may subscribe until then")
		return
	}
	why := ""
	if key == client {
		why = "The system before read allowedClients, so this line had no effect there. "
	}
	if !slices.Contains(list, "*") && !slices.Contains(list, ourApp) {
		list = append(list, ourApp)
		why += "posthorn-app* is added: Posthorn's own app"
	}
	r.allowed = list
	r.out.set("push.allowed_clients", list, r.from(key))
	if why != "" {
		r.judge(key, Changed, "push.allowed_clients", why)
	} else {
		r.judge(key, Taken, "push.allowed_clients", "")
	}
}

// clientList reads names with wildcards, quoted or not, between commas.
func clientList(value string) (list []string, problem string) {
	for part := range strings.SplitSeq(value, ",") {
		part = strings.Trim(strings.TrimSpace(part), `"`)
		if part == "" {
			continue
		}
		if !isClient(strings.ReplaceAll(part, "*", "")) && strings.Trim(part, "*") != "" {
			return nil, fmt.Sprintf("%q is no name of a client", clip(part))
		}
		if !slices.Contains(list, part) {
			list = append(list, part)
		}
	}
	if len(list) == 0 {
		return nil, "it names no client"
	}
	return list, ""
}

// text returns the value of a key, "" for one that is not there.
func (r *Reader) text(key string) string {
	v, _ := r.get(key)
	return v
}

const minPassphrase = 12 // what config demands of credentials.passphrase

func (r *Reader) credentials() {
	const enabled, crypt, rdb = "com.openexchange.push.credstorage.enabled", "com.openexchange.push.credstorage.passcrypt", "com.openexchange.push.credstorage.rdb"
	if _, ok := r.get(enabled); ok {
		store := "none"
		if r.flag(enabled, false) {
			store = "memory"
			if r.flag(rdb, false) {
				store = "database"
			}
		}
		r.out.set("credentials.store", store, r.from(enabled))
		r.judge(enabled, Changed, "credentials.store", "it is "+store)
		r.judge(rdb, Changed, "credentials.store", "it is "+store)
	} else {
		r.judge(rdb, Dropped, "", "without credstorage.enabled it had no effect")
	}
	switch value, ok := r.get(crypt); {
	case !ok:
	case value == "":
		r.judge(crypt, Dropped, "", "it is empty: a key is made at the first start, in seal.key")
	case len(value) < minPassphrase:
		r.judge(crypt, Dropped, "", fmt.Sprintf("it is shorter than %d characters: a key is made at the first start, in seal.key", minPassphrase))
	default:
		r.out.set("credentials.passphrase_file", r.out.file("passphrase", []byte(value+"\n"), 0o600), r.from(crypt))
		r.judge(crypt, Changed, "credentials.passphrase", "a key is derived from it (Argon2id). What the system before sealed with it is not taken: users sign in once")
	}
}

func (r *Reader) mail() {
	const source, password = "com.openexchange.mail.passwordSource", "com.openexchange.mail.masterPassword"
	master, _ := r.get(password)
	global := strings.EqualFold(r.text(source), "global")
	switch {
	case !global:
		r.judge(source, Taken, "mail hosts: password_source", "session: a user's own password, kept at his sign-in")
		r.judge(password, Dropped, "", "passwordSource is not global, so it had no effect")
	case master == "":
		r.ask(source, Dropped, "", "it is global, and there is no masterPassword: give each mail host a master user with \"posthorn mailhost set\"")
	case r.opts.MasterLogin == "":
		const why = "the system before signed in as each user with the master password. Here a master user of the mail server does, by a login " +
			"of his own (Dovecot: auth_master_user_separator and a master passdb): run this again with --master-login LOGIN"
		r.ask(source, Dropped, "", why)
		r.judge(password, Dropped, "", "without --master-login there is nobody whose password it would be")
	default:
		r.host.MasterLogin, r.host.MasterPassword = r.opts.MasterLogin, config.NewSecret(master)
		r.judge(source, Changed, "mail hosts: password_source global", "the master user "+r.opts.MasterLogin+" signs in for each user (--master-login)")
		r.judge(password, Taken, "mail hosts: master_password", "")
	}
	const servers, server = "com.openexchange.mail.mailServerSource", "com.openexchange.mail.mailServer"
	address, _ := r.get(server)
	if strings.EqualFold(r.text(servers), "global") {
		r.judge(servers, Changed, "mail hosts", "all users are at one mail host")
		if address == "" {
			address = r.opts.IMAPHost
		}
		if _, err := r.parseServer(address); err != nil {
			r.ask(server, Dropped, "", "it is no address of a mail server: name one with --imap-host")
		} else {
			r.globalHost = address
			r.judge(server, Taken, "mail hosts", "")
		}
	} else {
		r.judge(servers, Taken, "mail hosts", "the mail server of each user (user.imapServer)")
		r.judge(server, Dropped, "", "mailServerSource is not global, so it had no effect")
	}
	const login = "com.openexchange.mail.loginSource"
	switch v := strings.ToLower(r.text(login)); v {
	case "", "login":
		r.judge(login, Taken, "users: login", "the column user.imapLogin of the dump")
	case "mail", "primarymail":
		r.rows.loginSource = "mail"
		r.judge(login, Taken, "users: login", "the column user.mail of the dump")
	case "name":
		r.rows.loginSource = "name"
		r.judge(login, Taken, "users: login", "the column login2user.uid of the dump")
	default:
		r.ask(login, Dropped, "", "it is none of login, mail and name; login is taken")
	}
}

// rest takes over what mail servers report with, and where.
func (r *Reader) rest() {
	const login, password = "com.openexchange.rest.services.basic-auth.login", "com.openexchange.rest.services.basic-auth.password"
	l, _ := r.get(login)
	p, _ := r.get(password)
	switch {
	case l == "" && p == "":
		const why = "it is empty, which let everybody report: here a password is made at the first start, in notify-password. Put it into Dovecot's push URL"
		r.ask(login, Dropped, "", why)
		r.judge(password, Dropped, "", why)
	case l == "" || p == "" || strings.Contains(l, ":"):
		r.ask(login, Dropped, "", "a login without a colon and a password are needed: set internal.notify by hand")
		r.judge(password, Dropped, "", "it was dropped with the login")
	default:
		r.out.set("internal.notify.login", l, r.from(login))
		r.out.set("internal.notify.password_file", r.out.file("notify-password", []byte(p+"\n"), 0o600), r.from(password))
		r.judge(login, Taken, "internal.notify.login", "Dovecot's push URL stays as it is, but for its host")
		r.judge(password, Taken, "internal.notify.password", "")
	}
	const host, port = "com.openexchange.connector.networkListenerHost", "com.openexchange.connector.networkListenerPort"
	h, hok := r.get(host)
	n, nok := r.get(port)
	if hok || nok {
		address := net.JoinHostPort(listenHost(h), cmp.Or(n, "8009"))
		if _, err := netip.ParseAddrPort(address); err != nil {
			r.ask(host, Dropped, "", "it is no address to listen at: set internal.listen by hand")
			r.ask(port, Dropped, "", "it is no port to listen at: set internal.listen by hand")
		} else {
			at := r.from(port)
			if !nok {
				at = r.from(host)
			}
			r.out.set("internal.listen", address, at)
			own := ""
			if ip := net.ParseIP(h); ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
				own = "; it must be an address of the machine that runs Posthorn"
			}
			r.judge(host, Changed, "internal.listen", "only mail servers and monitoring are answered there; devices have public.listen"+own)
			r.judge(port, Taken, "internal.listen", "")
		}
	}
	r.userForm()
}

func listenHost(h string) string {
	switch h {
	case "", "localhost":
		return "127.0.0.1"
	case "*":
		return "0.0.0.0"
	}
	return h
}

var dovecotDriver = regexp.MustCompile(`(?m)^\s*push_notification_driver\d*\s*=(.*)$`)

// userForm decides what the word user of a report means.
func (r *Reader) userForm() {
	form, from := r.opts.UserForm, "--user-form"
	for _, file := range r.tree.files {
		if !strings.HasSuffix(file, ".conf") || form != "" {
			continue
		}
		data, err := r.tree.read(file)
		if err != nil {
			continue
		}
		if m := dovecotDriver.FindSubmatch(data); m != nil {
			form, from = "login", file
			if strings.Contains(string(m[1]), "user_from_metadata") {
				form = "metadata"
			}
		}
	}
	switch form {
	case "":
		r.finding(true, "internal.notify.user_form", "Dovecot sends the IMAP login, unless push_notification_driver says user_from_metadata: nothing here tells. "+
			"Look there, and run this again with --user-form login or --user-form metadata")
		return
	case "metadata":
		r.finding(false, "internal.notify.user_form", "Dovecot sends what is in the METADATA of a mailbox, which its owner can write: he can make another's phone ring. "+
			"Take user_from_metadata away at Dovecot when all are moved, and set user_form to login")
	}
	r.out.set("internal.notify.user_form", form, from)
}

func (r *Reader) delays() {
	const delay, most = "com.openexchange.pns.delayDuration", "com.openexchange.pns.maxDelayDuration"
	d, dok := r.millis(delay, 10*time.Minute)
	m, mok := r.millis(most, time.Hour)
	if !dok {
		d = time.Second // the original's defaults: ours are longer
	}
	if !mok {
		m = 10 * time.Second
	}
	m = max(m, d)
	if dok {
		r.out.set("push.coalesce", duration(d), r.from(delay))
		r.judge(delay, Changed, "push.coalesce", "the first mail is told at once, and what follows within this time together; the system before held back the first as well")
	}
	if mok || dok {
		at := r.from(most)
		if at == "" {
			at = "the default of the system before"
		}
		r.out.set("push.coalesce_max", duration(m), at)
		r.judge(most, Taken, "push.coalesce_max", "")
	}
}

// millis reads a key in milliseconds; one that is no number, or out of bounds, is dropped.
func (r *Reader) millis(key string, most time.Duration) (time.Duration, bool) {
	v, ok := r.get(key)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > most.Milliseconds() {
		r.judge(key, Dropped, "", fmt.Sprintf("it must be a number of milliseconds up to %d", most.Milliseconds()))
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}

func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}

// mobileMailApp is the capability that lets a user sign in with the app.
const mobileMailApp = "com.openexchange.capability.mobile_mail_app"

// capability takes over properties of the server scope.
func (r *Reader) capability() {
	name, value, why := "", "", ""
	raw, ok := r.get(mobileMailApp)
	if ok {
		name, value, why = property1(mobileMailApp, raw)
	}
	switch {
	case !ok:
		r.finding(false, "capability.mobile_mail_app", "it is not set, so the app is off for all whom no context set, context or user value switches it on, as before")
	case why != "":
		r.ask(mobileMailApp, Dropped, "", why)
	default:
		r.out.property(name, value, r.from(mobileMailApp))
		r.judge(mobileMailApp, Taken, "properties: "+name, "")
	}
}

const (
	notKnown   = "not known"
	noProperty = "there is no such property here"
)

// property1 finds what a property of the original is called here and reads its value.
func property1(key, value string) (name, text, why string) {
	d, err := cascade.Standard.Find(canonical(strings.TrimSpace(key)))
	if err != nil {
		return "", "", noProperty
	}
	if text, err = d.Parse(value); err != nil {
		return "", "", err.Error()
	}
	return d.Name, text, ""
}

package config

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Check judges what can be judged without touching the network, the disk or a key, and returns
// everything it finds wrong, in the order of the file.
func (c *Config) Check() Problems {
	k := checker{c: c}
	walk("", reflect.ValueOf(c).Elem(), k.bounds)
	k.stateDir()
	k.nodeName()
	if !installationID.MatchString(c.InstallationID) {
		k.add("installation_id", "it must have 1 to 64 letters, digits and . - _")
	}
	k.database()
	k.bus()
	k.listeners()
	k.publicTLS()
	k.signIn()
	k.notify()
	k.credentials()
	k.mailNotify()
	if c.Push.CoalesceMax < c.Push.Coalesce {
		k.add("push.coalesce_max", "%s is less than push.coalesce (%s): the longest wait cannot be the shorter one", c.Push.CoalesceMax, c.Push.Coalesce)
	}
	for i, pattern := range c.Push.AllowedClients {
		k.pattern(item("push.allowed_clients", i), pattern)
	}
	for i, raw := range c.Outbound.Allow {
		k.origin(item("outbound.allow", i), raw, anyScheme)
	}
	k.webPush()
	k.apns()
	k.fcm()
	k.problems.sort()
	return k.problems
}

// checker is one call of Check.
type checker struct {
	c        *Config
	problems Problems
}

func (k *checker) add(key, format string, args ...any) {
	k.problems = append(k.problems, k.c.Problem(key, format, args...))
}

// bounds holds a value to what the tags of its field allow.
func (k *checker) bounds(key string, f field, v reflect.Value) {
	switch {
	case len(f.one) > 0 && !slices.Contains(f.one, v.String()):
		hint := ""
		if meant := nearest(v.String(), f.one); meant != "" {
			hint = "; did you mean " + meant + "?"
		}
		k.add(key, "%q is not one of %s%s", printable(v.String()), strings.Join(f.one, ", "), hint)
	case f.kind == kindNumber:
		least, _ := strconv.Atoi(f.min)
		most, _ := strconv.Atoi(f.max)
		if n := int(v.Int()); n < least || n > most {
			k.add(key, "%d is out of bounds: at least %s, at most %s", n, f.min, f.max)
		}
	case f.kind == kindDuration:
		least, _ := ParseDuration(f.min)
		most, _ := ParseDuration(f.max)
		if d := Duration(v.Int()); d < least || d > most {
			k.add(key, "%s is out of bounds: at least %s, at most %s", d, f.min, f.max)
		}
	}
}

// installationID is of characters that stand for themselves in METADATA.
var installationID = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

// maxStateDir leaves room for the socket's name in the 104 bytes of the shortest sockaddr_un, macOS's.
const maxStateDir = 90

func (k *checker) stateDir() {
	switch dir := k.c.StateDir; {
	case !filepath.IsAbs(dir):
		k.add("state_dir", "%q is not an absolute path", printable(dir))
	case len(dir) > maxStateDir:
		k.add("state_dir", "the path has %d bytes, more than the %d that leave room for a socket: choose a shorter one", len(dir), maxStateDir)
	}
}

func (k *checker) database() {
	raw := k.c.Database.URL.Reveal()
	scheme, rest, _ := strings.Cut(raw, ":")
	switch {
	case raw == "":
	case scheme == "sqlite":
		if rest == "" || strings.HasPrefix(rest, "//") {
			k.add("database.url", "the form is sqlite:PATH, such as sqlite:/var/lib/posthorn/posthorn.db")
		}
	case scheme == "postgres" || scheme == "postgresql":
		// The error of url.Parse would show the password.
		if _, err := url.Parse(raw); err != nil || !strings.HasPrefix(rest, "//") {
			k.add("database.url", "the form is postgres://user:password@host/name, with special characters of the password percent-encoded")
		}
	default:
		k.add("database.url", "it must begin with postgres:// or sqlite:")
	}
}

func (k *checker) listeners() {
	public, okPublic := k.listen("public.listen", k.c.Public.Listen)
	internal, okInternal := k.listen("internal.listen", k.c.Internal.Listen)
	if okPublic && okInternal && public.port == internal.port && public.port != "0" &&
		(public.host == internal.host || public.wildcard() || internal.wildcard()) {
		key, other := "internal.listen", "public.listen"
		if k.c.Origin(key) == "default" {
			key, other = other, key
		}
		k.add(key, "the same port as %s: choose another one", other)
	}
	password := k.c.Internal.Notify.Password
	if okInternal && !loopback(internal.host) && password.IsSet() && password.Reveal() == "" {
		k.add("internal.notify.password", "it must not be empty, because internal.listen (%s) is not a loopback address: "+
			"remove the key to have one made, or listen on 127.0.0.1", k.c.Internal.Listen)
	}
	k.origin("public.url", k.c.Public.URL, httpsUnlessLoopback)
}

// address is a host and a port to listen on.
type address struct{ host, port string }

func (a address) wildcard() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "" || err == nil && ip.IsUnspecified()
}

func (k *checker) listen(key, raw string) (address, bool) {
	host, port, err := net.SplitHostPort(raw)
	if err != nil {
		k.add(key, "%q is not an address and a port, such as 127.0.0.1:8008 or [::1]:8008", printable(raw))
		return address{}, false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		k.add(key, "%q is not a port: a number from 1 to 65535, or 0 for any that is free", printable(port))
		return address{}, false
	}
	if strings.ContainsAny(host, " /@*") {
		k.add(key, "%q is not an address to listen on; for all addresses leave it away, as in :%s", printable(host), port)
		return address{}, false
	}
	return address{host, port}, true
}

func (k *checker) notify() {
	n := k.c.Internal.Notify
	control := func(s string) bool { return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) }
	switch {
	case n.Login == "":
		k.add("internal.notify.login", "it must not be empty")
	case strings.Contains(n.Login, ":") || control(n.Login):
		// RFC 7617 section 2: the first colon ends the user name, and control characters are forbidden.
		k.add("internal.notify.login", "it must not hold a colon or control characters")
	}
	if control(n.Password.Reveal()) {
		k.add("internal.notify.password", "it must be one line without control characters")
	}
}

// minPassphrase keeps out what is guessed at once, in bytes.
const minPassphrase = 12

func (k *checker) credentials() {
	c := k.c.Credentials
	if c.Passphrase.IsSet() && len(c.Passphrase.Reveal()) < minPassphrase {
		k.add("credentials.passphrase", "it is too short: at least %d characters, better 20", minPassphrase)
	}
	for i, old := range c.OldPassphrases {
		if old.Passphrase.Reveal() == "" {
			k.add(item("credentials.old_passphrases", i)+".passphrase", "it is empty: give passphrase or passphrase_file")
		}
	}
}

// Warnings are what Check has nothing against, and an operator should know.
func (c *Config) Warnings() Warnings {
	found := c.unserved()
	if c.Credentials.Store != "none" {
		return found
	}
	return append(found, c.Problem("credentials.store", "nothing is kept to sign in with: without an app in use, listeners of users cannot start, "+
		"and end 15 minutes after the last use, at every mail host but those with a master user (--password-source global) or the doveadm API (--doveadm-url)"))
}

// pattern judges one pattern of client names.
func (k *checker) pattern(key, pattern string) {
	switch {
	case pattern == "":
		k.add(key, "it must not be empty; * stands for all clients")
	case strings.TrimSpace(pattern) != pattern:
		k.add(key, "%q begins or ends with a space", printable(pattern))
	}
}

// reachable reports entries of a list of apps that no client can reach, as an earlier one takes all
// of theirs.
func (k *checker) reachable(key string, patterns []string) {
	for i, later := range patterns {
		k.pattern(item(key, i)+".client", later)
		for j, earlier := range patterns[:i] {
			// A pattern that matches another one as a text matches all that the other one matches.
			if earlier != "" && MatchClient(earlier, later) {
				k.add(item(key, i)+".client", "no client gets here: %q of entry %d matches first; put the special entries before the general ones",
					printable(earlier), j+1)
				break
			}
		}
	}
}

// schemes an origin may have.
type schemes int

const (
	anyScheme schemes = iota
	httpsOnly
	httpsUnlessLoopback
)

// origin judges a key that holds an origin (RFC 6454 section 4): scheme, host and perhaps a port. An
// empty one is left to others.
func (k *checker) origin(key, raw string, allowed schemes) {
	if raw == "" && !strings.HasSuffix(key, "]") {
		return
	}
	form := "http:// or https://"
	if allowed != anyScheme {
		form = "https://"
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		k.add(key, "%q is not %s followed by a host and perhaps a port", printable(raw), form)
	case u.User != nil:
		// Whatever stands before the @ may be a password.
		k.add(key, "a user or password does not belong here: only scheme, host and perhaps a port")
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#"):
		k.add(key, "remove what follows the host and port: %s://%s", u.Scheme, u.Host)
	case strings.Contains(u.Host, "*"):
		k.add(key, "%q is a pattern; write each origin out", printable(raw))
	case !validPort(u):
		k.add(key, "%q has no valid port", printable(raw))
	case u.Scheme == "http" && (allowed == httpsOnly || allowed == httpsUnlessLoopback && !loopback(u.Hostname())):
		k.add(key, "it must begin with https://, as secrets travel over it")
	}
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.Atoi(u.Port())
	return err == nil && n >= 1 && n <= 65535
}

// loopback reports whether only this machine can reach host.
func loopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}

// publicName reports whether host looks like a name that others can resolve: Apple answers
// BadJwtToken to a VAPID subject at anything else.
func publicName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, err := netip.ParseAddr(host)
	if err == nil || !strings.Contains(host, ".") || strings.ContainsAny(host, " []:/?#") || strings.Contains("."+host+".", "..") {
		return false
	}
	for _, private := range []string{".localhost", ".local", ".localdomain"} {
		if strings.HasSuffix(host, private) {
			return false
		}
	}
	return true
}

func (k *checker) webPush() {
	raw := k.c.Transports.WebPush.Subject
	const key = "transports.webpush.subject"
	host := ""
	if mail, ok := strings.CutPrefix(raw, "mailto:"); ok {
		at := strings.LastIndex(mail, "@")
		if at < 1 || strings.ContainsAny(mail, " <>?,") {
			k.add(key, "%q is not one mail address, such as mailto:postmaster@example.com", printable(raw))
			return
		}
		host = mail[at+1:]
	} else if u, err := url.Parse(raw); err == nil && u.Scheme == "https" && u.User == nil {
		host = u.Hostname()
	} else if raw != "" {
		k.add(key, "%q is neither mailto: nor https://", printable(raw))
		return
	}
	if raw != "" && !publicName(host) {
		k.add(key, "%q is not a public host name; Apple refuses notifications signed like that. Give a real address, or remove the key", printable(host))
	}
}

// appleID is the form of key ids and team ids.
var appleID = regexp.MustCompile(`^[A-Z0-9]{10}$`)

func (k *checker) apns() {
	const list = "transports.apns.apps"
	t := k.c.Transports.APNs
	if t.Enabled && len(t.Apps) == 0 {
		k.add(list, "apns is enabled, but has no apps: add an entry, or set transports.apns.enabled to false")
	}
	patterns := make([]string, 0, len(t.Apps))
	for i, a := range t.Apps {
		at := item(list, i)
		patterns = append(patterns, a.Client)
		if a.Topic == "" || strings.ContainsAny(a.Topic, " */") {
			k.add(at+".topic", "give the app's bundle id, such as com.example.mail")
		}
		switch hasKey := a.Key.IsSet(); {
		case hasKey && a.CertificateFile != "":
			k.add(at, "it has both key and certificate_file: keep one")
		case hasKey:
			k.tokenKey(at, a)
		case a.CertificateFile != "":
			k.certificate(at, a)
		default:
			k.add(at, "it has no credential: give key_file (.p8) with key_id and team_id, or certificate_file (.p12) with its password")
		}
		k.origin(at+".url", a.URL, httpsOnly)
		k.origin(at+".other_url", a.OtherURL, httpsOnly)
		if a.OtherURL != "" && a.URL == "" {
			k.add(at+".other_url", "it is only beside a url of your own")
		}
		if a.CAFile != "" && a.URL == "" {
			k.add(at+".ca_file", "it is only for a url of your own; Apple's certificates are known to the system")
		}
	}
	k.reachable(list, patterns)
}

func (k *checker) tokenKey(at string, a APNsApp) {
	if strings.TrimSpace(a.Key.Reveal()) == "" {
		k.add(at+".key", "it is empty")
	}
	if !appleID.MatchString(a.KeyID) {
		k.add(at+".key_id", "give the ten capitals and digits of the key's id")
	}
	if !appleID.MatchString(a.TeamID) {
		k.add(at+".team_id", "give the ten capitals and digits of your team's id")
	}
	if a.CertificatePassword.IsSet() {
		k.add(at+".certificate_password", "it belongs to certificate_file, and this entry has a key")
	}
}

func (k *checker) certificate(at string, a APNsApp) {
	if a.CertificatePassword.Reveal() == "" {
		k.add(at+".certificate_password", "it must not be empty: export the .p12 file again, with a password")
	}
	if a.KeyID != "" || a.TeamID != "" {
		k.add(at, "key_id and team_id belong to a key, and this entry has a certificate: remove them")
	}
}

func (k *checker) fcm() {
	const list = "transports.fcm.apps"
	t := k.c.Transports.FCM
	if t.Enabled && len(t.Apps) == 0 {
		k.add(list, "fcm is enabled, but has no apps: add an entry, or set transports.fcm.enabled to false")
	}
	patterns := make([]string, 0, len(t.Apps))
	for i, a := range t.Apps {
		at := item(list, i)
		patterns = append(patterns, a.Client)
		if strings.TrimSpace(a.ServiceAccount.Reveal()) == "" {
			k.add(at+".service_account", "give service_account_file, the JSON file from the Firebase console")
		}
		k.origin(at+".endpoint", a.Endpoint, httpsUnlessLoopback)
	}
	k.reachable(list, patterns)
}

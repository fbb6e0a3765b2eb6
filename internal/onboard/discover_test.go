package onboard

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

func TestUnderstand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ input, base, address, notes string }{
		{"https://gold.ox.io", "https://gold.ox.io", "", ""},
		{"gold.ox.io", "https://gold.ox.io", "", ""},
		{" GOLD.ox.io. ", "https://gold.ox.io", "", ""},
		{"https://gold.ox.io/appsuite/api/", "https://gold.ox.io", "", "base address"},
		{"http://gold.ox.io:80/", "https://gold.ox.io", "", "https is used"},
		{"HTTPS:gold.ox.io", "https://gold.ox.io", "", ""},
		{"https:/gold.ox.io", "https://gold.ox.io", "", ""},
		{"https//gold.ox.io", "https://gold.ox.io", "", ""},
		{`https:\\gold.ox.io\ajax`, "", "", ""},
		{"gold.ox.io\\ajax", "https://gold.ox.io", "", "base address"},
		{"https://gold. ox.io", "https://gold.ox.io", "", "spaces"},
		{"gold.ox.io\u200b", "https://gold.ox.io", "", "spaces"},
		{"gold.ox.io:8443/x?y#z", "https://gold.ox.io:8443", "", "base address"},
		{"gold.ox.io:443", "https://gold.ox.io", "", ""},
		{"https://bücher.example", "https://xn--bcher-kva.example", "", ""},
		{"https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443", "", ""},
		{"2001:db8::1", "https://[2001:db8::1]", "", ""},
		{"192.0.2.1", "https://192.0.2.1", "", ""},
		{"httpsd.example.org", "https://httpsd.example.org", "", ""},
		{"Alice.O'Hara@Example.ORG", "https://example.org", "Alice.O'Hara@example.org", ""},
		{" <alice@example.org> ", "https://example.org", "alice@example.org", ""},
		{"mailto:alice@example.org?subject=x", "https://example.org", "alice@example.org", ""},
		{"\"a@b\"@example.org", "", "", ""},
		{"Alice Smith <alice+x@example.org>", "https://example.org", "alice+x@example.org", "before the address"},
		{"alice@example.org, bob@example.org", "", "", ""},
		{"alice@b@example.org", "", "", ""},
		{"alice@bücher.example", "https://xn--bcher-kva.example", "alice@xn--bcher-kva.example", ""},
		{"", "", "", ""},
		{"@example.org", "", "", ""},
		{"alice@", "", "", ""},
		{"https://alice@example.org", "", "", ""},
		{"alice@example.org/x", "", "", ""},
		{"alice@example.org:25", "", "", ""},
		{"ftp://example.org", "", "", ""},
		{"example.org:0", "", "", ""},
		{"example.org:99999", "", "", ""},
		{"ex ample..org", "", "", ""},
		{strings.Repeat("a", 1001), "", "", ""},
	} {
		u, err := understand(tt.input)
		var invalid *tenant.InvalidError
		switch {
		case tt.base == "" && !errors.As(err, &invalid):
			t.Errorf("%q: %+v, %v", tt.input, u, err)
		case tt.base == "":
		case err != nil || u.Base != tt.base || u.Address != tt.address || !strings.Contains(strings.Join(u.Notes, "; "), tt.notes) || tt.notes == "" && u.Notes != nil:
			t.Errorf("%q: %+v, %v", tt.input, u, err)
		}
	}
}

func FuzzUnderstand(f *testing.F) {
	for _, s := range []string{"https://gold.ox.io/appsuite/api/", "alice@example.org", "[::1]:443", "http//x.y:1\\z", "mailto:a@b.c?d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, input string) {
		u, err := understand(input)
		if err != nil {
			return
		}
		if _, err := outbound.ParseURL(u.Base); err != nil && !strings.Contains(err.Error(), "four decimal numbers") {
			t.Errorf("%q: %q is no URL: %v", input, u.Base, err)
		}
		again, err := understand(u.Base)
		if err != nil || again.Base != u.Base || again.Notes != nil {
			t.Errorf("%q: %+v, and again %+v, %v", input, u, again, err)
		}
	})
}

// TestDiscoverPosthorn: whatever is typed of it, its server is found, by one request.
func TestDiscoverPosthorn(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	n.page("gold.example.test/.well-known/posthorn", 200, "application/json", document)
	base := fmt.Sprintf("https://gold.example.test:%d", n.https)
	for _, input := range []string{base, base + "/appsuite/api/", " GOLD.Example.test ", "alice@gold.example.test"} {
		n.visits()
		d := n.discover(input)
		if d.Found != FoundPosthorn || d.Posthorn.Base != base || d.Posthorn.API != base+"/api/v1" || d.Posthorn.Title != "Gold Mail" ||
			!slices.Equal(d.Posthorn.SignIn, []string{"password"}) || len(d.Steps) != 1 {
			t.Errorf("%q: %+v %+v", input, d, d.Posthorn)
		}
		if asked := n.visits(); len(asked) != 1 || strings.Contains(asked[0], "alice") {
			t.Errorf("%q: asked %q", input, asked)
		}
	}

	// Elsewhere: a redirect, or an API of another origin.
	n.handle("example.test/.well-known/posthorn", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, base+"/.well-known/posthorn", http.StatusMovedPermanently)
	})
	if d := n.discover("example.test"); d.Found != FoundPosthorn || d.Posthorn.Base != base {
		t.Errorf("%+v", d)
	}
	n.page("www.example.test/.well-known/posthorn", 200, "application/json", strings.Replace(document, "/api/v1", base+"/p/api/v1/", 1))
	if d := n.discover("www.example.test"); d.Found != FoundPosthorn || d.Posthorn.Base != base || d.Posthorn.API != base+"/p/api/v1" {
		t.Errorf("%+v", d)
	}
}

// TestDiscoverFaults: each way in which a server can fail to be one is named.
func TestDiscoverFaults(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	at := func(host string) string { return fmt.Sprintf("https://%s:%d", host, n.https) }
	for _, host := range []string{"expired", "early", "wrong", "stranger", "web", "status", "loop", "away", "silent", "closed", "lame", "large", "api"} {
		n.name(host + ".test")
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	n.certify("expired.test", trusted.issue(yesterday, "expired.test"))
	n.certify("early.test", trusted.issue(time.Now().Add(72*time.Hour), "early.test"))
	n.certify("wrong.test", trusted.issue(time.Now().Add(time.Hour), "right.test", "www.right.test"))
	n.certify("stranger.test", newIssuer().issue(time.Now().Add(time.Hour), "stranger.test"))
	n.cripple("lame.test")
	n.page("web.test/.well-known/posthorn", 200, "text/html", "<html>")
	n.page("status.test/.well-known/posthorn", 503, "text/plain", "")
	n.page("off.test/.well-known/posthorn", 200, "application/json",
		`{"posthorn": 1, "api": "/api/v1", "app": {"enabled": false, "detail": "The app is not switched on for off.test.", "contact": "help@off.test"}}`)
	n.page("internal.test/.well-known/posthorn", 200, "application/json", strings.Replace(document, "/api/v1", "https://127.0.0.1/api/v1", 1))
	n.page("large.test/.well-known/posthorn", 200, "application/json", strings.Repeat(" ", outbound.MaxBody+1)+document)
	n.handle("loop.test/.well-known/posthorn", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/.well-known/posthorn", http.StatusFound)
	})
	n.handle("away.test/.well-known/posthorn", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://away.test/", http.StatusFound)
	})
	plain := n.mail("plain.test", "* OK hello\r\n", "* BYE\r\n")
	for _, tt := range []struct {
		input  string
		fault  Fault
		detail string
	}{
		{at("nobody.test"), FaultNoSuchName, "DNS has no such name"},
		{at("lame.test"), FaultNoAnswer, "DNS gives no answer"},
		{fmt.Sprintf("closed.test:%d", n.d.ports.imaps), FaultRefused, "nothing listens there"},
		{at("expired.test"), FaultExpired, "has expired on " + yesterday.UTC().Format(time.DateOnly)},
		{at("early.test"), FaultNotYetValid, "is valid from " + time.Now().Add(24*time.Hour).UTC().Format(time.DateOnly)},
		{at("wrong.test"), FaultWrongName, "is for right.test, www.right.test, not for wrong.test"},
		{at("stranger.test"), FaultUntrusted, "signed by nobody who is trusted"},
		{fmt.Sprintf("https://plain.test:%d", plain), FaultNoTLS, "does not speak TLS"},
		{at("web.test"), FaultNotPosthorn, "not a Posthorn's"},
		{at("silent.test"), FaultNotPosthorn, "no Posthorn (HTTP 404)"},
		{at("status.test"), FaultStatus, "HTTP 503"},
		{at("loop.test"), FaultStatus, "redirects too often"},
		{at("away.test"), FaultStatus, "without https"},
		{at("large.test"), FaultBadDocument, "larger than 64 KiB"},
		{at("internal.test"), FaultBadDocument, "no address for its API"},
		{at("off.test"), FaultDisabled, "not switched on for off.test. Contact: help@off.test"},
		{"https://127.0.0.1", FaultInternal, "a loopback address"},
		{"https://169.254.169.254/latest/meta-data", FaultInternal, "a link-local address"},
		{"https://[::1]:8443", FaultInternal, "a loopback address"},
		{"localhost", FaultInternal, "a name of the local network"},
		{"printer", FaultInternal, "a name of the local network"},
	} {
		if strings.HasPrefix(tt.input, "https://plain") {
			n.allow = append(n.allow, tt.input)
		} else if strings.HasPrefix(tt.input, "closed") {
			n.allow = append(n.allow, "https://"+tt.input)
		}
		d := n.discover(tt.input)
		s := d.Steps[0]
		if d.Found != FoundNothing || s.State != Failed || s.Fault != tt.fault || !strings.Contains(s.Detail, tt.detail) || d.Detail == "" {
			t.Errorf("%s: %s %+v", tt.input, d.Found, s)
		}
		if tt.fault == FaultInternal && len(d.Steps) > 2 {
			t.Errorf("%s: more was asked: %+v", tt.input, d.Steps)
		}
		if tt.fault == FaultDisabled && (len(d.Steps) != 1 || !strings.Contains(d.Detail, "help@off.test")) {
			t.Errorf("%+v", d)
		}
	}
}

const autoconfigDocument = `<?xml version="1.0" encoding="UTF-8"?>
<clientConfig version="1.1"><emailProvider id="x"><domain>x</domain>
 <incomingServer type="pop3"><hostname>pop.%[1]s</hostname><port>995</port><socketType>SSL</socketType><username>x</username></incomingServer>
 <incomingServer type="imap"><hostname>plain.%[1]s</hostname><port>143</port><socketType>plain</socketType></incomingServer>
 <incomingServer type="imap"><hostname> IMAP.%[1]s </hostname><port>%[2]d</port><socketType>SSL</socketType>
  <authentication>password-cleartext</authentication><username>%%EMAILLOCALPART%%</username></incomingServer>
 <outgoingServer type="smtp"><hostname>smtp.%[1]s</hostname><port>%[3]d</port><socketType>STARTTLS</socketType><username>%%EMAILADDRESS%%</username></outgoingServer>
</emailProvider></clientConfig>`

var submission = []string{"250-smtp\r\n250-SIZE 1\r\n250 STARTTLS\r\n", "220 go\r\n"}

// TestDiscoverMail: by each source in turn; what it names must answer with a good certificate.
func TestDiscoverMail(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	mail := func(domain string) (imap, smtp int) {
		return n.mail("imap."+domain, "* OK hello\r\n"), n.mail("smtp."+domain, "220 hello\r\n", submission...)
	}
	show := func(d Discovery) string {
		var all []string
		for _, m := range d.MailServers {
			all = append(all, fmt.Sprintf("%s %s %s %s %s %t", m.Protocol, m.Host, m.Security, m.Login, m.Source, m.Elsewhere))
		}
		return strings.Join(all, "\n")
	}
	check := func(input, want string) Discovery {
		t.Helper()
		d := n.discover(input)
		if d.Found != FoundMail || show(d) != want {
			t.Errorf("%s: %s (%s)\n%s\nwant\n%s", input, d.Found, d.Detail, show(d), want)
			for _, s := range d.Steps {
				t.Logf("%+v", s)
			}
		}
		return d
	}

	// SRV; the first one named is broken, the second is elsewhere.
	imap, smtp := mail("one.test")
	n.mail("old.one.test", "* OK hello\r\n")
	n.certify("old.one.test", trusted.issue(time.Now().Add(-time.Hour), "old.one.test"))
	n.addSRV("_imaps", "one.test", "old.one.test.", n.mail("old.one.test", "* OK hello\r\n"))
	n.addSRV("_imaps", "two.test", "imap.one.test.", imap)
	n.addSRV("_imap", "one.test", "imap.one.test.", n.mail("imap.one.test", "* OK hi\r\n", "d1 OK go\r\n"))
	n.addSRV("_submission", "one.test", "smtp.one.test.", smtp)
	n.addSRV("_submission", "two.test", "smtp.one.test.", smtp)
	n.addSRV("_submissions", "one.test", ".", 0)
	d := check("alice@one.test", "imap imap.one.test starttls unknown srv false\nsubmission smtp.one.test starttls unknown srv false")
	if !slices.ContainsFunc(d.Steps, func(s Step) bool { return s.Fault == FaultExpired && strings.Contains(s.Target, "old.one.test") }) ||
		!slices.ContainsFunc(d.Steps, func(s Step) bool { return s.Fault == FaultNotAvailable && s.Target == "_submissions._tcp.one.test" }) {
		t.Errorf("%+v", d.Steps)
	}
	check("two.test", "imap imap.one.test tls unknown srv true\nsubmission smtp.one.test starttls unknown srv true")

	// Autoconfig, without the local part.
	imap, smtp = mail("three.test")
	n.page("autoconfig.three.test/mail/config-v1.1.xml", 200, "text/xml", fmt.Sprintf(autoconfigDocument, "three.test", imap, smtp))
	check("alice@three.test", "imap imap.three.test tls local_part autoconfig false\nsubmission smtp.three.test starttls address autoconfig false")
	// At the other place, which wants the address.
	n.handle("four.test/.well-known/autoconfig/mail/config-v1.1.xml", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("emailaddress") != "alice+x@four.test" {
			http.Error(w, "no address", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, fmt.Sprintf(autoconfigDocument, "three.test", imap, smtp))
	})
	check("alice+x@four.test", "imap imap.three.test tls local_part autoconfig false\nsubmission smtp.three.test starttls address autoconfig false")

	// The hoster's document, found by who receives the mail. It is not told who asks.
	n.addMX("five.test", 10, "mx1.cluster.three.test.")
	check("alice@five.test", "imap imap.three.test tls local_part mx true\nsubmission smtp.three.test starttls address mx true")

	// Guesses.
	n.d.ports.imaps = n.mail("mail.six.test", "* OK hello\r\n")
	n.d.ports.submission = n.mail("smtp.six.test", "220 hello\r\n", submission...)
	check("alice@six.test", "imap mail.six.test tls unknown guess false\nsubmission smtp.six.test starttls unknown guess false")

	told := 0
	for _, asked := range n.visits() {
		if strings.Contains(asked, "alice") {
			if told++; !strings.HasPrefix(asked, "four.test/") {
				t.Errorf("told who asks: %s", asked)
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d servers", told)
	}
}

// TestDiscoverDNS: order, aliases, and what a domain says that it has not.
func TestDiscoverDNS(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	record := func(priority uint16, target string, port int) dnsmessage.SRVResource {
		return dnsmessage.SRVResource{Priority: priority, Target: dnsmessage.MustNewName(target), Port: uint16(port)} //nolint:gosec // G115: a port
	}
	first, second := n.mail("imap1.e.test", "* OK hello\r\n"), n.mail("imap2.e.test", "* OK hello\r\n")
	n.addAlias("imap1.e.test", "cluster.hoster.test") // the certificate is for the name that the record has
	n.name("cluster.hoster.test")
	n.addSRVs("_imaps", "e.test", record(20, "imap2.e.test.", second), record(10, "imap1.e.test.", first))
	n.addSRV("_submissions", "e.test", "smtp.e.test.", 0)
	n.addSRV("_submission", "e.test", ".", 0)
	d := n.discover("alice@e.test")
	if d.Found != FoundMail || len(d.MailServers) != 2 || d.MailServers[0].Host != "imap1.e.test" || d.MailServers[1].Host != "imap2.e.test" {
		t.Errorf("%+v", d.MailServers)
	}
	for target, fault := range map[string]Fault{"_submissions._tcp.e.test": FaultBadDocument, "_submission._tcp.e.test": FaultNotAvailable} {
		if !slices.ContainsFunc(d.Steps, func(s Step) bool { return s.Target == target && s.Fault == fault }) {
			t.Errorf("%s: want %s in %+v", target, fault, d.Steps)
		}
	}
	n.name("f.test")
	n.addMX("f.test", 0, ".")
	if d := n.discover("f.test"); d.Found != FoundNothing || !slices.ContainsFunc(d.Steps, func(s Step) bool { return s.Name == "mx" && s.Fault == FaultNotAvailable }) {
		t.Errorf("%+v", d)
	}
}

// TestDiscoverTLS: why a handshake fails is said.
func TestDiscoverTLS(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	at := func(host, address string) string {
		_, port, _ := net.SplitHostPort(address)
		n.name(host)
		n.allow = append(n.allow, "https://"+host+":"+port)
		return host + ":" + port
	}
	serve := func(change func(*tls.Config)) string {
		web := httptest.NewUnstartedServer(http.NotFoundHandler())
		web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
		web.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return n.certificate(hello.ServerName), nil
		}}
		change(web.TLS)
		web.StartTLS()
		t.Cleanup(web.Close)
		return web.Listener.Addr().String()
	}
	for input, want := range map[string]struct {
		fault Fault
		words string
	}{
		at("http.test", plain.Listener.Addr().String()):                                                                {FaultNoTLS, "does not speak TLS"},
		at("old.test", serve(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })): {FaultTLS, "no common version"},
		at("mutual.test", serve(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })):                      {FaultTLS, "wants a certificate from us"},
		at("nobody.test", serve(func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, io.EOF }
		})): {FaultTLS, "TLS cannot begin: internal error"},
	} {
		d := n.discover(input)
		if s := d.Steps[0]; s.Fault != want.fault || !strings.Contains(s.Detail, want.words) || !strings.Contains(d.Detail, want.words) {
			t.Errorf("%s: %+v; %s", input, s, d.Detail)
		}
	}
}

// TestDiscoverBadMailServers: what does not greet, or cannot encrypt, is no answer.
func TestDiscoverBadMailServers(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	n.addSRV("_imaps", "a.test", "mute.a.test.", n.mail("mute.a.test", "HTTP/1.1 400\r\n"))
	n.addSRV("_imap", "a.test", "no.a.test.", n.mail("no.a.test", "* OK hello\r\n", "d1 BAD what\r\n"))
	n.addSRV("_submissions", "a.test", "long.a.test.", n.mail("long.a.test", strings.Repeat("220", 5000)))
	n.addSRV("_submission", "a.test", "plain.a.test.", n.mail("plain.a.test", "220 hello\r\n", "250-plain\r\n250 SIZE 1\r\n"))
	d := n.discover("a.test")
	if d.Found != FoundNothing || len(d.MailServers) > 0 {
		t.Errorf("%+v", d)
	}
	for host, fault := range map[string]Fault{"mute": FaultNoGreeting, "no": FaultNoSTARTTLS, "long": FaultNoGreeting, "plain": FaultNoSTARTTLS} {
		if !slices.ContainsFunc(d.Steps, func(s Step) bool {
			return s.Name == "server" && strings.Contains(s.Target, " "+host+".a.test:") && s.Fault == fault
		}) {
			t.Errorf("%s: want %s in %+v", host, fault, d.Steps)
		}
	}
}

// TestDiscoverJMAP: another JMAP server is named beside the mail servers, and a Posthorn behind the record is found.
func TestDiscoverJMAP(t *testing.T) {
	t.Parallel()
	n := newInternet(t)
	n.page("jmap.b.test/.well-known/jmap", 200, "application/json; charset=utf-8", `{"capabilities": {"urn:ietf:params:jmap:core": {}}, "apiUrl": "/"}`)
	n.addSRV("_jmap", "b.test", "jmap.b.test.", n.https)
	if d := n.discover("alice@b.test"); d.JMAP != fmt.Sprintf("https://jmap.b.test:%d/.well-known/jmap", n.https) || d.Found != FoundNothing {
		t.Errorf("%+v", d)
	}
	n.page("ph.c.test/.well-known/posthorn", 200, "application/json", document)
	n.addSRV("_jmap", "c.test", "ph.c.test.", n.https)
	if d := n.discover("alice@c.test"); d.Found != FoundPosthorn || !strings.HasPrefix(d.Posthorn.Base, "https://ph.c.test:") {
		t.Errorf("%+v", d)
	}
	n.page("d.test/.well-known/jmap", 200, "text/html", "<html>")
	if d := n.discover("d.test"); d.JMAP != "" || d.Steps[1].Fault != FaultNotJMAP {
		t.Errorf("%+v", d)
	}
}

func TestAutoconfigOfOthers(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "text": "hello", "html": "<html></html>", "open": "<clientConfig><emailProvider>",
		"many": "<clientConfig>" + strings.Repeat("<a/>", 3000) + "</clientConfig>", "deep": "<clientConfig>" + strings.Repeat("<a>", 100),
		"entity": `<!DOCTYPE x [<!ENTITY a "b">]><clientConfig>&a;</clientConfig>`,
	} {
		if servers, err := parseAutoconfig([]byte(text), "x.test"); err == nil {
			t.Errorf("%s: %v", name, servers)
		}
	}
	one := `<incomingServer type="imap"><hostname>%s</hostname><port>%s</port><socketType>%s</socketType></incomingServer>`
	for _, bad := range []string{
		fmt.Sprintf(one, "127.0.0.1", "993", "SSL"), fmt.Sprintf(one, "a b", "993", "SSL"), fmt.Sprintf(one, "a.test", "0", "SSL"),
		fmt.Sprintf(one, "a.test", "x", "SSL"), fmt.Sprintf(one, "a.test", "993", ""), fmt.Sprintf(one, "a.test:1", "993", "SSL"),
		fmt.Sprintf(one, strings.Repeat("a", 300), "993", "SSL"),
	} {
		servers, err := parseAutoconfig([]byte("<clientConfig><emailProvider>"+bad+"</emailProvider></clientConfig>"), "x.test")
		if err != nil || len(servers) != 0 {
			t.Errorf("%s: %v, %v", bad, servers, err)
		}
	}
	// Placeholders, a byte order mark and charsets of old.
	const old = "\xef\xbb\xbf<?xml version='1.0'?><clientConfig><emailProvider><incomingServer type='imap'><hostname>imap.%EmailDomain%</hostname>" +
		"<port>993</port><socketType>SSL</socketType><username>%EMAILLOCALPART%@%EMAILDOMAIN%</username></incomingServer></emailProvider></clientConfig>"
	for _, text := range []string{
		old, strings.Replace(old, "%EMAILLOCALPART%@%EMAILDOMAIN%", "%EMAILLOCALPART%@x.test", 1),
		strings.Replace(old[3:], "<?xml version='1.0'?>", "<?xml version='1.0' encoding='ISO-8859-1'?><!-- f\xfcr -->", 1),
	} {
		servers, err := parseAutoconfig([]byte(text), "x.test")
		if err != nil || len(servers) != 1 || servers[0].Host != "imap.x.test" || servers[0].Login != LoginAddress {
			t.Errorf("%q: %+v, %v", text, servers, err)
		}
	}
	servers, err := parseAutoconfig([]byte("<clientConfig><emailProvider>"+strings.Repeat(fmt.Sprintf(one, "a.test", "993", "tls"), 50)+"</emailProvider></clientConfig>"), "x.test")
	if err != nil || len(servers) != maxServers {
		t.Errorf("%d, %v", len(servers), err)
	}
}

func FuzzAutoconfig(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(autoconfigDocument, "x.test", 993, 587)))
	f.Add([]byte("<clientConfig><emailProvider><incomingServer type='imap'>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		servers, err := parseAutoconfig(data, "x.test")
		if err != nil && servers != nil || len(servers) > 2*maxServers {
			t.Errorf("%v, %v", servers, err)
		}
		for _, m := range servers {
			if m.Host == "" || m.Port < 1 || m.Port > 65535 || m.Security != "tls" && m.Security != "starttls" || m.Protocol == "" || m.Login == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}

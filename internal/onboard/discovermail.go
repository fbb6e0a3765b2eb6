package onboard

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

func (m MailServer) address() string { return net.JoinHostPort(m.Host, strconv.Itoa(m.Port)) }

// service is one that SRV records tell of (RFC 6186, RFC 8314 section 5.1, RFC 8620 section 2.2).
type service struct{ name, protocol, security string }

var services = []service{
	{"_jmap", "jmap", tenant.SecurityTLS},
	{"_imaps", "imap", tenant.SecurityTLS},
	{"_imap", "imap", tenant.SecurityStartTLS},
	{"_submissions", "submission", tenant.SecurityTLS},
	{"_submission", "submission", tenant.SecurityStartTLS},
}

// records looks for SRV records, and at what they name. It reports whether the search is over.
func (s *search) records(ctx context.Context) bool {
	type answer struct {
		step    Step
		targets []MailServer
	}
	answers := each(services, func(v service) (a answer) {
		a.step = s.step(ctx, "srv", v.name+"._tcp."+s.Understood.Domain, func(ctx context.Context) (fault Fault, text string) {
			a.targets, fault, text = s.srv(ctx, v)
			return fault, text
		})
		return a
	})
	var origins []string
	var mail []MailServer
	for i, a := range answers {
		s.Steps = append(s.Steps, a.step)
		for _, m := range a.targets {
			if services[i].protocol != "jmap" {
				mail = append(mail, m)
				continue
			}
			port := ""
			if m.Port != 443 {
				port = strconv.Itoa(m.Port)
			}
			origins = append(origins, "https://"+authorityOf(m.Host, port))
		}
	}
	for _, base := range origins[:min(len(origins), 2)] {
		if base != s.Understood.Base && s.origin(ctx, base) {
			return true
		}
	}
	s.check(ctx, mail)
	return false
}

// srv asks for the records of one service.
func (s *search) srv(ctx context.Context, v service) ([]MailServer, Fault, string) {
	// The dot at the end keeps the resolver from trying its own domains.
	_, records, err := s.Resolver.LookupSRV(ctx, "", "", v.name+"._tcp."+s.Understood.Domain+".")
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, FaultNone, "there is no such record"
	case err != nil && len(records) == 0:
		return nil, FaultNoAnswer, "DNS gives no answer"
	}
	var all []MailServer
	for _, r := range records[:min(len(records), maxCandidates)] {
		host, err := hostrule.Normalise(strings.TrimSuffix(r.Target, "."))
		if err != nil || r.Port == 0 {
			continue
		}
		all = append(all, MailServer{
			Protocol: v.protocol, Host: host, Port: int(r.Port), Security: v.security, Login: LoginUnknown,
			Source: "srv", Elsewhere: !below(host, s.Understood.Domain),
		})
	}
	switch {
	case len(all) == 0 && len(records) > 0 && records[0].Target != ".":
		return nil, FaultBadDocument, "names no server that can be asked"
	case len(all) == 0: // the target "." (RFC 6186 section 3.4)
		return nil, FaultNotAvailable, "the domain says that it does not have this service"
	}
	return all, "", "names " + serverNames(all)
}

// below reports whether a host is a domain, or below it.
func below(host, domain string) bool {
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// ownAutoconfig asks the domain itself. The two are asked at once, and the first one is preferred.
func (s *search) ownAutoconfig(ctx context.Context) {
	s.autoconfigOf(ctx, s.Understood.Domain, "autoconfig", s.Understood.Address)
}

// autoconfigOf asks a domain for its documents. The address is sent only to a server that does not answer without.
func (s *search) autoconfigOf(ctx context.Context, domain, source, address string) {
	type answer struct {
		steps   []Step
		servers []MailServer
	}
	port := ""
	if s.ports.https != 0 {
		port = strconv.Itoa(s.ports.https)
	}
	answers := each([]string{
		"https://" + authorityOf("autoconfig."+domain, port) + "/mail/config-v1.1.xml",
		"https://" + authorityOf(domain, port) + "/.well-known/autoconfig/mail/config-v1.1.xml",
	}, func(target string) (a answer) {
		servers, status, step := s.autoconfig(ctx, target)
		a.steps = append(a.steps, step)
		if address != "" && (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity) {
			servers, _, step = s.autoconfig(ctx, target+"?emailaddress="+url.QueryEscape(address))
			step.Detail += " (asked with the address)"
			a.steps = append(a.steps, step)
		}
		a.servers = servers
		return a
	})
	var named []MailServer
	for _, a := range answers {
		s.Steps = append(s.Steps, a.steps...)
		if len(named) == 0 {
			named = a.servers
		}
	}
	for i := range named {
		named[i].Source = source
		named[i].Elsewhere = source == "mx" && !below(named[i].Host, s.Understood.Domain)
	}
	s.check(ctx, named)
}

// exchangers asks who receives the domain's mail: a hoster publishes one document for all its customers.
func (s *search) exchangers(ctx context.Context) {
	domain := s.Understood.Domain
	var hoster string
	s.Steps = append(s.Steps, s.step(ctx, "mx", domain, func(ctx context.Context) (Fault, string) {
		records, err := s.Resolver.LookupMX(ctx, domain+".")
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound:
			return FaultNone, "the domain receives no mail that DNS knows of"
		case err != nil && len(records) == 0:
			return FaultNoAnswer, "DNS gives no answer"
		}
		host, err := hostrule.Normalise(strings.TrimSuffix(records[0].Host, "."))
		if err != nil {
			return FaultNotAvailable, "the domain says that it receives no mail" // RFC 7505
		}
		if hoster, err = publicsuffix.EffectiveTLDPlusOne(host); err != nil {
			hoster = ""
		}
		return "", "mail goes to " + clip(host)
	}))
	if hoster != "" && hoster != domain {
		s.autoconfigOf(ctx, hoster, "mx", "")
	}
}

// guesses tries the names that mail servers usually have.
func (s *search) guesses(ctx context.Context) {
	p := s.ports
	or := func(port, usual int) int {
		if port != 0 {
			return port
		}
		return usual
	}
	var all []MailServer
	for _, g := range []struct {
		protocol, security string
		port               int
		names              []string
	}{
		{"imap", tenant.SecurityTLS, or(p.imaps, 993), []string{"imap", "mail"}},
		{"imap", tenant.SecurityStartTLS, or(p.imap, 143), []string{"imap", "mail"}},
		{"submission", tenant.SecurityTLS, or(p.submissions, 465), []string{"smtp", "mail"}},
		{"submission", tenant.SecurityStartTLS, or(p.submission, 587), []string{"smtp", "mail"}},
	} {
		for _, name := range g.names {
			all = append(all, MailServer{
				Protocol: g.protocol, Host: name + "." + s.Understood.Domain, Port: g.port, Security: g.security,
				Login: LoginUnknown, Source: "guess",
			})
		}
	}
	s.check(ctx, all)
}

// greets connects, encrypts, and waits for the greeting of the right protocol. The certificate must be trusted and for
// the name: a password will be sent there.
func (s *search) greets(ctx context.Context, m MailServer) Step {
	return s.step(ctx, "server", m.Protocol+" "+m.address()+" "+m.Security, func(ctx context.Context) (Fault, string) {
		conn, err := s.Guard.DialContext(ctx, "tcp", m.address())
		if err != nil {
			return s.webFault(ctx, err)
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		if m.Security == tenant.SecurityStartTLS {
			if m.Protocol == "imap" {
				err = startTLS(conn)
			} else {
				err = submissionStartTLS(conn)
			}
			switch {
			case errors.Is(err, errNoSTARTTLS):
				return FaultNoSTARTTLS, "it does not offer STARTTLS"
			case err != nil && ctx.Err() != nil:
				return FaultTimeout, "there is no answer in time"
			case err != nil:
				return FaultNoGreeting, "it does not greet as a mail server does"
			}
		}
		c := tls.Client(conn, &tls.Config{ServerName: m.Host, MinVersion: tls.VersionTLS12})
		if err := c.HandshakeContext(ctx); err != nil {
			if errors.Is(err, io.EOF) {
				return FaultTLS, "the connection is closed when TLS begins"
			}
			return s.webFault(ctx, err)
		}
		if m.Security == tenant.SecurityTLS {
			line, err := bufio.NewReaderSize(c, 8<<10).ReadSlice('\n')
			want := map[string]string{"imap": "* OK", "submission": "220"}[m.Protocol]
			switch {
			case err != nil && ctx.Err() != nil:
				return FaultTimeout, "there is no greeting in time"
			case err != nil || !strings.HasPrefix(string(line), want):
				return FaultNoGreeting, "it does not greet as a mail server does"
			}
		}
		return "", "answers, and its certificate is right"
	})
}

// submissionStartTLS brings a submission connection to where TLS begins (RFC 3207).
func submissionStartTLS(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 8<<10) // a longer line is an error
	if _, err := submissionAnswer(in, "220"); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "EHLO posthorn.invalid\r\n"); err != nil {
		return err
	}
	offers, err := submissionAnswer(in, "250")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(offers, func(o string) bool { return strings.EqualFold(o, "STARTTLS") }) {
		return errNoSTARTTLS
	}
	if _, err := io.WriteString(conn, "STARTTLS\r\n"); err != nil {
		return err
	}
	if _, err := submissionAnswer(in, "220"); err != nil {
		return errNoSTARTTLS
	}
	return nil
}

// submissionAnswer reads an answer of few lines (RFC 5321 section 4.2.1) and returns their texts.
func submissionAnswer(in *bufio.Reader, code string) ([]string, error) {
	const most = 100
	var texts []string
	for range most {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if !strings.HasPrefix(text, code) || len(text) > 3 && text[3] != ' ' && text[3] != '-' {
			return nil, fmt.Errorf("not an answer %s", code)
		}
		last := len(text) == 3 || text[3] == ' '
		texts = append(texts, text[min(4, len(text)):])
		if last {
			return texts, nil
		}
	}
	return nil, errors.New("the answer has too many lines")
}

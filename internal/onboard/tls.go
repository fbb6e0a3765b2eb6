package onboard

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// endsSoon is how long before its end a certificate is warned of.
const endsSoon = 21 * 24 * time.Hour

// errNoSTARTTLS: the server does not encrypt on demand.
var errNoSTARTTLS = errors.New("the server does not offer STARTTLS")

// tls looks at the connection's encryption by itself, beside the client's own way: that one ends at a certificate
// that is not right, and this one says what is wrong with it.
func (e *exam) tls(ctx context.Context) Check {
	h := e.host
	if h.Security == tenant.SecurityNone {
		switch {
		case isLoopback(h.IMAPHost):
			return ok("none, and none is needed on this machine")
		case h.Insecure:
			return warning("use --security tls or starttls", "none: passwords travel in clear (--insecure)")
		}
		return failed("use --security tls or starttls", "none: no password is sent to another machine in clear")
	}
	state, err := e.handshake(ctx)
	var noTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &noTLS):
		hint := "is this the port of TLS (993)? with --security starttls it is 143"
		if isLoopback(h.IMAPHost) {
			hint += ", and on this machine --security none will do"
		}
		return failed(hint, "the server does not speak TLS at port %d", h.IMAPPort)
	case errors.Is(err, errNoSTARTTLS):
		return failed("switch TLS on at the mail server, or use --security tls with port 993", "%v", err)
	case err != nil:
		return failed("compare security and port with the mail server's; openssl s_client shows more", "no TLS: %s", why(ctx, err))
	}
	return e.certificate(state)
}

// certificate judges the server's certificate as the client does.
func (e *exam) certificate(state tls.ConnectionState) Check {
	h, now := e.host, e.Now()
	leaf := state.PeerCertificates[0]
	opts := x509.VerifyOptions{DNSName: h.IMAPHost, Roots: e.roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	ends := leaf.NotAfter.UTC().Format(time.DateOnly)
	_, err := leaf.Verify(opts)
	var c Check
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.After(leaf.NotAfter):
		c = failed("renew it at the mail server", "the certificate ended on %s", ends)
	case errors.As(err, &x509.HostnameError{}):
		c = failed("name the mail host as the certificate does, or get one for this name",
			"the certificate is for %s, not for %s", strings.Join(leaf.DNSNames, ", "), h.IMAPHost)
	case errors.As(err, &x509.UnknownAuthorityError{}):
		do := "if it is your own authority's, give that with --ca; else the mail server must send the intermediate certificates"
		if h.CA != "" {
			do = "another certificate than those of --ca has signed it: give the right one"
		}
		c = failed(do, "the certificate is signed by nobody who is trusted: issuer %q", leaf.Issuer)
	case err != nil:
		c = failed("get a valid certificate for the mail server", "the certificate is not right: %v", err)
	case leaf.NotAfter.Sub(now) < endsSoon:
		return warning("renew it at the mail server", "verified, but the certificate ends on %s", ends)
	default:
		return ok("%s, verified; the certificate ends on %s", tls.VersionName(state.Version), ends)
	}
	if h.Insecure {
		c.State, c.Detail = Warning, c.Detail+"; accepted, since the mail host is --insecure"
	}
	return c
}

// handshake connects and encrypts, without judging the certificate.
func (e *exam) handshake(ctx context.Context) (state tls.ConnectionState, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.addr())
	if err != nil {
		return state, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if e.host.Security == tenant.SecurityStartTLS {
		if err := startTLS(conn); err != nil {
			return state, err
		}
	}
	c := tls.Client(conn, &tls.Config{
		ServerName: e.host.IMAPHost, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // G402: nothing is sent; the certificate is judged afterwards
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return state, err
	}
	return c.ConnectionState(), nil
}

// startTLS brings an IMAP connection to where TLS begins (RFC 9051 section 6.2.1).
func startTLS(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 8<<10) // a longer line is an error
	greeting, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if !strings.HasPrefix(string(greeting), "* OK") {
		return fmt.Errorf("the server greets with %q", strings.TrimSpace(string(greeting)))
	}
	if _, err := conn.Write([]byte("d1 STARTTLS\r\n")); err != nil {
		return err
	}
	for range 100 {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("read answer to STARTTLS: %w", err)
		}
		if answer, ours := strings.CutPrefix(string(line), "d1 "); ours {
			if strings.HasPrefix(answer, "OK") {
				return nil
			}
			return errNoSTARTTLS
		}
	}
	return errors.New("the server does not answer STARTTLS")
}

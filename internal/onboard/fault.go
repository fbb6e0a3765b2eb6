package onboard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

// Fault is why something could not be reached, as a stable word.
type Fault string

// The faults.
const (
	FaultNoSuchName   Fault = "dns_no_such_name"
	FaultNoAnswer     Fault = "dns_no_answer"
	FaultRefused      Fault = "tcp_refused"
	FaultTimeout      Fault = "tcp_timeout"
	FaultUnreachable  Fault = "tcp_unreachable"
	FaultExpired      Fault = "tls_expired"
	FaultNotYetValid  Fault = "tls_not_yet_valid"
	FaultWrongName    Fault = "tls_wrong_name"
	FaultUntrusted    Fault = "tls_unknown_authority"
	FaultNoTLS        Fault = "tls_none"
	FaultTLS          Fault = "tls_failed"
	FaultInternal     Fault = "internal_address" // outbound does not dial it
	FaultStatus       Fault = "http_status"
	FaultNotFound     Fault = "http_not_found"
	FaultNotPosthorn  Fault = "not_a_posthorn"
	FaultNotJMAP      Fault = "not_jmap"
	FaultDisabled     Fault = "disabled_here"
	FaultNoGreeting   Fault = "no_greeting"
	FaultNoSTARTTLS   Fault = "no_starttls"
	FaultBadDocument  Fault = "bad_document"
	FaultNotAvailable Fault = "service_not_available" // the domain says so
	FaultNone         Fault = "none_published"
	FaultOutOfTime    Fault = "out_of_time"
	FaultOther        Fault = "failed"
)

// faultOf names an error of dialling, TLS or HTTP, and says it in a sentence. now is for certificates.
func faultOf(err error, now time.Time) (Fault, string) {
	var refused *outbound.RefusedError
	var dns *net.DNSError
	switch {
	case errors.As(err, &refused):
		return FaultInternal, "it is not asked: " + refused.Reason
	case errors.As(err, &dns) && dns.IsNotFound:
		return FaultNoSuchName, "DNS has no such name"
	case errors.As(err, &dns):
		return FaultNoAnswer, "DNS gives no answer for this name"
	}
	if fault, text := tlsFault(err, now); fault != "" {
		return fault, text
	}
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return FaultRefused, "the connection is refused: nothing listens there"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return FaultUnreachable, "there is no way to this address"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return FaultTimeout, "there is no answer in time"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return FaultOther, "the connection is closed by the other side"
	case errors.Is(err, outbound.ErrBodyTooLarge):
		return FaultBadDocument, "the answer is larger than 64 KiB"
	}
	return FaultOther, "it does not answer as it should"
}

// tlsFault is faultOf for what goes wrong from the first byte of TLS to the end of the handshake.
func tlsFault(err error, now time.Time) (Fault, string) {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var noTLS tls.RecordHeaderError
	var remote *net.OpError
	var wrong *tls.CertificateVerificationError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && now.Before(invalid.Cert.NotBefore):
		return FaultNotYetValid, "the certificate is valid from " + day(invalid.Cert.NotBefore) + " on only"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return FaultExpired, "the certificate has expired on " + day(invalid.Cert.NotAfter)
	case errors.As(err, &name):
		return FaultWrongName, fmt.Sprintf("the certificate is for %s, not for %s", namesOf(name.Certificate), clip(name.Host))
	case errors.As(err, &authority):
		return FaultUntrusted, "the certificate is signed by nobody who is trusted"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return FaultNoTLS, "it does not speak TLS"
	case errors.As(err, &invalid), errors.As(err, &wrong):
		return FaultTLS, "the certificate is not right"
	case errors.As(err, &remote) && remote.Op == "remote error":
		return FaultTLS, handshakeFault(remote.Err.Error())
	case strings.Contains(err.Error(), "tls: "):
		return FaultTLS, handshakeFault(err.Error())
	}
	return "", ""
}

// handshakeFault says in a sentence what crypto/tls, which has no types for it, says of a handshake that failed.
func handshakeFault(text string) string {
	_, text, _ = strings.Cut(text, "tls: ")
	for _, is := range []struct{ words, sentence string }{
		{"unrecognized name", "it has no certificate for this name"},
		{"certificate required", "it wants a certificate from us"},
		{"bad certificate", "it wants a certificate from us"},
		{"protocol version", "there is no common version or cipher of TLS"},
		{"handshake failure", "there is no common version or cipher of TLS"},
		{"insufficient security", "there is no common version or cipher of TLS"},
		{"cipher", "there is no common version or cipher of TLS"},
	} {
		if strings.Contains(text, is.words) {
			return is.sentence
		}
	}
	return "TLS cannot begin: " + clip(text)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// namesOf is what a certificate is for, as far as it fits a sentence.
func namesOf(c *x509.Certificate) string {
	const most = 4
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	more := ""
	if len(names) > most {
		names, more = names[:most], " and others"
	}
	if len(names) == 0 {
		return "no name"
	}
	for i := range names {
		names[i] = clip(names[i])
	}
	return strings.Join(names, ", ") + more
}

// clip makes words of somebody else's fit to be shown: printable, and not long.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return s
}

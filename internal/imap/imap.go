// Package imap is Posthorn's IMAP client: bytes, commands and responses (RFC 9051, and RFC 3501 for
// the servers that are not there yet). It knows nothing of Posthorn.
//
// A [Server] is where to connect to; [Server.Dial] returns a [Client] that is greeted, encrypted as asked and knows
// the server's capabilities. It logs in (as the user, for him, or by token), looks at mailboxes (SELECT, STATUS, LIST,
// FETCH, SEARCH with CONDSTORE, QRESYNC and ESEARCH where there are such), waits for news ([Client.Idle], NOTIFY),
// and reads and writes annotations. There is one file for each command; what they share is in client.go (one command
// at a time, cancelling), update.go (what the server says unasked), decode.go (tokens), response.go and encode.go.
//
// Mailbox names are UTF-8. Messages are read in the envelope's form, undecoded: MIME is not its trade.
//
// Thousands of clients may idle. Such a one costs a goroutine whose stack has not grown (idle.go, gate.go) and its TLS
// state: no buffer, no timer, no context, no list of capabilities of its own.
//
// The server is not trusted: a response is bounded in length and depth, and one that is not IMAP ends
// the connection. Passwords go over verified TLS only, save to the own machine or by [Config].Insecure,
// and appear in no error and no log.
//
// It does not reconnect, does not retry, and sets no time limit of its own: that is the context's part, and for Idle
// the part of whoever interrupts it. A peer that is gone without a word is noticed by TCP's keep-alive.
//
// # Concurrency
//
// A Client may be used by several goroutines; a command waits for its turn. The goroutine that has the turn is the
// only one that reads and writes, save for the one line by which an Interrupt ends an Idle; what it starts others for,
// it waits for. What the server says between two commands waits in the socket for the next one. When the context of a
// running command ends, the command returns at once and the connection is closed: half a command is on the wire, or
// half an answer is awaited. The context of a command that still waits for its turn does no harm to the connection.
package imap

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The ways to encrypt, for [Config].Security.
const (
	SecurityTLS      = "tls"      // from the first byte
	SecuritySTARTTLS = "starttls" // after the greeting; a server that does not offer it is an error
	SecurityNone     = "none"     // never; passwords then go to the own machine only
)

// Config says how to reach a server.
type Config struct {
	// Host is a name or a literal address; the certificate must be for it.
	Host string
	// Port is 993 (SecurityTLS) or 143 when zero.
	Port int
	// Security is one of the constants; "" is SecurityTLS.
	Security string
	// Insecure lets passwords go in clear and over TLS with any certificate.
	Insecure bool
	// RootCAs are the authorities that may have signed the certificate; nil means the system's.
	RootCAs *x509.CertPool
	// Dial makes the connection; nil means a [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger gets a line for each command at debug level, without arguments; nil means none.
	Logger *slog.Logger
}

// check fills the defaults in.
func (cfg *Config) check() error {
	if cfg.Host == "" {
		return errors.New("no host")
	}
	port := 143
	switch cfg.Security {
	case "", SecurityTLS:
		cfg.Security, port = SecurityTLS, 993
	case SecuritySTARTTLS, SecurityNone:
	default:
		return fmt.Errorf("unknown security %q", cfg.Security)
	}
	if cfg.Port == 0 {
		cfg.Port = port
	}
	if cfg.Port < 1 || cfg.Port > 65535 {
		return fmt.Errorf("port %d is out of range", cfg.Port)
	}
	if cfg.Dial == nil {
		// Go's default of 15 s keeps a network busy with thousands of idle connections.
		cfg.Dial = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 2 * time.Minute, Interval: 30 * time.Second, Count: 4,
		}}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (cfg *Config) addr() string { return net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)) }

// loopback reports whether the host is this machine by its very name: no resolver is asked, since
// its answer may be another by the time of the connection.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// What callers tell apart. Every other error is an outage: the network, the certificate, or a server
// that does not do its duty at the moment.
var (
	// ErrAuth: these credentials are rejected, by the server or because no server could accept them.
	ErrAuth = errors.New("login rejected")
	// ErrInsecure: the password was not sent, since others could have read it.
	ErrInsecure = errors.New("connection is not secure enough for a password")
	// ErrUnsupported: the server does not offer what the call needs.
	ErrUnsupported = errors.New("not supported by the server")
	// ErrClosed: the connection had ended before the call.
	ErrClosed = errors.New("connection is closed")
)

// A ResponseError is a server's refusal: NO or BAD as the result of a command, BYE at any time.
type ResponseError struct {
	Status string // "NO", "BAD" or "BYE"
	Code   string // the response code's name in upper case ("UNAVAILABLE"), or ""
	Text   string // for humans, cut to maxErrorText bytes
}

// maxErrorText bounds what a server can write into our logs, in bytes.
const maxErrorText = 300

func (e *ResponseError) Error() string {
	var b strings.Builder
	b.WriteString("server says " + e.Status)
	if e.Code != "" {
		b.WriteString(" [" + e.Code + "]")
	}
	if e.Text != "" {
		b.WriteString(" " + strconv.Quote(e.Text))
	}
	return b.String()
}

// TooManyConnections reports whether the server has as many connections of the user, or of us, as it wants. Codes do
// not tell this limit from others, so it goes by the words of Dovecot, Cyrus and the large providers.
func (e *ResponseError) TooManyConnections() bool {
	text := strings.ToLower(e.Text)
	return e.Code == "LIMIT" || strings.Contains(text, "maximum number of connections") ||
		strings.Contains(text, "too many") && strings.Contains(text, "connections")
}

// Temporary reports whether the refusal is about the server's state, not about the request, going by
// the codes of RFC 5530 section 3 and by those large providers invented.
func (e *ResponseError) Temporary() bool {
	switch e.Code {
	case "UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "CONTACTADMIN", "OVERQUOTA", "THROTTLED", "REFERRAL":
		return true
	}
	return e.Status == "BYE"
}

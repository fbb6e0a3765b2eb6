// Package demo is "posthorn demo": an embedded mail server, Posthorn, a push service and a page with a
// phone on it, in one process that needs nothing installed and leaves nothing behind.
//
// Posthorn's own code has no branch for it. The mail server does what a Dovecot does (METADATA,
// the notification on delivery), and everything else uses the interfaces that are there for
// everybody: the admin socket to provision the user, the public API to sign in and subscribe. The
// phone is a Web Push subscription at the demo's own push service, whose address is listed in
// outbound.allow. So the demo shows the product, and not a film of it.
//
// It does not serve anybody: the mail server keeps one mailbox in memory, listens on loopback
// addresses without TLS, and takes mail from whoever can connect.
//
// Concurrency: Run owns every goroutine and returns when all have ended. The board is the only state
// that they share.
package demo

import (
	"io"
	"log/slog"
)

// The addresses of the ports that people type.
const (
	DefaultPageAddr = "127.0.0.1:8025"
	DefaultSMTPAddr = "127.0.0.1:2525"
)

// Config is what Run needs to know.
type Config struct {
	// PageAddr and SMTPAddr are where the page and the SMTP server listen; "" is the default above. The
	// other ports are of the system's choice. With Once there is no page, and any SMTP port will do.
	PageAddr, SMTPAddr string
	// Once sends one mail, follows it to the phone, compares, and ends.
	Once bool
	// Out gets what is meant to be read.
	Out io.Writer
	// Log gets what Posthorn and the mail server say; nil is nobody.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.PageAddr == "" {
		c.PageAddr = DefaultPageAddr
	}
	switch {
	case c.SMTPAddr != "":
	case c.Once:
		c.SMTPAddr = anyPort
	default:
		c.SMTPAddr = DefaultSMTPAddr
	}
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

package imap

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// maxCredential bounds a login and a password, in bytes.
const maxCredential = 1024

// Login proves who the user is: by AUTHENTICATE PLAIN where offered, else by LOGIN. It reads the
// capabilities again, since they change with it.
//
// [ErrAuth] means that the credentials are wrong, not that the server could not tell. [ErrInsecure] means
// that nothing was sent. After either, the connection can be used for another try.
func (c *Client) Login(ctx context.Context, user, password string) error {
	return c.do(ctx, "log in", func() error {
		if err := checkCredential("login", user); err != nil {
			return err
		}
		if err := checkCredential("password", password); err != nil {
			return err
		}
		if !c.secure && !c.cfg.Insecure && !loopback(c.cfg.Host) {
			return ErrInsecure
		}
		// A server that trusts the connection would accept any password: that proves nothing.
		if c.authed {
			return errors.New("connection is logged in already")
		}
		cmd, err := c.loginCommand(user, password)
		if err != nil {
			return err
		}
		told := c.told
		if _, err := c.run(ctx, cmd); err != nil {
			return loginError(err)
		}
		c.authed = true
		return c.needCapabilities(ctx, told)
	})
}

// checkCredential refuses what cannot be a login or a password, before anything is sent. An empty
// password in particular: behind some servers is an LDAP directory that takes it for an anonymous, and
// thus successful, login (RFC 4513 section 5.1.2).
func checkCredential(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: %s is empty", ErrAuth, what)
	case len(s) > maxCredential:
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrAuth, what, maxCredential)
	case strings.ContainsAny(s, "\r\n\x00"):
		return fmt.Errorf("%w: %s holds a line end or NUL", ErrAuth, what)
	}
	return nil
}

// loginCommand picks the way to log in that the server offers.
func (c *Client) loginCommand(user, password string) (command, error) {
	secrets := []string{password}
	switch {
	case c.Has("AUTH=PLAIN"):
		// RFC 4616 section 2; the first field, whom to act as, is left empty.
		plain := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
		cmd := command{name: "AUTHENTICATE", secrets: append(secrets, plain)}
		initial := c.Has("SASL-IR") // RFC 4959
		cmd.args = func(e *encoder) {
			e.text(" PLAIN")
			if initial {
				e.text(" " + plain)
			}
		}
		sent := initial
		cmd.reply = func() string {
			if sent {
				return "*" // there is nothing more to say: cancel
			}
			sent = true
			return plain
		}
		return cmd, nil
	case !c.Has("LOGINDISABLED"):
		e := newEncoder(true, false)
		e.string(password) // as the server would quote it
		return command{name: "LOGIN", secrets: append(secrets, strings.Trim(string(e.last), `"`)), args: func(e *encoder) {
			e.text(" ")
			e.astring(user)
			e.text(" ")
			e.astring(password)
		}}, nil
	case !c.secure:
		return command{}, fmt.Errorf("%w: server refuses passwords here (LOGINDISABLED)", ErrInsecure)
	default:
		return command{}, fmt.Errorf("login by password is %w", ErrUnsupported)
	}
}

// loginError tells a wrong password from a server that has other troubles.
func loginError(err error) error {
	r, ok := errors.AsType[*ResponseError](err)
	switch {
	case !ok || r.Status != "NO" || r.Temporary():
		return err
	case r.Code == "PRIVACYREQUIRED": // RFC 5530 section 3
		return fmt.Errorf("%w: %w", ErrInsecure, err)
	default:
		return fmt.Errorf("%w: %w", ErrAuth, err)
	}
}

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
	return c.login(ctx, func() (command, error) { return c.loginCommand(user, password) },
		credential{"login", user}, credential{"password", password})
}

// LoginAs logs in as user with the name and the password of another who may do so, such as Dovecot's master
// user (RFC 4616: user is the authorization identity). Only AUTHENTICATE PLAIN can say that. Errors are as
// Login's.
func (c *Client) LoginAs(ctx context.Context, user, master, password string) error {
	return c.login(ctx, func() (command, error) {
		if !c.Has("AUTH=PLAIN") {
			return command{}, fmt.Errorf("login for another user (AUTH=PLAIN) is %w", ErrUnsupported)
		}
		return c.plainCommand(user, master, password), nil
	}, credential{"login", user}, credential{"master login", master}, credential{"password", password})
}

// login has the command log in that prove makes, when it is safe to send these.
func (c *Client) login(ctx context.Context, prove func() (command, error), parts ...credential) error {
	return c.do(ctx, "log in", func() error {
		for _, p := range parts {
			if err := p.check(); err != nil {
				return err
			}
		}
		if !c.secure && !c.srv.cfg.Insecure && !loopback(c.srv.cfg.Host) {
			return ErrInsecure
		}
		// A server that trusts the connection would accept any password: that proves nothing.
		if c.authed {
			return errors.New("connection is logged in already")
		}
		cmd, err := prove()
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

// credential is a part of what proves who somebody is.
type credential struct{ what, text string }

// check refuses what cannot be a login or a password, before anything is sent. An empty
// password in particular: behind some servers is an LDAP directory that takes it for an anonymous, and
// thus successful, login (RFC 4513 section 5.1.2).
func (cr credential) check() error {
	most, is := maxCredential, func(s string) bool { return !strings.ContainsAny(s, "\r\n\x00\x01") }
	if cr.what == "token" {
		most, is = maxToken, isToken
	}
	switch {
	case cr.text == "":
		return fmt.Errorf("%w: %s is empty", ErrAuth, cr.what)
	case len(cr.text) > most:
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrAuth, cr.what, most)
	case !is(cr.text):
		return fmt.Errorf("%w: %s holds a line end or control character", ErrAuth, cr.what)
	}
	return nil
}

// isToken reports whether s can be a bearer token (RFC 6750 section 2.1, "b64token", and what issuers add).
func isToken(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// plainCommand is AUTHENTICATE PLAIN (RFC 4616 section 2); as is empty when the user is to be himself.
func (c *Client) plainCommand(as, user, password string) command {
	plain := base64.StdEncoding.EncodeToString([]byte(as + "\x00" + user + "\x00" + password))
	return c.saslCommand("PLAIN", plain, "*", password) // asked for more, there is nothing to say: cancel
}

// saslCommand authenticates by a mechanism whose client speaks first, and once. Asked for more, it answers
// with the line more. Secrets are what no error may repeat, beside the line first.
func (c *Client) saslCommand(mechanism, first, more string, secrets ...string) command {
	initial := c.Has("SASL-IR") // RFC 4959
	sent := initial
	return command{
		name: "AUTHENTICATE", secrets: append(secrets, first),
		args: func(e *encoder) {
			e.text(" " + mechanism)
			if initial {
				e.text(" " + first)
			}
		},
		reply: func(string) string {
			if sent {
				return more
			}
			sent = true
			return first
		},
	}
}

// loginCommand picks the way to log in that the server offers.
func (c *Client) loginCommand(user, password string) (command, error) {
	switch {
	case c.Has("AUTH=PLAIN"):
		return c.plainCommand("", user, password), nil
	case !c.Has("LOGINDISABLED"):
		e := newEncoder(true, false)
		e.string(password) // as the server would quote it
		return command{name: "LOGIN", secrets: []string{password, strings.Trim(string(e.last), `"`)}, args: func(e *encoder) {
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

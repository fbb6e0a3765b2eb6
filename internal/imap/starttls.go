package imap

import (
	"context"
	"errors"
	"fmt"
)

// startTLS encrypts a greeted connection (RFC 9051 section 6.2.1). What came before is forgotten, since
// anybody on the way could have written it.
func (c *Client) startTLS(ctx context.Context) error {
	// A greeting of PREAUTH forbids STARTTLS: on a connection that was meant to be encrypted it is an attack.
	if c.authed {
		return c.fail(errors.New("encrypt: server claims a login before TLS"))
	}
	if err := c.needCapabilities(ctx, 0); err != nil {
		return err
	}
	if !c.Has("STARTTLS") {
		return c.fail(fmt.Errorf("encrypt: STARTTLS is %w", ErrUnsupported))
	}
	if _, err := c.run(ctx, command{name: "STARTTLS"}); err != nil {
		return c.fail(fmt.Errorf("encrypt: %w", err))
	}
	// Bytes behind the answer came in clear and would be taken for the server's, encrypted: an injection
	// of responses (CVE-2011-0411 and its kin). What comes later goes into the handshake and fails there.
	if c.dec.r.Buffered() > 0 {
		return c.fail(errors.New("encrypt: server sent more before TLS began"))
	}
	if err := c.encrypt(ctx); err != nil {
		return err
	}
	c.setCapabilities(nil)
	c.told = 0
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// tellSystemd says how the server is to whoever started it with Type=notify (sd_notify(3)): one datagram. It does
// nothing where nobody listens.
func (c *cli) tellSystemd(ctx context.Context, state string) error {
	socket := c.env["NOTIFY_SOCKET"]
	if socket == "" {
		return nil
	}
	if socket[0] == '@' {
		socket = "\x00" + socket[1:] // an abstract one
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixgram", socket)
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}

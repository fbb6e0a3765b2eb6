package imap

import "context"

// Logout says goodbye and closes the connection, whatever the server answers.
func (c *Client) Logout(ctx context.Context) error {
	defer c.Close()
	return c.do(ctx, "log out", func() error {
		_, err := c.run(ctx, command{name: "LOGOUT", bye: true})
		return err
	})
}

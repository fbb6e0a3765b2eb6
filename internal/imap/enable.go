package imap

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Enable switches extensions on (RFC 5161), and returns those that the server enabled, in upper case. CONDSTORE and
// QRESYNC are of use. What would change how mailbox names are written (IMAP4rev2, UTF8=ACCEPT) must not be asked for.
func (c *Client) Enable(ctx context.Context, extensions ...string) (enabled []string, err error) {
	err = c.do(ctx, "enable", func() error {
		if !c.Has("ENABLE") && !c.Has("IMAP4REV2") {
			return fmt.Errorf("ENABLE is %w", ErrUnsupported)
		}
		for i, x := range extensions {
			extensions[i] = strings.ToUpper(x)
			if !isAtom(x) || slices.Contains([]string{"IMAP4REV2", "UTF8=ACCEPT", "UTF8=ONLY"}, extensions[i]) {
				return fmt.Errorf("%q cannot be enabled", x)
			}
		}
		_, err := c.run(ctx, command{
			name: "ENABLE",
			args: func(e *encoder) { e.text(" " + strings.Join(extensions, " ")) },
			data: func(r response, d *decoder) (bool, error) {
				if r.name != "ENABLED" {
					return false, nil
				}
				names, err := d.capabilities()
				for _, n := range names {
					enabled = append(enabled, strings.ToUpper(n))
				}
				return true, err
			},
		})
		c.qresync = c.qresync || err == nil && slices.Contains(enabled, "QRESYNC")
		return err
	})
	return enabled, err
}

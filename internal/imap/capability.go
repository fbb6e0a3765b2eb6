package imap

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Has reports whether the server's last capability list holds the name, whatever its case.
func (c *Client) Has(capability string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caps != nil && c.caps.has[strings.ToUpper(capability)]
}

// Capabilities returns the server's last capability list, in upper case and sorted.
func (c *Client) Capabilities() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caps == nil {
		return nil
	}
	return slices.Clone(c.caps.names)
}

// needCapabilities asks for the capabilities, unless the server has told them by itself since it had
// told them so many times (RFC 9051 section 6.1.1).
func (c *Client) needCapabilities(ctx context.Context, told int) error {
	if c.told > told {
		return nil
	}
	if _, err := c.run(ctx, command{name: "CAPABILITY"}); err != nil {
		return fmt.Errorf("ask for capabilities: %w", err)
	}
	return nil
}

// setCapabilities takes what the server told.
func (c *Client) setCapabilities(names []string) {
	c.told++
	set := c.srv.intern(names)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps = set
}

// capabilities reads what follows "* CAPABILITY".
func (d *decoder) capabilities() ([]string, error) {
	names := []string{}
	for {
		// Some servers end the list with a space.
		if more, err := d.accept(' '); err != nil || !more {
			return names, err
		}
		name, err := d.while(isAtomChar)
		if err != nil {
			return nil, err
		}
		if name == "" {
			return names, nil
		}
		names = append(names, name)
	}
}

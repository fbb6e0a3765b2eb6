package imap

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Has reports whether the server's last capability list holds the name, whatever its case.
func (c *Client) Has(capability string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caps[strings.ToUpper(capability)]
}

// Capabilities returns the server's last capability list, in upper case and sorted.
func (c *Client) Capabilities() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.caps))
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
	caps := make(map[string]bool, len(names))
	for _, n := range names {
		caps[strings.ToUpper(n)] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caps = caps
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

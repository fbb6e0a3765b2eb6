package imap

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// ID tells the server who its client is, such as "name" and "version", and returns what the server says
// of itself (RFC 2971). It is for statistics and complaints: no behaviour may depend on it.
func (c *Client) ID(ctx context.Context, fields map[string]string) (map[string]string, error) {
	var server map[string]string
	err := c.do(ctx, "exchange ids", func() error {
		if !c.Has("ID") {
			return fmt.Errorf("ID is %w", ErrUnsupported)
		}
		_, err := c.run(ctx, command{
			name: "ID",
			args: func(e *encoder) { e.id(fields) },
			data: func(r response, d *decoder) (bool, error) {
				if r.name != "ID" {
					return false, nil
				}
				var err error
				server, err = d.id()
				return true, err
			},
		})
		return err
	})
	return server, err
}

func (e *encoder) id(fields map[string]string) {
	if len(fields) == 0 {
		e.text(" NIL")
		return
	}
	sep := " ("
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		e.text(sep)
		e.string(k)
		e.text(" ")
		e.string(fields[k])
		sep = " "
	}
	e.text(")")
}

// id reads what follows "* ID". A field without a value is left out.
func (d *decoder) id() (map[string]string, error) {
	if err := d.expect(' '); err != nil {
		return nil, err
	}
	fields := map[string]string{}
	if b, err := d.peek(); err != nil || b != '(' {
		_, ok, err := d.nstring()
		if err == nil && ok {
			err = errSyntax
		}
		return fields, err
	}
	return fields, d.list(func() error {
		k, err := d.string()
		if err != nil {
			return err
		}
		if err := d.expect(' '); err != nil {
			return err
		}
		v, ok, err := d.nstring()
		if err == nil && ok {
			fields[k] = v
		}
		return err
	})
}

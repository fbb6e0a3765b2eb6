package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printJSON writes v as one JSON document.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table is the human form of a listing.
type table[T any] struct {
	// empty is what to say, on stderr, when there is nothing to list.
	empty  string
	header []string
	// row returns one cell for each header.
	row func(T) []string
}

// print writes items as the user asked for them: one JSON array, or an aligned table.
func (t table[T]) print(c *cli, items []T) error {
	if c.json {
		if items == nil {
			items = []T{} // "[]", not "null"
		}
		return c.printJSON(items)
	}
	if len(items) == 0 {
		return c.say("%s", t.empty)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		for i, cell := range cells {
			if cell == "" {
				cell = "-"
			}
			cells[i] = printable(cell)
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) // errors come back from Flush
	}
	line(t.header)
	for _, item := range items {
		line(t.row(item))
	}
	return w.Flush()
}

// say writes a line for the person at the terminal, beside the result.
func (c *cli) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c.stderr, format+"\n", args...)
	return err
}

// done writes what a changing command did: v with --json, else a sentence.
func (c *cli) done(v any, format string, args ...any) error {
	if c.json {
		return c.printJSON(v)
	}
	_, err := fmt.Fprintf(c.stdout, format+"\n", args...)
	return err
}

// printable replaces control characters: a cell may hold words of a mail server or a provider, which
// must not move the cursor of the terminal that shows them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// isControl also takes the invisible format characters, which can turn the direction of a line.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// when shows an RFC 3339 time in the operator's zone and how far away it is.
func (c *cli) when(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	distance, form := c.now().Sub(t), "%s ago"
	if distance < 0 {
		distance, form = -distance, "in %s"
	}
	return t.Local().Format("2006-01-02 15:04:05") + " (" + fmt.Sprintf(form, roughly(distance)) + ")"
}

// roughly rounds down to the largest unit.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/day)
}

// between is the time from one RFC 3339 time to another, to the millisecond.
func between(from, to string) string {
	a, errA := time.Parse(time.RFC3339Nano, from)
	b, errB := time.Parse(time.RFC3339Nano, to)
	if errA != nil || errB != nil {
		return ""
	}
	return b.Sub(a).Round(time.Millisecond).String()
}

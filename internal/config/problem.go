package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with the configuration.
type Problem struct {
	// Key is the dotted path of the key ("transports.apns.apps[0].topic"); "" when the file as a whole
	// is at fault.
	Key string `json:"key,omitempty"`
	// Source is the configuration file or "environment NAME"; "" when the key was nowhere given.
	Source string `json:"source,omitempty"`
	// Line counts from 1; 0 when it is not known.
	Line int `json:"line,omitempty"`
	// Message says what is wrong and what to do. It never holds a secret.
	Message string `json:"message"`
	// Denied: it is that this user may not read a file, which the server's own user perhaps may.
	Denied bool `json:"-"`
}

// String returns "FILE:LINE: KEY: MESSAGE", without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all the problems found in one go, in the order of the file. It is an error when not
// empty.
type Problems []Problem

// Error returns one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sort puts problems into the order of the file; what has no line comes last.
func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Compare(a.Line, b.Line)
	})
}

// Warnings are what an operator should know and may ignore.
type Warnings []Problem

// origin is where the value of a key came from.
type origin struct {
	line int    // in the configuration file; 0 when it did not come from there
	from string // for people: "posthorn.yml:3", "environment POSTHORN_DATABASE_URL"
}

// Problem makes a Problem of a finding about key, and finds its line: that of the key itself, else of
// the section it belongs to. The message must not hold a secret.
func (c *Config) Problem(key, format string, args ...any) Problem {
	p := Problem{Key: key, Message: fmt.Sprintf(format, args...)}
	for at := key; at != ""; at = parent(at) {
		o, ok := c.origins[at]
		if !ok {
			continue
		}
		if o.line > 0 {
			p.Source, p.Line = c.file, o.line
			return p
		}
		if at == key {
			p.Source = o.from
			return p
		}
	}
	return p
}

// Origin says where the value of key came from: "default", "FILE:LINE", "file PATH (FILE:LINE)" or
// "environment NAME".
func (c *Config) Origin(key string) string {
	if o, ok := c.origins[key]; ok {
		return o.from
	}
	return "default"
}

// parent returns the path of what holds key: "a.b[0].c" -> "a.b[0]" -> "a.b" -> "a" -> "".
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

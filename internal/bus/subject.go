package bus

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// prefix keeps us apart from others on an external server, and lets its accounts allow posthorn.>.
	prefix = "posthorn."
	// maxSubject is in bytes. A server ends the connection over a line of more than 4096, which holds the
	// subject and that of the reply.
	maxSubject = 1024
)

// ErrSubject means that a subject is the zero value, or longer than 1024 bytes.
var ErrSubject = errors.New("not a subject")

// Subject names what a message is about. It is made by NewSubject only, and matches itself only: there
// are no wildcards on this bus.
type Subject struct {
	area string // the first token, which is also a metric label
	name string // as NATS knows it
}

// NewSubject joins an area, a constant of the package that owns it, and tokens, which may be any text.
// Different tokens make different subjects.
func NewSubject(area string, tokens ...string) Subject {
	var b strings.Builder
	b.WriteString(prefix)
	writeToken(&b, area)
	s := Subject{area: b.String()[len(prefix):]}
	for _, t := range tokens {
		b.WriteByte('.')
		writeToken(&b, t)
	}
	s.name = b.String()
	return s
}

// writeToken writes a token percent-encoded, and an empty one, which NATS does not allow, as a lone %.
func writeToken(b *strings.Builder, token string) {
	if token == "" {
		b.WriteByte('%')
	}
	for i := range len(token) {
		switch c := token[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '@':
			b.WriteByte(c)
		default:
			fmt.Fprintf(b, "%%%02x", c)
		}
	}
}

// String is the subject as NATS knows it.
func (s Subject) String() string { return s.name }

func (s Subject) check() error {
	if s.name == "" || len(s.name) > maxSubject {
		return ErrSubject
	}
	return nil
}

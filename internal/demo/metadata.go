package demo

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// metadata holds a mailbox user's annotations (RFC 5464), as Dovecot keeps them in its attribute
// dictionary. The zero value is empty and ready; it is safe for concurrent use.
type metadata struct {
	mu     sync.Mutex
	values map[metadataKey]string
}

// metadataKey names one annotation; mailbox "" is the server itself (RFC 5464 section 4.2).
type metadataKey struct{ mailbox, entry string }

func keyOf(mailbox, entry string) metadataKey {
	if strings.EqualFold(mailbox, "INBOX") {
		mailbox = "INBOX"
	}
	return metadataKey{mailbox, strings.ToLower(entry)} // entry names ignore case, RFC 5464 section 3.2
}

func (m *metadata) get(mailbox, entry string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[keyOf(mailbox, entry)]
	return v, ok
}

// set stores a value, also the empty one; nil removes the annotation.
func (m *metadata) set(mailbox, entry string, value *string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.values, keyOf(mailbox, entry))
		return
	}
	if m.values == nil {
		m.values = map[metadataKey]string{}
	}
	m.values[keyOf(mailbox, entry)] = *value
}

// metadataCommand is a parsed GETMETADATA or SETMETADATA command. Values are present in the latter
// only; a nil value removes.
type metadataCommand struct {
	set     bool
	mailbox string
	entries []metadataEntry
}

type metadataEntry struct {
	name  string
	value *string
}

// parseMetadata parses what follows the tag: the command's name and arguments with literals in place,
// CRLF at the end. The options of GETMETADATA (RFC 5464 section 4.2) are refused: nobody asks the
// demo for them.
func parseMetadata(b []byte) (*metadataCommand, error) {
	p := argParser{rest: b}
	name, err := p.atom()
	if err != nil {
		return nil, err
	}
	cmd := &metadataCommand{set: strings.EqualFold(name, "SETMETADATA")}
	if err := p.byte(' '); err != nil {
		return nil, err
	}
	if p.peek() == '(' {
		return nil, errors.New("options are not supported")
	}
	if cmd.mailbox, err = p.astring(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(cmd.mailbox, "\r\n\x00") {
		return nil, errors.New("control character in the mailbox name")
	}
	if err := p.byte(' '); err != nil {
		return nil, err
	}
	list := p.peek() == '('
	if list {
		p.rest = p.rest[1:]
	} else if cmd.set {
		return nil, errors.New("expected a list of entries and values")
	}
	for {
		e, err := p.entry(cmd.set)
		if err != nil {
			return nil, err
		}
		cmd.entries = append(cmd.entries, e)
		if !list || p.peek() != ' ' {
			break
		}
		p.rest = p.rest[1:]
	}
	if list {
		if err := p.byte(')'); err != nil {
			return nil, err
		}
	}
	if s := string(p.rest); s != "\r\n" && s != "\n" {
		return nil, errors.New("extra arguments")
	}
	return cmd, nil
}

// argParser reads the arguments of an IMAP command (RFC 9051 section 9) from the front of rest.
type argParser struct{ rest []byte }

func (p *argParser) peek() byte {
	if len(p.rest) == 0 {
		return 0
	}
	return p.rest[0]
}

func (p *argParser) byte(want byte) error {
	if p.peek() != want {
		return fmt.Errorf("expected %q", want)
	}
	p.rest = p.rest[1:]
	return nil
}

// entry reads an entry name and, for SETMETADATA, its value.
func (p *argParser) entry(withValue bool) (metadataEntry, error) {
	name, err := p.astring()
	if err != nil {
		return metadataEntry{}, err
	}
	lower := strings.ToLower(name)
	if !strings.HasPrefix(lower, "/private/") && !strings.HasPrefix(lower, "/shared/") {
		return metadataEntry{}, errors.New("entry name must begin with /private/ or /shared/")
	}
	if strings.ContainsFunc(name, notAtom) { // we answer with the bare name
		return metadataEntry{}, errors.New("bad character in the entry name")
	}
	e := metadataEntry{name: name}
	if !withValue {
		return e, nil
	}
	if err := p.byte(' '); err != nil {
		return e, err
	}
	if c := p.peek(); c != '"' && c != '{' && c != '~' {
		atom, err := p.atom()
		if err == nil && !strings.EqualFold(atom, "NIL") {
			err = errors.New("value must be a string or NIL")
		}
		return e, err
	}
	if p.peek() == '~' { // literal8: binary values are allowed, RFC 5464 section 5
		p.rest = p.rest[1:]
	}
	v, err := p.astring()
	e.value = &v
	return e, err
}

// notAtom is the complement of ATOM-CHAR (RFC 9051 section 9).
func notAtom(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(){%*"\`, r) }

func (p *argParser) atom() (string, error) {
	n := bytes.IndexFunc(p.rest, notAtom)
	if n < 0 {
		n = len(p.rest)
	}
	if n == 0 {
		return "", errors.New("expected an atom")
	}
	s := string(p.rest[:n])
	p.rest = p.rest[n:]
	return s, nil
}

func (p *argParser) astring() (string, error) {
	switch p.peek() {
	case '"':
		return p.quoted()
	case '{':
		end := bytes.IndexByte(p.rest, '\n')
		if end < 0 {
			return "", errors.New("expected a literal")
		}
		n, _, ok := literalAtEnd(p.rest[:end+1])
		if !ok || n > int64(len(p.rest)-end-1) {
			return "", errors.New("expected a literal")
		}
		s := string(p.rest[end+1 : end+1+int(n)])
		p.rest = p.rest[end+1+int(n):]
		return s, nil
	default:
		return p.atom()
	}
}

func (p *argParser) quoted() (string, error) {
	var s strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return s.String(), nil
		case '\r', '\n', 0:
			return "", errors.New("control character in a quoted string")
		case '\\':
			i++
			if i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				return "", errors.New("bad escape in a quoted string")
			}
			s.WriteByte(p.rest[i])
		default:
			s.WriteByte(c)
		}
	}
	return "", errors.New("quoted string does not end")
}

// literalAtEnd tells whether a line, CRLF included, announces a literal of n bytes; sync says that the
// sender waits for a continuation request first (RFC 9051 section 4.3, RFC 7888).
func literalAtEnd(line []byte) (n int64, sync, ok bool) {
	s := bytes.TrimRight(line, "\r\n")
	if len(s) == len(line) || !bytes.HasSuffix(s, []byte("}")) {
		return 0, false, false
	}
	open := bytes.LastIndexByte(s, '{')
	if open < 0 {
		return 0, false, false
	}
	digits := s[open+1 : len(s)-1]
	sync = true
	if d := bytes.TrimRight(digits, "+-"); len(d) == len(digits)-1 {
		digits, sync = d, false
	}
	v, err := strconv.ParseUint(string(digits), 10, 32)
	if err != nil {
		return 0, false, false
	}
	return int64(v), sync, true
}

package imap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of one response.
const (
	maxLine     = 1 << 20 // bytes outside literals: 100,000 uids that SEARCH found fit in
	maxLiteral  = 1 << 20 // bytes of one literal
	maxResponse = 4 << 20 // bytes of all its literals
	maxDepth    = 32      // lists inside each other
)

var (
	// errSyntax: the server does not speak IMAP. What else it sends cannot be understood either.
	errSyntax = errors.New("malformed response")
	// errTooLong: the response is beyond its bounds.
	errTooLong = fmt.Errorf("%w: too long", errSyntax)
)

// A decoder reads the tokens of RFC 9051 section 9. A method which returns an error may have read a
// part of what it was to read: the connection is of no further use then. No error holds what was read.
type decoder struct {
	r        *bufio.Reader
	line     int // bytes of this response that may yet come outside literals
	literals int // bytes of its literals that may yet come
	depth    int // of lists
}

func newDecoder(r *bufio.Reader) *decoder {
	d := &decoder{r: r}
	d.begin()
	return d
}

// begin opens a new response.
func (d *decoder) begin() { d.line, d.literals, d.depth = maxLine, maxResponse, 0 }

// peek returns the next byte without reading it.
func (d *decoder) peek() (byte, error) {
	b, err := d.r.Peek(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// next reads a byte outside a literal.
func (d *decoder) next() (byte, error) {
	if d.line == 0 {
		return 0, errTooLong
	}
	d.line--
	return d.r.ReadByte()
}

// accept reads the byte if it comes next.
func (d *decoder) accept(want byte) (bool, error) {
	b, err := d.peek()
	if err != nil || b != want {
		return false, err
	}
	_, err = d.next()
	return true, err
}

// expect reads one byte, which must be this.
func (d *decoder) expect(want byte) error {
	b, err := d.next()
	if err == nil && b != want {
		err = errSyntax
	}
	return err
}

func (d *decoder) crlf() error {
	if err := d.expect('\r'); err != nil {
		return err
	}
	return d.expect('\n')
}

// isAtomChar implements ATOM-CHAR. Bytes above 127 are left out too: no server has a reason for them.
func isAtomChar(b byte) bool {
	return b > ' ' && b < 0x7f && strings.IndexByte(`(){%*"\]`, b) < 0
}

// isAtom reports whether s can stand as an atom.
func isAtom(s string) bool {
	for i := range len(s) {
		if !isAtomChar(s[i]) {
			return false
		}
	}
	return s != ""
}

// while reads as long as bytes match, perhaps none.
func (d *decoder) while(match func(byte) bool) (string, error) {
	var s []byte
	for {
		b, err := d.peek()
		if err != nil {
			return "", err
		}
		if !match(b) {
			return string(s), nil
		}
		if _, err := d.next(); err != nil {
			return "", err
		}
		s = append(s, b)
	}
}

// atom reads one or more ATOM-CHAR.
func (d *decoder) atom() (string, error) {
	s, err := d.while(isAtomChar)
	if err == nil && s == "" {
		err = errSyntax
	}
	return s, err
}

// number reads a 32-bit unsigned number.
func (d *decoder) number() (uint32, error) {
	n, err := d.digits(1<<32 - 1)
	return uint32(n), err //nolint:gosec // G115: bounded by the call
}

func (d *decoder) digits(most uint64) (uint64, error) {
	s, err := d.while(func(b byte) bool { return b >= '0' && b <= '9' })
	if err != nil {
		return 0, err
	}
	var n uint64
	for i := range len(s) {
		digit := uint64(s[i] - '0')
		if n > (most-digit)/10 {
			return 0, errTooLong
		}
		n = n*10 + digit
	}
	if s == "" {
		return 0, errSyntax
	}
	return n, nil
}

// until reads text up to the stop byte or the end of the line, either of which it leaves.
func (d *decoder) until(stop byte) (string, error) {
	return d.while(func(b byte) bool { return b != stop && b != '\r' && b != '\n' && b != 0 })
}

// text reads up to the end of the line, which it leaves.
func (d *decoder) text() (string, error) { return d.until('\r') }

// string reads a quoted string or a literal.
func (d *decoder) string() (string, error) {
	switch b, err := d.peek(); {
	case err != nil:
		return "", err
	case b == '"':
		return d.quoted()
	default:
		return d.literal()
	}
}

// astring reads an atom, which may hold "]" here, or a string.
func (d *decoder) astring() (string, error) {
	s, err := d.while(func(b byte) bool { return isAtomChar(b) || b == ']' })
	if err != nil || s != "" {
		return s, err
	}
	return d.string()
}

// nstring reads a string, or NIL: then ok is false. It also takes a literal8 (RFC 9051 section 9),
// which METADATA values may be.
func (d *decoder) nstring() (s string, ok bool, err error) {
	word, err := d.while(isAtomChar)
	switch {
	case err != nil:
		return "", false, err
	case strings.EqualFold(word, "NIL"):
		return "", false, nil
	case word != "" && word != "~": // "~" announces a literal8
		return "", false, errSyntax
	case word == "~":
		s, err = d.literal()
	default:
		s, err = d.string()
	}
	return s, true, err
}

// quoted reads a quoted string. Bytes above 127 are kept: servers send UTF-8 there.
func (d *decoder) quoted() (string, error) {
	if err := d.expect('"'); err != nil {
		return "", err
	}
	var s []byte
	for {
		b, err := d.next()
		if err != nil {
			return "", err
		}
		switch b {
		case '"':
			return string(s), nil
		case '\\':
			if b, err = d.next(); err != nil {
				return "", err
			}
			if b != '"' && b != '\\' {
				return "", errSyntax
			}
		case '\r', '\n', 0:
			return "", errSyntax
		}
		s = append(s, b)
	}
}

// literal reads a literal, header included.
func (d *decoder) literal() (string, error) {
	if err := d.expect('{'); err != nil {
		return "", err
	}
	n, err := d.digits(maxLiteral)
	if err != nil {
		return "", err
	}
	// Servers have no use for the "+", but the grammar of "literal" has it.
	if _, err := d.accept('+'); err != nil {
		return "", err
	}
	if err := d.expect('}'); err != nil {
		return "", err
	}
	if err := d.crlf(); err != nil {
		return "", err
	}
	if d.literals -= int(n); d.literals < 0 { //nolint:gosec // G115: at most maxLiteral
		return "", errTooLong
	}
	s := make([]byte, n)
	if _, err := io.ReadFull(d.r, s); err != nil {
		return "", err
	}
	return string(s), nil
}

// list reads a list in parentheses, possibly empty, its elements parted by single spaces.
func (d *decoder) list(element func() error) error {
	if d.depth++; d.depth > maxDepth {
		return errTooLong
	}
	if err := d.expect('('); err != nil {
		return err
	}
	if done, err := d.accept(')'); err != nil || done {
		d.depth--
		return err
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch b, err := d.next(); {
		case err != nil:
			return err
		case b == ')':
			d.depth--
			return nil
		case b != ' ':
			return errSyntax
		}
	}
}

// skip reads the rest of a response of which nobody knows the grammar: a line, and as long as the
// line ends with the header of a literal, that literal and the next line.
func (d *decoder) skip() error {
	for {
		line, err := d.text()
		if err != nil {
			return err
		}
		if err := d.crlf(); err != nil {
			return err
		}
		n, ok := literalAtEnd(line)
		if !ok {
			return nil
		}
		if d.literals -= n; d.literals < 0 {
			return errTooLong
		}
		if _, err := d.r.Discard(n); err != nil {
			return err
		}
	}
}

// literalAtEnd returns the length in the literal header that the line ends with.
func literalAtEnd(line string) (n int, ok bool) {
	line, ok = strings.CutSuffix(line, "}")
	if !ok {
		return 0, false
	}
	line = strings.TrimSuffix(line, "+")
	digits := 0
	for digits < len(line) && line[len(line)-1-digits] >= '0' && line[len(line)-1-digits] <= '9' {
		digits++
	}
	if digits == 0 || !strings.HasSuffix(line[:len(line)-digits], "{") {
		return 0, false
	}
	for _, b := range line[len(line)-digits:] {
		if n = n*10 + int(b-'0'); n > maxResponse {
			return maxResponse + 1, true
		}
	}
	return n, true
}

// value reads anything that can stand for a value, and forgets it.
func (d *decoder) value() error {
	switch b, err := d.peek(); {
	case err != nil:
		return err
	case b == '(':
		return d.list(d.value)
	case b == '"' || b == '{':
		_, err := d.string()
		return err
	}
	_, ok, err := d.word()
	if err == nil && !ok {
		err = errSyntax
	}
	return err
}

// word reads what stands up to the next space, bracket or line end, as values of other extensions may. It is
// an atom with some more characters; ok is false when nothing is there.
func (d *decoder) word() (s string, ok bool, err error) {
	s, err = d.while(func(b byte) bool { return b > ' ' && b != 0x7f && b != '(' && b != ')' && b != '"' && b != '{' })
	return s, s != "", err
}

// modSeq reads a 63-bit number, which some responses have in brackets (RFC 7162 section 7, "fetch-mod-resp").
func (d *decoder) modSeq() (n uint64, err error) {
	bracket, err := d.accept('(')
	if err != nil {
		return 0, err
	}
	if n, err = d.digits(1<<63 - 1); err != nil || !bracket {
		return n, err
	}
	return n, d.expect(')')
}

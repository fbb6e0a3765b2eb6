package imap

import "strconv"

const (
	// maxQuoted is up to where a string is sent quoted, in bytes; servers bound their lines.
	maxQuoted = 1024
	// maxLiteralMinus bounds a non-synchronising literal under LITERAL- (RFC 7888 section 5), in bytes.
	maxLiteralMinus = 4096
)

// An encoder writes a command in parts. Each part but the last ends with the header of a synchronising
// literal: the next may be sent once the server asks for it (RFC 9051 section 4.3).
type encoder struct {
	parts       [][]byte
	last        []byte
	plus, minus bool // LITERAL+, LITERAL-
}

func newEncoder(plus, minus bool) *encoder { return &encoder{plus: plus, minus: minus} }

// end returns the parts of the command.
func (e *encoder) end() [][]byte { return append(e.parts, append(e.last, "\r\n"...)) }

// text writes bytes as they are. They must be ours.
func (e *encoder) text(s string) { e.last = append(e.last, s...) }

// astring writes a string in its shortest form.
func (e *encoder) astring(s string) {
	if isAtom(s) && len(s) <= maxQuoted && !isNIL(s) {
		e.text(s)
		return
	}
	e.string(s)
}

// isNIL: an atom that some servers would read as nil, whatever the grammar says of an astring.
func isNIL(s string) bool {
	return len(s) == 3 && s[0]|0x20 == 'n' && s[1]|0x20 == 'i' && s[2]|0x20 == 'l'
}

// string writes a quoted string or, where that cannot hold s, a literal. s must not hold NUL.
func (e *encoder) string(s string) {
	if !quotable(s) {
		e.literal(s)
		return
	}
	e.last = append(e.last, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			e.last = append(e.last, '\\')
		}
		e.last = append(e.last, s[i])
	}
	e.last = append(e.last, '"')
}

// quotable reports whether a quoted string may hold s: without UTF8=ACCEPT or IMAP4rev2 that is ASCII.
func quotable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= maxQuoted
}

func (e *encoder) literal(s string) {
	e.text("{" + strconv.Itoa(len(s)))
	if e.plus || e.minus && len(s) <= maxLiteralMinus {
		e.text("+}\r\n")
	} else {
		e.text("}\r\n")
		e.parts = append(e.parts, e.last)
		e.last = nil
	}
	e.text(s)
}

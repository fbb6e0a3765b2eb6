package imap

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Mailbox names are modified UTF-7 on the wire (RFC 3501 section 5.1.3) and UTF-8 here. A name from the wire
// that is not in this form is taken as it is: some servers send raw UTF-8.

// maxName bounds a mailbox name, in bytes.
const maxName = 4096

// base64Name is the alphabet of modified UTF-7.
var base64Name = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

func checkName(name string) error {
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\r\n") {
		return errors.New("malformed mailbox name")
	}
	return nil
}

// encodeName makes modified UTF-7 of a name.
func encodeName(name string) string {
	var b strings.Builder
	var units []byte // UTF-16, big endian, of a run that ASCII cannot say
	flush := func() {
		if len(units) > 0 {
			b.WriteString("&" + base64Name.EncodeToString(units) + "-")
			units = units[:0]
		}
	}
	for _, r := range name {
		if r >= ' ' && r <= '~' {
			flush()
			b.WriteRune(r)
			if r == '&' {
				b.WriteByte('-')
			}
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			units = append(units, byte(u>>8), byte(u)) //nolint:gosec // G115: the two halves
		}
	}
	flush()
	return b.String()
}

// decodeName makes UTF-8 of modified UTF-7.
func decodeName(name string) string {
	var b strings.Builder
	for rest := name; ; {
		plain, shifted, ok := strings.Cut(rest, "&")
		b.WriteString(plain)
		if !ok {
			break
		}
		run, after, ok := strings.Cut(shifted, "-")
		if !ok {
			return name
		}
		rest = after
		if run == "" {
			b.WriteByte('&')
			continue
		}
		raw, err := base64Name.DecodeString(run)
		if err != nil || len(raw)%2 != 0 {
			return name
		}
		units := make([]uint16, len(raw)/2)
		for i := range units {
			units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
		}
		for _, r := range utf16.Decode(units) {
			if r == utf8.RuneError || r < ' ' { // half a pair; and nobody has a line end in a name
				return name
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

// mailbox writes a name.
func (e *encoder) mailbox(name string) { e.astring(encodeName(name)) }

// mailboxName reads a name.
func (d *decoder) mailboxName() (string, error) {
	s, err := d.astring()
	switch {
	case err != nil:
		return "", err
	case len(s) > maxName:
		return "", errTooLong
	case strings.EqualFold(s, "INBOX"):
		return "INBOX", nil
	}
	return strings.ToValidUTF8(decodeName(s), "\uFFFD"), nil
}

package original

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// property is one entry of a .properties file.
type property struct {
	key, value string
	line       int // where the entry begins
}

// parseProperties reads the format of java.util.Properties: comments with # and !, keys that end at =, : or white
// space, \ before a character or a line's end, \uXXXX. What is valid UTF-8 is taken for that, what says that it is UTF-16 for that,
// all else for ISO 8859-1.
// Every text is such a file; what is given twice is returned twice.
func parseProperties(data []byte) []property {
	text := string(data)
	switch order := utf16Order(data); {
	case order != nil:
		text = fromUTF16(data[2:], order)
	case !utf8.ValidString(text):
		text = latin1(data)
	}
	text = strings.TrimPrefix(text, "\ufeff")
	var all []property
	lines := newLines(text)
	for {
		line, at, ok := lines.logical()
		if !ok {
			return all
		}
		key, value := cut(line)
		all = append(all, property{key: unescape(key), value: unescape(value), line: at})
	}
}

// utf16Order is the order of bytes that the mark at the beginning of an UTF-16 file says.
func utf16Order(data []byte) binary.ByteOrder {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		return binary.LittleEndian
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		return binary.BigEndian
	}
	return nil
}

func fromUTF16(data []byte, order binary.ByteOrder) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = order.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}

func latin1(data []byte) string {
	runes := make([]rune, len(data))
	for i, b := range data {
		runes[i] = rune(b)
	}
	return string(runes)
}

// lineReader yields natural and logical lines.
type lineReader struct {
	rest string
	n    int // of the line that was read last
}

func newLines(text string) *lineReader { return &lineReader{rest: text} }

// natural returns the next line without what ends it: \n, \r or both.
func (l *lineReader) natural() (string, bool) {
	if l.rest == "" {
		return "", false
	}
	l.n++
	i := strings.IndexAny(l.rest, "\r\n")
	if i < 0 {
		line := l.rest
		l.rest = ""
		return line, true
	}
	line, end := l.rest[:i], 1
	if l.rest[i] == '\r' && i+1 < len(l.rest) && l.rest[i+1] == '\n' {
		end = 2
	}
	l.rest = l.rest[i+end:]
	return line, true
}

const blank = " \t\f"

// logical returns the next line that is neither blank nor a comment, with those that continue it, and where it began.
func (l *lineReader) logical() (string, int, bool) {
	for {
		line, ok := l.natural()
		if !ok {
			return "", 0, false
		}
		if line = strings.TrimLeft(line, blank); line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		at := l.n
		if !continues(line) {
			return line, at, true
		}
		var b strings.Builder
		for continues(line) {
			b.WriteString(line[:len(line)-1])
			if line, ok = l.natural(); !ok {
				return b.String(), at, true
			}
			line = strings.TrimLeft(line, blank)
		}
		b.WriteString(line)
		return b.String(), at, true
	}
}

// continues reports whether an odd number of backslashes ends the line.
func continues(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// cut parts a logical line at the first =, : or white space that is not escaped; around one = or :, white space
// belongs to neither side.
func cut(line string) (key, value string) {
	i := 0
	for i < len(line) && !strings.ContainsRune("=: \t\f", rune(line[i])) {
		if line[i] == '\\' {
			i++
		}
		i++
	}
	i = min(i, len(line))
	key, value = line[:i], strings.TrimLeft(line[i:], blank)
	if value != "" && (value[0] == '=' || value[0] == ':') {
		value = strings.TrimLeft(value[1:], blank)
	}
	return key, value
}

// unescape resolves backslashes. A \u without four digits, at which Java gives up on the whole file, is a u.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			break
		}
		switch c := s[i]; c {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			r, used := utf16Escape(s[i:])
			if used == 0 {
				b.WriteByte('u')
				continue
			}
			b.WriteRune(r)
			i += used - 1
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// utf16Escape reads uXXXX, or a surrogate pair uXXXX\uXXXX, and says how many bytes that were.
func utf16Escape(s string) (r rune, used int) {
	first, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(first) {
		return first, 5
	}
	if len(s) > 6 && s[5] == '\\' {
		if second, ok := hex4(s[6:]); ok {
			if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
				return r, 11
			}
		}
	}
	return utf8.RuneError, 5
}

// hex4 reads u and four hexadecimal digits.
func hex4(s string) (rune, bool) {
	if len(s) < 5 || s[0] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s[1:5]) {
		d := strings.IndexByte("0123456789abcdef", c|0x20)
		if d < 0 {
			return 0, false
		}
		r = r<<4 | rune(d) //nolint:gosec // less than 16
	}
	return r, true
}

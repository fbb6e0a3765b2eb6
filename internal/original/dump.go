package original

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errDump begins the errors about the form of a dump.
var errDump = errors.New("not a dump that can be read")

// cell is one value of a row.
type cell struct {
	text string
	null bool
}

// rowFunc takes a row of a table. The slices are used again for the next row.
type rowFunc func(table string, columns []string, row []cell) error

// sink is where a dump goes.
type sink struct {
	row rowFunc
	// bad hears of a row that cannot be read; what follows it is read.
	bad func(table string, line int, why string) error
	// known are the columns that CREATE TABLE gave the tables, in this dump and those before it.
	known map[string][]string
}

// sqlDump reads what mysqldump writes: of CREATE TABLE the columns, of INSERT and REPLACE the rows; all else is passed
// over. It holds one row at a time.
type sqlDump struct {
	sink
	in     *bufio.Reader
	line   int
	wanted func(table string) bool
	// named tells a dump by mysqldump's own first comment, which begins it; ended, by the one that ends it.
	named, ended bool
	// passing says that what is read has no use, so none of it is kept.
	passing bool
	// long says that a value was longer than one may be, and was cut.
	long bool
}

// readSQL calls row for each row of the tables that are wanted. Rows of tables that neither name their columns nor
// were created before are an error. It reports whether the dump has the beginning of a whole one and not its end.
func readSQL(in io.Reader, wanted func(table string) bool, to sink) (cutOff bool, err error) {
	d := &sqlDump{sink: to, in: bufio.NewReaderSize(in, 64<<10), line: 1, wanted: wanted}
	for {
		word, err := d.token()
		if errors.Is(err, io.EOF) {
			return d.named && !d.ended, nil
		} else if errors.Is(err, errDamaged) {
			continue
		} else if err != nil {
			return false, err
		}
		switch strings.ToUpper(word.text) {
		case "INSERT", "REPLACE":
			err = d.insert()
		case "CREATE":
			err = d.create()
		case "DELIMITER":
			err = d.routines()
		case ";":
		default:
			err = d.skip()
		}
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errDamaged) {
			return false, err
		}
	}
}

// errDamaged says that a quoted text went over the end of a line, which mysqldump does not let one do: it writes \n. The next
// line is where reading goes on.
var errDamaged = errors.New("a quote is not closed on its line")

func (d *sqlDump) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", errDump, d.line, fmt.Sprintf(format, args...))
}

// token is a word, a quoted text or name, or one character.
type token struct {
	text   string
	kind   byte // 'w' word, 's' text, 'n' quoted name, 0 a character
	number bool
}

func (d *sqlDump) read() (byte, error) {
	c, err := d.in.ReadByte()
	if c == '\n' {
		d.line++
	}
	return c, err
}

func (d *sqlDump) unread(c byte) {
	_ = d.in.UnreadByte() // follows a read
	if c == '\n' {
		d.line--
	}
}

func (d *sqlDump) peek() byte {
	b, err := d.in.Peek(1)
	if err != nil {
		return 0
	}
	return b[0]
}

// token returns the next one; io.EOF at the end.
func (d *sqlDump) token() (token, error) {
	for {
		c, err := d.read()
		switch {
		case err != nil:
			return token{}, err
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			continue
		case c == '#', c == '-' && d.peek() == '-':
			_, err = d.toLineEnd()
		case c == '/' && d.peek() == '*':
			err = d.comment()
		case c == '\'' || c == '"':
			text, err := d.quoted(c, true)
			return token{text: text, kind: 's'}, err
		case c == '`':
			text, err := d.quoted(c, false)
			return token{text: text, kind: 'n'}, err
		case wordByte(c):
			return d.word(c)
		default:
			return token{text: string(rune(c))}, nil
		}
		if err != nil {
			return token{}, err
		}
	}
}

func wordByte(c byte) bool {
	return c == '_' || c == '$' || c == '.' || c == '-' || c == '+' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

func (d *sqlDump) word(first byte) (token, error) {
	b := []byte{first}
	for {
		c, err := d.read()
		if err != nil {
			break // the end of the dump, or what the next token reports
		}
		if !wordByte(c) {
			d.unread(c)
			break
		}
		b = d.keep(b, c, 2*maxValue)
	}
	return token{text: string(b), kind: 'w', number: b[0] >= '0' && b[0] <= '9' || b[0] == '-' || b[0] == '+'}, nil
}

// keep appends a byte of a value that has a use, up to a bound.
func (d *sqlDump) keep(b []byte, c byte, most int) []byte {
	if len(b) >= most {
		d.long = true
		return b
	}
	if d.passing && len(b) >= 64 { // enough to tell a keyword
		return b
	}
	return append(b, c)
}

// toLineEnd passes over the rest of a line, and returns its beginning.
func (d *sqlDump) toLineEnd() (string, error) {
	const enough = 40
	var b []byte
	for {
		c, err := d.read()
		if len(b) < enough && err == nil {
			b = append(b, c)
		}
		if err != nil || c == '\n' {
			switch text := strings.TrimLeft(string(b), "- "); {
			case strings.HasPrefix(text, "MySQL dump "), strings.HasPrefix(text, "MariaDB dump "):
				d.named, d.ended = true, false
			case strings.HasPrefix(text, "Dump completed"):
				d.ended = true
			}
			return string(b), err
		}
	}
}

// routines passes over stored procedures and the like, whose statements another word ends than ";".
func (d *sqlDump) routines() error {
	mark, err := d.toLineEnd()
	for err == nil && strings.TrimSpace(mark) != ";" {
		var line string
		if line, err = d.toLineEnd(); len(line) > 9 && strings.EqualFold(line[:9], "DELIMITER") {
			mark = line[9:]
		}
	}
	return err
}

func (d *sqlDump) comment() error {
	at, last := d.line, byte(0)
	_, _ = d.read() // the star
	for {
		c, err := d.read()
		if err != nil {
			return d.ends(err, at, "a comment does not end")
		}
		if last == '*' && c == '/' {
			return nil
		}
		last = c
	}
}

// ends is the error of a dump that ends, or cannot be read on, in the midst of something that began at a line.
func (d *sqlDump) ends(err error, line int, what string) error {
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	}
	return fmt.Errorf("%w: line %d: %s: it is cut off, so make it again", errDump, line, what)
}

// quoted reads on to the quote that ends a text. Doubled it is one; a backslash is one of MySQL's escapes.
func (d *sqlDump) quoted(quote byte, escapes bool) (string, error) {
	var b []byte
	at := d.line
	for {
		c, err := d.read()
		if err != nil {
			return "", d.ends(err, at, "a quote is never closed")
		}
		switch {
		case c == quote:
			if d.peek() != quote {
				return string(b), nil
			}
			_, _ = d.read()
		case c == '\n' && d.named:
			return "", errDamaged
		case c == '\\' && escapes:
			if c, err = d.read(); err != nil {
				return "", d.ends(err, at, "a quote is never closed")
			}
			c = unescapeMySQL(c)
		}
		b = d.keep(b, c, maxValue)
	}
}

// unescapeMySQL is what a character after a backslash stands for.
func unescapeMySQL(c byte) byte {
	switch c {
	case '0':
		return 0
	case 'b':
		return '\b'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'Z':
		return 26
	}
	return c
}

// skip reads on to the end of a statement.
func (d *sqlDump) skip() error {
	d.passing = true
	defer func() { d.passing, d.long = false, false }()
	for {
		if t, err := d.token(); err != nil || t.kind == 0 && t.text == ";" {
			return err
		}
	}
}

// name reads the name of a table, of which that of its database is dropped.
func (d *sqlDump) name(first token) string {
	name := first.text
	if first.kind == 'w' {
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			name = name[i+1:]
		}
	}
	if d.peek() == '.' { // `db`.`table`; ".table" would be one word
		t, err := d.token()
		if err == nil && t.text == "." {
			t, err = d.token()
		}
		if err == nil {
			name = strings.TrimPrefix(t.text, ".")
		}
	}
	return name
}

// create takes the columns of CREATE TABLE.
func (d *sqlDump) create() error {
	t, err := d.token()
	if err != nil {
		return err
	}
	if !strings.EqualFold(t.text, "TABLE") {
		return d.rest(t)
	}
	for {
		if t, err = d.token(); err != nil {
			return err
		}
		if u := strings.ToUpper(t.text); t.kind != 'w' || u != "IF" && u != "NOT" && u != "EXISTS" {
			break
		}
	}
	table := d.name(t)
	if t, err = d.token(); err != nil || t.text != "(" || t.kind != 0 {
		return errors.Join(err, d.rest(t))
	}
	if !d.wanted(table) {
		return d.skip()
	}
	var columns []string
	depth, first := 1, true
	for {
		if t, err = d.token(); err != nil {
			return err
		}
		switch {
		case t.kind == 0 && t.text == "(":
			depth++
		case t.kind == 0 && t.text == ")":
			depth--
		case t.kind == 0 && t.text == "," && depth == 1:
			first = true
			continue
		case first && (t.kind == 'n' || t.kind == 's' || t.kind == 'w' && !keyWord(t.text)): // 's': "name", as --compatible=ansi has it
			columns = append(columns, t.text)
		}
		first = false
		if depth == 0 || len(columns) > maxColumns {
			break
		}
	}
	d.known[table] = columns
	return d.skip()
}

// keyWord tells what begins a line of CREATE TABLE that is no column.
func keyWord(word string) bool {
	switch strings.ToUpper(word) {
	case "PRIMARY", "KEY", "UNIQUE", "INDEX", "CONSTRAINT", "FOREIGN", "CHECK", "FULLTEXT", "SPATIAL":
		return true
	}
	return false
}

// rest reads on to the end of a statement of which t is already read.
func (d *sqlDump) rest(t token) error {
	if t.kind == 0 && t.text == ";" {
		return nil
	}
	return d.skip()
}

// clip shortens a word of a foreign file for a message.
func clip(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s), "?")
}

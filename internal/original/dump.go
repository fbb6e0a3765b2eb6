package original

import (
	"bufio"
	"encoding/hex"
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

// sqlDump reads what mysqldump writes: of CREATE TABLE the columns, of INSERT and REPLACE the rows; all else is passed
// over. It holds one row at a time.
type sqlDump struct {
	in      *bufio.Reader
	line    int
	wanted  func(table string) bool
	row     rowFunc
	columns map[string][]string // of CREATE TABLE
}

// readSQL calls row for each row of the tables that are wanted. Rows of tables that neither name their columns nor
// were created before are an error.
func readSQL(in io.Reader, wanted func(table string) bool, row rowFunc) error {
	d := &sqlDump{in: bufio.NewReaderSize(in, 64<<10), line: 1, wanted: wanted, row: row, columns: map[string][]string{}}
	for {
		word, err := d.token()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch strings.ToUpper(word.text) {
		case "INSERT", "REPLACE":
			err = d.insert()
		case "CREATE":
			err = d.create()
		case ";":
		default:
			err = d.skip()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

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
		case c == '#':
			err = d.toLineEnd()
		case c == '-' && d.peek() == '-':
			err = d.toLineEnd()
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
		if b = append(b, c); len(b) > 2*maxValue {
			return token{}, d.errorf("a word of more than %d bytes", 2*maxValue)
		}
	}
	return token{text: string(b), kind: 'w', number: b[0] >= '0' && b[0] <= '9' || b[0] == '-' || b[0] == '+'}, nil
}

func (d *sqlDump) toLineEnd() error {
	for {
		if c, err := d.read(); err != nil || c == '\n' {
			return err
		}
	}
}

func (d *sqlDump) comment() error {
	last := byte(0)
	for {
		c, err := d.read()
		if err != nil {
			return d.errorf("a comment does not end")
		}
		if last == '*' && c == '/' {
			return nil
		}
		last = c
	}
}

// quoted reads on to the quote that ends a text. Doubled it is one; a backslash is one of MySQL's escapes.
func (d *sqlDump) quoted(quote byte, escapes bool) (string, error) {
	var b []byte
	for {
		c, err := d.read()
		if err != nil {
			return "", d.errorf("a quote is never closed")
		}
		switch {
		case c == quote:
			if d.peek() != quote {
				return string(b), nil
			}
			_, _ = d.read()
		case c == '\\' && escapes:
			if c, err = d.read(); err != nil {
				return "", d.errorf("a quote is never closed")
			}
			c = unescapeMySQL(c)
		}
		if b = append(b, c); len(b) > maxValue {
			return "", d.errorf("a value of more than %d bytes", maxValue)
		}
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
		case first && (t.kind == 'n' || t.kind == 'w' && !keyWord(t.text)):
			columns = append(columns, t.text)
		}
		first = false
		if depth == 0 || len(columns) > maxColumns {
			break
		}
	}
	d.columns[table] = columns
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

// insert calls row for each row of INSERT INTO table (columns) VALUES (…), (…);
func (d *sqlDump) insert() error {
	t, err := d.token()
	for err == nil && t.kind == 'w' && modifier(t.text) {
		t, err = d.token()
	}
	if err != nil || t.kind == 0 {
		return errors.Join(err, d.rest(t))
	}
	table := d.name(t)
	if !d.wanted(table) {
		return d.skip()
	}
	if t, err = d.token(); err != nil {
		return err
	}
	columns := d.columns[table]
	if t.kind == 0 && t.text == "(" {
		if columns, err = d.list(); err == nil {
			t, err = d.token()
		}
		if err != nil {
			return err
		}
	}
	if u := strings.ToUpper(t.text); u != "VALUES" && u != "VALUE" {
		return d.errorf("INSERT INTO %s: VALUES expected", clip(table))
	}
	if columns == nil {
		return d.errorf("INSERT INTO %s names no columns, and no CREATE TABLE came before: make the dump with --complete-insert", clip(table))
	}
	row := make([]cell, 0, len(columns))
	for {
		if t, err = d.token(); err != nil {
			return err
		}
		switch {
		case t.kind == 0 && t.text == ";":
			return nil
		case t.kind == 0 && t.text == ",":
			continue
		case t.kind != 0 || t.text != "(":
			return d.skip() // ON DUPLICATE KEY UPDATE
		}
		if row, err = d.values(row[:0]); err != nil {
			return err
		}
		if len(row) != len(columns) {
			return d.errorf("a row of %s has %d values for %d columns", clip(table), len(row), len(columns))
		}
		if err := d.row(table, columns, row); err != nil {
			return err
		}
	}
}

func modifier(word string) bool {
	switch strings.ToUpper(word) {
	case "LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO":
		return true
	}
	return false
}

// list reads the names of columns up to ")".
func (d *sqlDump) list() (names []string, err error) {
	for {
		t, err := d.token()
		switch {
		case errors.Is(err, io.EOF):
			return nil, d.errorf("it ends within a list of columns")
		case err != nil:
			return nil, err
		case t.kind == 0 && t.text == ")":
			return names, nil
		case t.kind == 0 && t.text == ",":
		case len(names) == maxColumns:
			return nil, d.errorf("more than %d columns", maxColumns)
		default:
			names = append(names, t.text)
		}
	}
}

// values reads the values of a row up to ")".
func (d *sqlDump) values(row []cell) ([]cell, error) {
	for {
		c, end, err := d.value()
		if err != nil {
			return nil, err
		}
		if row = append(row, c); len(row) > maxColumns {
			return nil, d.errorf("more than %d values in a row", maxColumns)
		}
		if end {
			return row, nil
		}
	}
}

// value reads one value with the "," or ")" after it.
func (d *sqlDump) value() (c cell, end bool, err error) {
	depth, prefix := 0, ""
	for {
		t, err := d.token()
		if errors.Is(err, io.EOF) {
			return cell{}, false, d.errorf("it ends within a row")
		} else if err != nil {
			return cell{}, false, err
		}
		switch {
		case t.kind == 0 && t.text == "," && depth == 0:
			return c, false, nil
		case t.kind == 0 && t.text == ")" && depth == 0:
			return c, true, nil
		case t.kind == 0 && t.text == "(":
			depth++
		case t.kind == 0 && t.text == ")":
			depth--
		case depth > 0: // a function, such as from_base64: not what mysqldump writes
		case t.kind == 's' && strings.EqualFold(prefix, "x"):
			raw, err := hex.DecodeString(t.text)
			if err != nil {
				return cell{}, false, d.errorf("a value in hexadecimal is damaged")
			}
			c = cell{text: string(raw)}
		case t.kind == 's':
			c = cell{text: t.text}
		case strings.EqualFold(t.text, "NULL"):
			c = cell{null: true}
		case t.number && len(t.text) > 2 && (strings.HasPrefix(t.text, "0x") || strings.HasPrefix(t.text, "0X")):
			raw, err := hex.DecodeString(t.text[2:])
			if err != nil {
				return cell{}, false, d.errorf("a value in hexadecimal is damaged")
			}
			c = cell{text: string(raw)}
		default:
			c = cell{text: t.text}
		}
		prefix = t.text
		if t.kind == 's' {
			prefix = ""
		}
	}
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

package original

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// readTSV reads what "mysql --batch" prints: a line of column names, then a line for each row, with \t, \n, \\ and \0
// for what would part them, and NULL; or, when the columns are given, what "mysqldump --tab" writes beside each CREATE
// TABLE: the rows alone, with a backslash before what would part them, and \N.
func readTSV(in io.Reader, columns []string, name string, table func(columns []string) string, to sink) error {
	lines := &tsvLines{in: bufio.NewReaderSize(in, 64<<10)}
	cells := make([]cell, 0, maxColumns)
	for {
		at := lines.n + 1
		line, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errLong):
			if name == "" {
				return fmt.Errorf("%w: line %d has more than %d bytes", errDump, at, maxValue)
			}
			if err := to.bad(name, at, err.Error()); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read: %w", err)
		}
		fields := splitTSV(line)
		if columns == nil {
			fields[0] = strings.TrimPrefix(fields[0], "\ufeff")
			if columns, name = fields, table(fields); name == "" {
				return noHead()
			}
			continue
		}
		cells = cells[:0]
		for _, f := range fields[:min(len(fields), maxColumns)] {
			cells = append(cells, cell{text: unescapeTSV(f), null: f == "NULL" || f == `\N`})
		}
		if err := to.take(name, at, columns, cells, len(fields)); err != nil {
			return err
		}
	}
}

func noHead() error {
	return fmt.Errorf("%w: the first line does not name the columns of a table that is known here", errDump)
}

// take is row, or bad for one that has not a value for each column.
func (s sink) take(table string, line int, columns []string, cells []cell, n int) error {
	if n != len(columns) || len(cells) != n {
		return s.bad(table, line, fmt.Sprintf("it has %d values for %d columns", n, len(columns)))
	}
	return s.row(table, columns, cells)
}

// tsvLines are lines of which one goes on after a backslash at its end.
type tsvLines struct {
	in *bufio.Reader
	n  int // lines that were read
}

var errLong = fmt.Errorf("it has more than %d bytes", maxValue)

func (l *tsvLines) next() (string, error) {
	var b []byte
	long := false
	for {
		part, err := l.in.ReadSlice('\n')
		if long = long || len(b)+len(part) > maxValue; !long {
			b = append(b, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(b) > 0, err == nil:
		default:
			return "", err
		}
		l.n++
		if line := bytes.TrimSuffix(b, []byte("\n")); err == nil && !long && len(line) < len(b) && continues(string(line[max(0, len(line)-64):])) {
			continue
		}
		if long {
			return "", errLong
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
	}
}

// splitTSV parts a line at its tabs that have no backslash before them.
func splitTSV(line string) (fields []string) {
	from := 0
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '\t':
			fields = append(fields, line[from:i])
			from = i + 1
		}
	}
	return append(fields, line[from:])
}

func unescapeTSV(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
			b.WriteByte(unescapeMySQL(s[i]))
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// readCSV reads comma-separated values (RFC 4180) whose first line names the columns; they may be parted by ";" as well,
// as a spreadsheet does where the comma is in numbers.
func readCSV(in io.Reader, comma rune, table func(columns []string) string, to sink) error {
	r := csv.NewReader(bufio.NewReaderSize(in, 64<<10))
	r.ReuseRecord, r.FieldsPerRecord, r.Comma = true, -1, comma
	var columns []string
	var name string
	cells := make([]cell, 0, maxColumns)
	for {
		fields, err := r.Read()
		wrong, inLine := errors.AsType[*csv.ParseError](err)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case inLine && name != "":
			if err := to.bad(name, wrong.StartLine, "it is no CSV: "+wrong.Err.Error()); err != nil {
				return err
			}
			continue
		case inLine:
			return fmt.Errorf("%w: %w", errDump, err)
		case err != nil:
			return fmt.Errorf("read: %w", err)
		}
		if columns == nil {
			for _, f := range fields {
				columns = append(columns, strings.TrimSpace(strings.TrimPrefix(f, "\ufeff")))
			}
			if name = table(columns); name == "" {
				return noHead()
			}
			continue
		}
		cells = cells[:0]
		for _, f := range fields[:min(len(fields), maxColumns)] {
			cells = append(cells, cell{text: f, null: f == "NULL" || f == `\N`})
		}
		line, _ := r.FieldPos(0)
		if err := to.take(name, line, columns, cells, len(fields)); err != nil {
			return err
		}
	}
}

// foreign are beginnings of files that are no dump as they are, and what to do about it.
var foreign = []struct{ magic, what string }{
	{"\x1f\x8b", "it is compressed twice: unpack it first"},
	{"BZh", "it is compressed with bzip2: unpack it first, or compress it with gzip"},
	{"\xfd7zXZ", "it is compressed with xz: unpack it first, or compress it with gzip"},
	{"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first, or compress it with gzip"},
	{"PK\x03\x04", "it is a zip archive: unpack it first"},
	{"\xff\xfe", "it is in UTF-16, as a redirection of PowerShell makes it: make it with mysqldump --result-file"},
	{"\xfe\xff", "it is in UTF-16: make it with mysqldump --result-file"},
	{"<?xml", "it is XML: make it without --xml"},
}

// statement is what SQL begins with.
var statement = regexp.MustCompile(`(?i)^\s*(--|/\*|#|(create|insert|replace|drop|lock|set|use|start|begin)\s)`)

// readDump reads a dump in the form that its beginning shows: SQL, tabs or commas. name is the file's, which names the
// table when it is that of one. It reports whether the dump is without its end.
func readDump(in io.Reader, name string, to sink) (cutOff bool, err error) {
	r := bufio.NewReaderSize(in, 64<<10)
	head, err := r.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return false, fmt.Errorf("read: %w", err)
	}
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return false, fmt.Errorf("%w: %s", errDump, f.what)
		}
	}
	if bytes.HasPrefix(head, []byte("\ufeff")) {
		head = head[3:]
		_, _ = r.Discard(3) // it is there
	}
	first, _, _ := strings.Cut(string(head), "\n")
	table := func(columns []string) string { return tableOf(name, columns) }
	switch of := tableOf(name, []string{"cid"}); {
	case len(head) == 0:
		return false, nil
	case names(strings.Split(strings.TrimSpace(first), "\t")):
		return false, readTSV(r, nil, "", table, to)
	case names(splitHead(first, ",")):
		return false, readCSV(r, ',', table, to)
	case names(splitHead(first, ";")):
		return false, readCSV(r, ';', table, to)
	case of != "" && bytes.ContainsRune(head, '\t') && !strings.HasSuffix(name, ".sql") && !statement.Match(head):
		columns := to.known[of]
		if columns == nil {
			return false, fmt.Errorf("%w: nothing says which columns it has: give %s.sql, which mysqldump --tab makes beside it, in a --dump before it", errDump, of)
		}
		return false, readTSV(r, columns, of, table, to)
	}
	return readSQL(r, func(table string) bool { return tables[table] != nil }, to)
}

// names reports whether a line is the names of columns, and of more than one.
func names(fields []string) bool {
	return len(fields) > 1 && !slices.ContainsFunc(fields, func(f string) bool {
		return f == "" || f[0] >= '0' && f[0] <= '9' || strings.ContainsFunc(f, func(c rune) bool { return c >= 0x80 || c == '.' || c == '-' || c == '+' || !wordByte(byte(c)) }) //nolint:gosec // ASCII
	})
}

func splitHead(line, comma string) []string {
	fields := strings.Split(strings.TrimSpace(line), comma)
	for i, f := range fields {
		fields[i] = strings.Trim(f, ` "`)
	}
	return fields
}

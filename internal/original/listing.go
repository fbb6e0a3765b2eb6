package original

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// readTSV reads what "mysql --batch" prints: a line of column names, then a line for each row, with \t, \n, \\ and \0
// for what would part them, and NULL.
func readTSV(in io.Reader, table func(columns []string) string, row rowFunc) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxValue)
	var columns []string
	var name string
	cells := make([]cell, 0, maxColumns)
	n := 0
	for lines.Scan() {
		n++
		fields := strings.Split(strings.TrimSuffix(lines.Text(), "\r"), "\t")
		if len(fields) > maxColumns {
			return fmt.Errorf("%w: line %d has more than %d values", errDump, n, maxColumns)
		}
		if columns == nil {
			if columns, name = fields, table(fields); name == "" {
				return fmt.Errorf("%w: the first line does not name the columns of a table that is known here", errDump)
			}
			continue
		}
		if len(fields) != len(columns) {
			return fmt.Errorf("%w: line %d has %d values for %d columns", errDump, n, len(fields), len(columns))
		}
		cells = cells[:0]
		for _, f := range fields {
			cells = append(cells, cell{text: unescapeTSV(f), null: f == "NULL"})
		}
		if err := row(name, columns, cells); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%w: line %d has more than %d bytes", errDump, n+1, maxValue)
	} else if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
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

// readCSV reads comma-separated values (RFC 4180) whose first line names the columns.
func readCSV(in io.Reader, table func(columns []string) string, row rowFunc) error {
	r := csv.NewReader(bufio.NewReaderSize(in, 64<<10))
	r.ReuseRecord = true
	var columns []string
	var name string
	cells := make([]cell, 0, maxColumns)
	for {
		fields, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errDump, err)
		case len(fields) > maxColumns:
			return fmt.Errorf("%w: more than %d values in a line", errDump, maxColumns)
		}
		if columns == nil {
			for _, f := range fields {
				columns = append(columns, strings.TrimSpace(strings.TrimPrefix(f, "\ufeff")))
			}
			if name = table(columns); name == "" {
				return fmt.Errorf("%w: the first line does not name the columns of a table that is known here", errDump)
			}
			continue
		}
		cells = cells[:0]
		for _, f := range fields {
			cells = append(cells, cell{text: f, null: f == "NULL" || f == `\N`})
		}
		if err := row(name, columns, cells); err != nil {
			return err
		}
	}
}

// readDump reads a dump in the form that its beginning shows: SQL, tabs or commas. name is the file's, which names the
// table when it is that of one.
func readDump(in io.Reader, name string, row rowFunc) error {
	r := bufio.NewReaderSize(in, 64<<10)
	head, err := r.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("read: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(string(head), "\ufeff"), "\n")
	table := func(columns []string) string { return tableOf(name, columns) }
	switch {
	case len(head) == 0:
		return nil
	case names(strings.Split(strings.TrimSpace(first), "\t")):
		return readTSV(r, table, row)
	case names(splitHead(first)):
		return readCSV(r, table, row)
	}
	return readSQL(r, func(table string) bool { return tables[table] != nil }, row)
}

// names reports whether a line is the names of columns, and of more than one.
func names(fields []string) bool {
	return len(fields) > 1 && !slices.ContainsFunc(fields, func(f string) bool {
		return f == "" || strings.ContainsFunc(f, func(c rune) bool { return c >= 0x80 || c == '.' || c == '-' || c == '+' || !wordByte(byte(c)) }) //nolint:gosec // ASCII
	})
}

func splitHead(line string) []string {
	fields := strings.Split(strings.TrimSpace(line), ",")
	for i, f := range fields {
		fields[i] = strings.Trim(f, ` "`)
	}
	return fields
}

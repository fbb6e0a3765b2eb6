package original

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

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
	columns := d.known[table]
	if t.kind == 0 && t.text == "(" {
		if columns, err = d.list(); err == nil {
			t, err = d.token()
		}
		if err != nil {
			return err
		}
	}
	if u := strings.ToUpper(t.text); u != "VALUES" && u != "VALUE" {
		return errors.Join(d.bad(table, d.line, "INSERT without VALUES is not read"), d.rest(t))
	}
	if columns == nil {
		return d.errorf("INSERT INTO %s names no columns, and no CREATE TABLE came before: make the dump with --complete-insert", clip(table))
	}
	row, more := make([]cell, 0, len(columns)), true
	for {
		t, err := d.token()
		switch {
		case errors.Is(err, io.EOF) && more:
			return d.ends(err, d.line, "it ends within INSERT INTO "+clip(table))
		case err != nil:
			return err
		case t.kind == 0 && t.text == ";":
			return nil
		case t.kind == 0 && t.text == ",":
			more = true
			continue
		case t.kind != 0 || t.text != "(":
			return d.skip() // ON DUPLICATE KEY UPDATE
		}
		more = false
		at, why := d.line, ""
		d.long = false
		row, err = d.values(row[:0])
		goesOn := err == nil
		switch {
		case errors.Is(err, errStatement), errors.Is(err, errDamaged):
			why = err.Error()
			goesOn = errors.Is(err, errDamaged) && d.peek() == '(' // a dump with a row on each line
		case errors.Is(err, errHex):
			why, goesOn = err.Error(), true
		case err != nil:
			return err
		case d.long:
			why = fmt.Sprintf("a value has more than %d bytes", maxValue)
		case len(row) != len(columns):
			why = fmt.Sprintf("it has %d values for %d columns", len(row), len(columns))
		}
		if why == "" {
			err = d.row(table, columns, row)
		} else {
			err = d.bad(table, at, why)
		}
		if err != nil || !goesOn {
			return err
		}
	}
}

// What keeps one row of a dump from being read.
var (
	errStatement = errors.New("its statement ends within it")
	errHex       = errors.New("a value in hexadecimal is damaged")
)

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

// values reads the values of a row up to ")". The first thing wrong is returned when the row is read.
func (d *sqlDump) values(row []cell) ([]cell, error) {
	var wrong error
	at := d.line
	for {
		c, end, err := d.value(at)
		switch {
		case errors.Is(err, errHex):
			wrong = err
		case err != nil:
			return row, err
		}
		if len(row) <= maxColumns {
			row = append(row, c)
		}
		if end {
			return row, wrong
		}
	}
}

// value reads one value with the "," or ")" after it.
func (d *sqlDump) value(at int) (c cell, end bool, wrong error) {
	depth, prefix := 0, ""
	for {
		t, err := d.token()
		if errors.Is(err, io.EOF) {
			return cell{}, false, d.ends(err, at, "it ends within a row")
		} else if err != nil {
			return cell{}, false, err
		}
		switch {
		case t.kind == 0 && t.text == "," && depth == 0:
			return c, false, wrong
		case t.kind == 0 && t.text == ")" && depth == 0:
			return c, true, wrong
		case t.kind == 0 && t.text == ";":
			return cell{}, false, errStatement
		case t.kind == 0 && t.text == "(":
			depth++
		case t.kind == 0 && t.text == ")":
			depth--
		case depth > 0: // a function, such as from_base64: not what mysqldump writes
		case t.kind == 's' && strings.EqualFold(prefix, "x"):
			c, wrong = unhex(t.text)
		case t.kind == 's':
			c = cell{text: t.text}
		case strings.EqualFold(t.text, "NULL"):
			c = cell{null: true}
		case t.number && len(t.text) > 2 && (strings.HasPrefix(t.text, "0x") || strings.HasPrefix(t.text, "0X")):
			c, wrong = unhex(t.text[2:])
		default:
			c = cell{text: t.text}
		}
		prefix = t.text
		if t.kind == 's' {
			prefix = ""
		}
	}
}

func unhex(text string) (cell, error) {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return cell{}, errHex
	}
	return cell{text: string(raw)}, nil
}

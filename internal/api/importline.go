package api

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// maxImportLine bounds one line, in bytes.
const maxImportLine = 16 << 10

// userLine is a user as a line says him.
type userLine struct {
	context     int64 // 0 for one that is named
	contextName string
	id          int64 // 0 for the one with the login, or the next
	login       string
	mailhost    string
}

// userLines reads lines, each of which stands for a user. It knows nothing of what there is.
type userLines struct {
	in      *bufio.Reader
	number  int
	columns []string // of CSV; nil for JSON lines
	csv     *csv.Reader
	feed    *feed
}

// importColumns are what a line may have.
var importColumns = []string{"context", "user", "login", "mailhost"}

// newUserLines reads the header of CSV.
func newUserLines(in *bufio.Reader, media string) (*userLines, error) {
	l := &userLines{in: in}
	if media == mediaLines {
		return l, nil
	}
	header, err := l.line()
	if bytes.HasPrefix(header, []byte("\xff\xfe")) || bytes.HasPrefix(header, []byte("\xfe\xff")) {
		return nil, &tenant.InvalidError{Field: "body", Problem: "is in UTF-16: save it as CSV in UTF-8"}
	}
	comma := ""
	if first := bytes.TrimPrefix(header, []byte("\ufeff")); err == nil && len(first) == 5 && bytes.HasPrefix(first, []byte("sep=")) { // a spreadsheet's own
		comma = string(first[4:])
		header, err = l.line()
	}
	if errors.Is(err, io.EOF) {
		return nil, &tenant.InvalidError{Field: "body", Problem: "is empty: the first line names the columns, as context,user,login,mailhost"}
	} else if err != nil {
		return nil, err
	}
	header = bytes.TrimPrefix(header, []byte("\ufeff"))
	l.feed = &feed{}
	l.csv = csv.NewReader(l.feed)
	l.csv.FieldsPerRecord = -1
	l.csv.TrimLeadingSpace = true
	switch { // as spreadsheets write it
	case comma == ";", comma == "" && bytes.ContainsRune(header, ';') && !bytes.ContainsRune(header, ','):
		l.csv.Comma = ';'
	case comma == "\t", comma == "" && bytes.ContainsRune(header, '\t') && !bytes.ContainsRune(header, ','):
		l.csv.Comma, l.csv.TrimLeadingSpace = '\t', false
	}
	names, err := l.record(header)
	if err != nil {
		return nil, &tenant.InvalidError{Field: "body", Problem: "is not CSV: the first line names the columns, as context,user,login,mailhost; for JSON lines say so"}
	}
	for _, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(importColumns, name) || slices.Contains(l.columns, name) {
			return nil, &tenant.InvalidError{
				Field: "body", Problem: fmt.Sprintf("the first line has the column %q: it names each of context, user, login and mailhost once, user may be left out", name),
			}
		}
		l.columns = append(l.columns, name)
	}
	for _, name := range []string{"login", "mailhost"} {
		if !slices.Contains(l.columns, name) {
			return nil, &tenant.InvalidError{Field: "body", Problem: "the first line names no column " + name}
		}
	}
	return l, nil
}

// line reads one line. One that is too long is passed over and returned as an *InvalidError.
func (l *userLines) line() ([]byte, error) {
	l.number++
	line, err := l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.in.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, &tenant.InvalidError{Field: "line", Problem: "has more than 16 KiB"}
	}
	if len(line) == 0 && err != nil {
		return nil, err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// feed gives a CSV reader one line at a time, so that a quotation mark that is missing costs no other line.
type feed struct{ line []byte }

func (f *feed) Read(p []byte) (int, error) {
	if len(f.line) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.line)
	f.line = f.line[n:]
	return n, nil
}

func (l *userLines) record(line []byte) ([]string, error) {
	l.feed.line = line
	record, err := l.csv.Read()
	if err != nil {
		return nil, &tenant.InvalidError{Field: "line", Problem: "is not CSV: a value with a comma or a quotation mark stands in quotation marks, and those in it are doubled"}
	}
	return record, nil
}

// next reads the next user and the number of his line; *tenant.InvalidError for a line that says none, io.EOF at the
// end. Empty lines are passed over, and those that only have commas.
func (l *userLines) next() (userLine, int, error) {
	for {
		line, err := l.line()
		if err != nil {
			return userLine{}, l.number, err
		}
		if len(bytes.TrimSpace(line)) == 0 || l.csv != nil && len(bytes.Trim(line, " \t"+string(l.csv.Comma))) == 0 {
			continue // or a row of a spreadsheet without a value
		}
		if !utf8.Valid(line) {
			return userLine{}, l.number, &tenant.InvalidError{Field: "line", Problem: "is not in UTF-8: save the file as CSV in UTF-8"}
		}
		u, err := l.parse(line)
		return u, l.number, err
	}
}

func (l *userLines) parse(line []byte) (userLine, error) {
	var v struct{ Context, User, Login, MailHost any }
	if l.csv == nil {
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok { // it has no type
				return userLine{}, &tenant.InvalidError{Field: "line", Problem: "has no member " + name + ": there are context, user, login and mailhost"}
			}
			return userLine{}, &tenant.InvalidError{Field: "line", Problem: "is not one JSON object"}
		}
		if d.More() {
			return userLine{}, &tenant.InvalidError{Field: "line", Problem: "is more than one JSON object"}
		}
	} else {
		record, err := l.record(line)
		if err != nil {
			return userLine{}, err
		}
		if len(record) != len(l.columns) {
			return userLine{}, &tenant.InvalidError{Field: "line", Problem: fmt.Sprintf("has %d values for %d columns", len(record), len(l.columns))}
		}
		for i, into := range map[string]*any{"context": &v.Context, "user": &v.User, "login": &v.Login, "mailhost": &v.MailHost} {
			if at := slices.Index(l.columns, i); at >= 0 {
				*into = strings.TrimSpace(record[at])
			}
		}
	}
	texts := map[string]string{}
	for name, value := range map[string]any{"context": v.Context, "user": v.User, "login": v.Login, "mailhost": v.MailHost} {
		switch value := value.(type) {
		case nil:
		case string:
			texts[name] = value
		case json.Number:
			texts[name] = value.String()
		default:
			return userLine{}, &tenant.InvalidError{Field: name, Problem: "must be text or a number"}
		}
	}
	return readUser(texts["context"], texts["user"], texts["login"], texts["mailhost"])
}

// readUser reads the values of a line. The user is 3, 3@1 or nothing, the context 1 or a name.
func readUser(context, user, login, mailhost string) (userLine, error) {
	u := userLine{login: login, mailhost: mailhost}
	invalid := func(field, what string) (userLine, error) {
		return userLine{}, &tenant.InvalidError{Field: field, Problem: what}
	}
	if err := tenant.CheckLogin(login); err != nil {
		return userLine{}, err
	}
	if mailhost == "" {
		return invalid("mailhost", "is missing")
	}
	if id, err := tenant.ParseUserID(user); err == nil {
		u.id, u.context = id.ID, id.Context
		if n, ok := parseNumber(context); context != "" && (!ok || n != id.Context) {
			return invalid("context", "is not that of the user "+user)
		}
		return u, nil
	}
	if user != "" {
		id, err := tenant.ParseUserID(user + "@1")
		if err != nil {
			return invalid("user", "must be a number, a number and a context as in 3@1, or nothing to have one assigned")
		}
		u.id = id.ID
	}
	if context == "" {
		return invalid("context", "is missing: its number or its name")
	}
	if n, ok := parseNumber(context); ok {
		u.context = n
	} else {
		u.contextName = context
	}
	return u, nil
}

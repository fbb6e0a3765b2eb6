package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// readAll shows what lines say, one line for each.
func readAll(t testing.TB, media, text string) string {
	t.Helper()
	lines, err := newUserLines(bufio.NewReaderSize(strings.NewReader(text), maxImportLine), media)
	if err != nil {
		return "header: " + err.Error()
	}
	var out []string
	for {
		u, number, err := lines.next()
		if errors.Is(err, io.EOF) {
			return strings.Join(out, "\n")
		}
		if bad, ok := errors.AsType[*tenant.InvalidError](err); ok {
			out = append(out, fmt.Sprintf("%d: %s %s", number, bad.Field, bad.Problem))
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d: %d %q %d %s %s", number, u.context, u.contextName, u.id, u.login, u.mailhost))
	}
}

func TestUserLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxImportLine)
	for name, c := range map[string]struct{ media, text, want string }{
		"csv": {
			mediaCSV, "context,user,login,mailhost\n1,3,ann@x,main\r\n\nExample GmbH,,bob@x,main\n,7@2,carl@x,main\n2,7@2,dora@x,main",
			"2: 1 \"\" 3 ann@x main\n4: 0 \"Example GmbH\" 0 bob@x main\n5: 2 \"\" 7 carl@x main\n6: 2 \"\" 7 dora@x main",
		},
		"columns in another order, of a spreadsheet": {mediaCSV, "\ufeffMailhost; Login; Context\nmain;\"a;b@x\"; \"Say \"\"hi\"\"\"\n", `2: 0 "Say \"hi\"" 0 a;b@x main`},
		"bad lines cost only themselves": {
			mediaCSV, "context,user,login,mailhost\n1,,\"open,main\n1,,ann@x,main\n1,ann@x\n1,0,bob@x,main\n2,7@1,c@x,main\n" + long + long + "\n1,,d@x,\n,,e@x,main\n1,,,main\n1,,f@x,main\n",
			"2: line is not CSV: a value with a comma or a quotation mark stands in quotation marks, and those in it are doubled\n" +
				"3: 1 \"\" 0 ann@x main\n4: line has 2 values for 4 columns\n" +
				"5: user must be a number, a number and a context as in 3@1, or nothing to have one assigned\n" +
				"6: context is not that of the user 7@1\n7: line has more than 16 KiB\n8: mailhost is missing\n" +
				"9: context is missing: its number or its name\n10: login must be 1 to 255 bytes of printable text without space at its ends\n11: 1 \"\" 0 f@x main",
		},
		"as a spreadsheet in German saves it": {
			mediaCSV, "\ufeffsep=;\r\ncontext;user;login;mailhost\r\n1;;ann@x;main\r\n;;;\r\n1;;j\xfcrgen@x;main\r\n1;;\"bob;x\";main\r\n",
			"3: 1 \"\" 0 ann@x main\n5: line is not in UTF-8: save the file as CSV in UTF-8\n6: 1 \"\" 0 bob;x main",
		},
		"tabs":             {mediaCSV, "context\tuser\tlogin\tmailhost\n1\t\tann@x\tmain\n\t\t\t\n", `2: 1 "" 0 ann@x main`},
		"UTF-16":           {mediaCSV, "\xff\xfec\x00", "header: body: is in UTF-16: save it as CSV in UTF-8"},
		"no header":        {mediaCSV, "", "header: body: is empty: the first line names the columns, as context,user,login,mailhost"},
		"unknown column":   {mediaCSV, "context,pass\n", `header: body: the first line has the column "pass": it names each of context, user, login and mailhost once, user may be left out`},
		"missing column":   {mediaCSV, "context,login\n", "header: body: the first line names no column mailhost"},
		"two of one":       {mediaCSV, "login,login,mailhost\n", `header: body: the first line has the column "login": it names each of context, user, login and mailhost once, user may be left out`},
		"header too long":  {mediaCSV, long + "\n", "header: line: has more than 16 KiB"},
		"header of quotes": {mediaCSV, "\"login\n", "header: body: is not CSV: the first line names the columns, as context,user,login,mailhost; for JSON lines say so"},
		"json": {
			mediaLines, "{\"context\":1,\"user\":3,\"login\":\"ann@x\",\"mailhost\":\"main\"}\n\n{\"context\":\"Example\",\"login\":\"bob@x\",\"mailhost\":\"main\"}\n{\"user\":\"7@2\",\"login\":\"c@x\",\"mailhost\":\"main\"}",
			"1: 1 \"\" 3 ann@x main\n3: 0 \"Example\" 0 bob@x main\n4: 2 \"\" 7 c@x main",
		},
		"bad json": {
			mediaLines, "{\n[]\n{\"context\":true,\"login\":\"a@x\",\"mailhost\":\"m\"}\n{\"password\":\"x\"}\n{\"login\":\"a\"}{}\n{\"context\":1.5,\"login\":\"a\",\"mailhost\":\"m\"}\n",
			"1: line is not one JSON object\n2: line is not one JSON object\n3: context must be text or a number\n" +
				"4: line has no member \"password\": there are context, user, login and mailhost\n5: line is more than one JSON object\n6: 0 \"1.5\" 0 a m",
		},
	} {
		if got := readAll(t, c.media, c.text); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

// FuzzUserLines: whatever comes, each line is one user or one complaint, and a user can be added.
func FuzzUserLines(f *testing.F) {
	f.Add(true, "context,user,login,mailhost\n1,3,ann@x,main\n1,,\"open,main\n")
	f.Add(false, "{\"context\":1,\"login\":\"ann@x\",\"mailhost\":\"main\"}\n{\n")
	f.Fuzz(func(t *testing.T, isCSV bool, text string) {
		media := mediaLines
		if isCSV {
			media = mediaCSV
		}
		lines, err := newUserLines(bufio.NewReaderSize(strings.NewReader(text), maxImportLine), media)
		if err != nil {
			return
		}
		last := 0
		for {
			u, number, err := lines.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if number <= last {
				t.Fatalf("line %d after %d", number, last)
			}
			last = number
			if _, bad := errors.AsType[*tenant.InvalidError](err); bad {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			if tenant.CheckLogin(u.login) != nil || u.mailhost == "" || (u.context == 0) == (u.contextName == "") || u.id < 0 || u.context < 0 {
				t.Fatalf("%+v", u)
			}
		}
		if all := strings.Count(text, "\n") + 1; last > all {
			t.Fatalf("%d lines of %d", last, all)
		}
	})
}

package original

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// rowsOf lists the rows of a dump as "table: column=value …".
func rowsOf(t *testing.T, name, text string) ([]string, error) {
	t.Helper()
	var all []string
	to := sink{known: map[string][]string{}, bad: func(table string, line int, why string) error {
		all = append(all, fmt.Sprintf("%s: line %d is bad: %s", table, line, why))
		return nil
	}}
	to.row = func(table string, columns []string, cells []cell) error {
		line := table + ":"
		for i, c := range cells {
			value := fmt.Sprintf("%q", c.text)
			if c.null {
				value = "NULL"
			}
			line += " " + columns[i] + "=" + value
		}
		all = append(all, line)
		return nil
	}
	_, err := readDump(strings.NewReader(text), name, to)
	return all, err
}

func TestReadDump(t *testing.T) {
	const create = "CREATE TABLE `registeredPush` (`cid` int NOT NULL DEFAULT '0', `user` int, `client` varchar(64), PRIMARY KEY (`cid`,`user`), KEY `x` (`user`)) ENGINE=InnoDB;\n"
	for _, tc := range []struct {
		name, file, text string
		want             []string
	}{
		{"columns of the table", "", create + "INSERT INTO `registeredPush` VALUES (1,2,'a'),(3,4,'b');", []string{
			`registeredPush: cid="1" user="2" client="a"`, `registeredPush: cid="3" user="4" client="b"`,
		}},
		{"columns of the statement", "", "insert ignore into db.registeredPush (client, cid) values ('a', 1);", []string{`registeredPush: client="a" cid="1"`}},
		{"a name in two parts", "", "INSERT INTO `db`.`registeredPush` (`cid`) VALUES (1);", []string{`registeredPush: cid="1"`}},
		{"escapes", "", "REPLACE INTO registeredPush (client) VALUES ('it''s \\'\\\\ \\n\\0\\Z\\%');", []string{`registeredPush: client="it's '\\ \n\x00\x1a%"`}},
		{"values", "", "INSERT INTO registeredPush (a,b,c,d,e,f,g) VALUES (NULL,-1,0x414243,x'4445',_binary 'q',\"z\",from_base64('eA=='));", []string{
			`registeredPush: a=NULL b="-1" c="ABC" d="DE" e="q" f="z" g="from_base64"`,
		}},
		{"other statements", "", "-- INSERT INTO registeredPush (a) VALUES (1);\n# x;\n/*!40101 SET x = ';' */;\nLOCK TABLES `x` WRITE;\nSET @a = 'INSERT;';\n" +
			"INSERT INTO other VALUES (1,');'),(2,3);\nINSERT INTO registeredPush (cid) VALUES (7) ON DUPLICATE KEY UPDATE cid = 1;\n", []string{`registeredPush: cid="7"`}},
		{"no semicolon at the end", "", "INSERT INTO registeredPush (cid) VALUES (7)", []string{`registeredPush: cid="7"`}},
		{"nothing", "", "", nil},
		{"damaged rows", "", "INSERT INTO registeredPush (a, b) VALUES (1),\n(2,3),(0xABC,4),(5,'" + strings.Repeat("x", maxValue+1) + "'),(6,7);\n" +
			"INSERT INTO registeredPush (a) VALUES (garbage;\nINSERT INTO registeredPush SET a = 1;\nINSERT INTO registeredPush (a) VALUES (8);", []string{
			"registeredPush: line 1 is bad: it has 1 values for 2 columns", `registeredPush: a="2" b="3"`,
			"registeredPush: line 2 is bad: a value in hexadecimal is damaged", "registeredPush: line 2 is bad: a value has more than 1048576 bytes", `registeredPush: a="6" b="7"`,
			"registeredPush: line 3 is bad: its statement ends within it", "registeredPush: line 4 is bad: INSERT without VALUES is not read", `registeredPush: a="8"`,
		}},
		{"a quote that is not closed", "", "-- MySQL dump 10.13\nINSERT INTO registeredPush (a, b) VALUES (1,'x),\n(2,'y'),\n(3,'z);\nINSERT INTO other VALUES ('x;\n" +
			"INSERT INTO registeredPush (a) VALUES (4);\n", []string{
			"registeredPush: line 2 is bad: a quote is not closed on its line", `registeredPush: a="2" b="y"`,
			"registeredPush: line 4 is bad: a quote is not closed on its line", `registeredPush: a="4"`,
		}},
		{"a text that looks like rows, of a program that writes line ends", "", "INSERT INTO other VALUES ('x\nINSERT INTO registeredPush (a) VALUES (1);\n');", nil},
		{"large values of other tables", "", "INSERT INTO other VALUES ('" + strings.Repeat("x", 3*maxValue) + "',0x" + strings.Repeat("ab", 2*maxValue) + ");" +
			"INSERT INTO registeredPush (a) VALUES (1);", []string{`registeredPush: a="1"`}},
		{"stored procedures", "", "DELIMITER ;;\nCREATE PROCEDURE p() BEGIN INSERT INTO registeredPush (a) VALUES (1); END ;;\nDELIMITER ;\n" +
			"INSERT INTO registeredPush (a) VALUES (2);", []string{`registeredPush: a="2"`}},
		{"ANSI quotes", "", "CREATE TABLE \"registeredPush\" (\"cid\" int, PRIMARY KEY (\"cid\"));\nINSERT INTO \"registeredPush\" VALUES (1);", []string{`registeredPush: cid="1"`}},
		{"a line with too few values", "registeredPush.tsv", "cid\tuser\n1\n2\t" + strings.Repeat("x", maxValue) + "\n3\t4\n", []string{
			"registeredPush: line 2 is bad: it has 1 values for 2 columns", "registeredPush: line 3 is bad: it has more than 1048576 bytes", `registeredPush: cid="3" user="4"`,
		}},
		{"semicolons", "registeredPush.csv", "\ufeffcid;user;client\r\n1;2;a,b\r\n\r\n3;4;a\"b\r\n5;6;\"c;d\"\r\n", []string{
			`registeredPush: cid="1" user="2" client="a,b"`, "registeredPush: line 4 is bad: it is no CSV: bare \" in non-quoted-field", `registeredPush: cid="5" user="6" client="c;d"`,
		}},
		{"tabs", "registeredPush.tsv", "cid\tuser\tclient\n1\t2\ta\\tb\\\\\n3\tNULL\t\n", []string{
			`registeredPush: cid="1" user="2" client="a\tb\\"`, `registeredPush: cid="3" user=NULL client=""`,
		}},
		{"commas, the table known by its columns", "x.csv", "cid,user,token,transport\n1,2,\"a,b\",apn\n", []string{`pns_subscription: cid="1" user="2" token="a,b" transport="apn"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := rowsOf(t, tc.file, tc.text)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestReadDumpRefuses(t *testing.T) {
	for _, tc := range []struct{ name, file, text, want string }{
		{"no columns", "", "INSERT INTO registeredPush VALUES (1);", "--complete-insert"},
		{"a quote that is not closed", "", "\nINSERT INTO registeredPush (a) VALUES ('x;", "line 2: a quote is never closed"},
		{"the end within a row", "", "INSERT INTO registeredPush (a) VALUES (1,", "ends within a row"},
		{"a comment that does not end", "", "/* x", "comment"},
		{"the end after a comma", "", "INSERT INTO registeredPush (a) VALUES (1),\n", "line 2: it ends within INSERT INTO registeredPush"},
		{"rows without columns", "registeredPush.txt", "1\t2\ta\n", "give registeredPush.sql"},
		{"XML", "x.xml", "<?xml version=\"1.0\"?>", "without --xml"},
		{"UTF-16", "x.sql", "\xff\xfe-\x00", "UTF-16"},
		{"xz", "x.sql", "\xfd7zXZ\x00", "xz"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := rowsOf(t, tc.file, tc.text)
			if !errors.Is(err, errDump) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestCutOff tells of a dump that lacks its end, and of a file with nothing in it that is known.
func TestCutOff(t *testing.T) {
	const head = "-- MySQL dump 10.13  Distrib 8.0.36\n/*!40101 SET NAMES utf8mb4 */;\nINSERT INTO user (cid, id, imapLogin) VALUES (1,3,'anna');\n"
	for _, tc := range []struct{ name, text, want string }{
		{"whole", head + "-- Dump completed on 2024-04-01 12:00:00\n", ""},
		{"without its end", head, "x.sql: it does not end as mysqldump ends a dump"},
		{"two of which one is whole", head + "-- Dump completed\n" + head, "x.sql: it does not end as mysqldump ends a dump"},
		{"another thing", "INSERT INTO other VALUES (1);\n", "x.sql: there is no row in it of a table that is known here"},
		{"a damaged row", strings.Replace(head, "anna", "an\nna", 1) + "-- Dump completed\n", "x.sql:3: a row of user cannot be read: a quote is not closed on its line"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := planOf(t, twoLogins, "x.sql", tc.text)
			found := ""
			for _, f := range p.Report.Findings {
				if strings.HasPrefix(f.Subject, "x.sql") && f.NeedsYou {
					found += f.Subject + ": " + f.Text
				}
			}
			if !strings.HasPrefix(found, tc.want) || tc.want == "" && found != "" {
				t.Errorf("it says %q, want %q", found, tc.want)
			}
		})
	}
}

func FuzzReadDump(f *testing.F) {
	raw, err := os.ReadFile("testdata/oxdatabase_5.sql")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("x.sql", raw)
	f.Add("registeredPush.tsv", []byte("cid\tuser\tclient\n1\t2\ta\\tb\n"))
	f.Add("x.csv", []byte("cid,user,token,transport\n1,2,\"a,b\",apn\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		r := newRows(today)
		to := sink{known: map[string][]string{}, bad: func(table string, _ int, why string) error { return r.bad(table, why) }}
		to.row = func(table string, columns []string, cells []cell) error {
			if tables[table] == nil || len(columns) != len(cells) || len(cells) > maxColumns+1 {
				t.Errorf("%s has %d columns and %d values", table, len(columns), len(cells))
			}
			return r.take(table, columns, cells)
		}
		_, err := readDump(strings.NewReader(string(data)), name, to)
		if err != nil {
			return
		}
		for _, s := range r.subs {
			if len(s.plain()) < 6 || !strings.HasPrefix(s.target(), s.transport()) {
				t.Errorf("a token that cannot be: %+v", s)
			}
		}
		for name, table := range r.stats {
			if table.Rows != table.Taken+table.Dropped {
				t.Errorf("%s: %d rows, %d taken, %d dropped", name, table.Rows, table.Taken, table.Dropped)
			}
		}
	})
}

// endless makes the text of a dump as it is read.
type endless struct {
	n, rows int
	rest    string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.rest == "" {
		switch {
		case e.n == e.rows:
			e.rest, e.n = ";\n", e.n+1
		case e.n > e.rows:
			return 0, errEnd
		case e.n%1000 == 0:
			if e.n > 0 {
				e.rest = ";\n"
			}
			e.rest += "INSERT INTO pns_subscription (id, cid, user, token, client, transport, last_modified, all_flag) VALUES "
			fallthrough
		default:
			if e.n%1000 > 0 {
				e.rest = ","
			}
			e.rest += fmt.Sprintf("(0x%032x,%d,%d,'%064x','open-xchange-mobile-api-facade','apn',1710000000000,1)", e.n+1, e.n/1000+1, e.n%1000+1, e.n+1)
			e.n++
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

var errEnd = errors.New("the end")

// TestMemory holds what a subscription costs in memory: a million fits into 400 MB.
func TestMemory(t *testing.T) {
	const many, most = 40_000, 400 // bytes each
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newRows(today)
	if _, err := readDump(&endless{rows: many}, "x.sql", sink{row: r.take, known: map[string][]string{}}); !errors.Is(err, errEnd) && err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(r.subs) != many {
		t.Fatalf("%d subscriptions", len(r.subs))
	}
	each := int64(after.HeapAlloc-before.HeapAlloc) / many //nolint:gosec // far from its bounds
	t.Logf("%d bytes for each subscription", each)
	if each > most {
		t.Errorf("%d bytes for each subscription, more than %d", each, most)
	}
	runtime.KeepAlive(r)
}

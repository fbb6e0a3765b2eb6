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
	err := readDump(strings.NewReader(text), name, func(table string, columns []string, cells []cell) error {
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
	})
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
		{"too few values", "", "INSERT INTO registeredPush (a, b) VALUES (1);", "line 1: a row of registeredPush has 1 values for 2 columns"},
		{"a quote that is not closed", "", "\nINSERT INTO registeredPush (a) VALUES ('x;", "line 2: a quote is never closed"},
		{"the end within a row", "", "INSERT INTO registeredPush (a) VALUES (1,", "ends within a row"},
		{"damaged hexadecimal", "", "INSERT INTO registeredPush (a) VALUES (0xABC);", "hexadecimal"},
		{"a comment that does not end", "", "/* x", "comment"},
		{"a huge value", "", "INSERT INTO registeredPush (a) VALUES ('" + strings.Repeat("x", maxValue+1) + "');", "more than"},
		{"a line with too few values", "registeredPush.tsv", "cid\tuser\n1\n", "line 2 has 1 values for 2 columns"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := rowsOf(t, tc.file, tc.text)
			if !errors.Is(err, errDump) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
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
		err := readDump(strings.NewReader(string(data)), name, func(table string, columns []string, cells []cell) error {
			if tables[table] == nil || len(columns) != len(cells) || len(cells) > maxColumns+1 {
				t.Errorf("%s has %d columns and %d values", table, len(columns), len(cells))
			}
			return r.take(table, columns, cells)
		})
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
	if err := readDump(&endless{rows: many}, "x.sql", r.take); !errors.Is(err, errEnd) && err != nil {
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

package original

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseProperties(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []property
	}{
		{"separators", "a=1\nb:2\nc 3\nd = 4\ne\t:\t5\nf  6 7\n", []property{
			{"a", "1", 1}, {"b", "2", 2}, {"c", "3", 3}, {"d", "4", 4}, {"e", "5", 5}, {"f", "6 7", 6},
		}},
		{"only the first separator", "a==1\nb=:2\nc = d = e", []property{{"a", "=1", 1}, {"b", ":2", 2}, {"c", "d = e", 3}}},
		{"comments and blank lines", "# no\n  ! nor this\n\n \t\na=#1", []property{{"a", "#1", 5}}},
		{"no value", "a\nb=\nc:", []property{{"a", "", 1}, {"b", "", 2}, {"c", "", 3}}},
		{"no key", "=1", []property{{"", "1", 1}}},
		{"continued", "a = 1,\\\n    2,\\\n    3\nb=4", []property{{"a", "1,2,3", 1}, {"b", "4", 4}}},
		{"an even number of backslashes does not continue", "a=1\\\\\nb=2", []property{{"a", `1\`, 1}, {"b", "2", 2}}},
		{"a comment does not continue", "# no\\\na=1", []property{{"a", "1", 2}}},
		{"a comment within a continued line is text", "a=1,\\\n#2", []property{{"a", "1,#2", 1}}},
		{"continued at the end", "a=1\\", []property{{"a", "1", 1}}},
		{"escaped separators", `a\=b\:c\ d=e`, []property{{"a=b:c d", "e", 1}}},
		{"escapes", `a=\t\n\r\f\x\\`, []property{{"a", "\t\n\r\fx\\", 1}}},
		{"unicode", `a=\u00fc\u20AC\ud83d\udcef`, []property{{"a", "ü€📯", 1}}},
		{"half a pair", `a=\ud83dx`, []property{{"a", "\ufffdx", 1}}},
		{"not unicode", `a=\u00gx`, []property{{"a", "u00gx", 1}}},
		{"ISO 8859-1", "a=pass\xfcw\xf6rt", []property{{"a", "passüwört", 1}}},
		{"UTF-8", "a=passüwört", []property{{"a", "passüwört", 1}}},
		{"line ends", "a=1\r\nb=2\rc=3", []property{{"a", "1", 1}, {"b", "2", 2}, {"c", "3", 3}}},
		{"twice", "a=1\na=2", []property{{"a", "1", 1}, {"a", "2", 2}}},
		{"white space at the end belongs to the value", "a=1 ", []property{{"a", "1 ", 1}}},
		{"byte order mark", "\ufeffa=1", []property{{"a", "1", 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := parseProperties([]byte(tc.text)); !slices.Equal(got, tc.want) {
				t.Errorf("%q is %+v, want %+v", tc.text, got, tc.want)
			}
		})
	}
}

func FuzzParseProperties(f *testing.F) {
	f.Add([]byte("a = 1,\\\n  2\n# x\nb:\\u00fc\\ud83d\\udcef\n"))
	f.Add([]byte("\xff=\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(strings.ReplaceAll(string(data), "\r", "\n"), "\n") + 1
		last := 0
		for _, p := range parseProperties(data) {
			if p.line <= last || p.line > lines {
				t.Errorf("%q is in line %d of %d after one in %d", p.key, p.line, lines, last)
			}
			last = p.line
			if !utf8.ValidString(p.key) || !utf8.ValidString(p.value) {
				t.Errorf("not UTF-8: %+v", p)
			}
			// What an entry says is what it says once it is written with every byte escaped that could mean more.
			again := parseProperties([]byte(escape(p.key) + "=" + escape(p.value)))
			if len(again) != 1 || again[0].key != p.key || again[0].value != p.value {
				t.Errorf("%+v became %+v", p, again)
			}
		}
	})
}

func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch r {
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\f':
			b.WriteString(`\f`)
		case '=', ':', ' ', '#', '!', '\\', '\ufeff':
			if r == '\ufeff' {
				b.WriteString(`\ufeff`)
				continue
			}
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

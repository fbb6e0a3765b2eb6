package event

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// TestTexts: header fields as Dovecot passes them on: raw, folded, and whatever strangers put there.
func TestTexts(t *testing.T) {
	long := strings.Repeat("日本語", 1000)
	words := func(n int) string { return strings.Repeat("=?utf-8?B?5pel5pys6Kqe?=\n ", n) }
	for _, c := range []struct{ name, from, subject, sender, address, title string }{
		{"plain", "Ann Lee <ann@example.org>", "Hello", "Ann Lee", "ann@example.org", "Hello"},
		{"raw UTF-8", "Zoë Müller <z@example.org>", "Grüße", "Zoë Müller", "z@example.org", "Grüße"},
		{"address alone", "ann@example.org", "x", "ann@example.org", "ann@example.org", "x"},
		{"address in brackets", "<ann@example.org>", "x", "ann@example.org", "ann@example.org", "x"},
		{"quoted name", `"Lee, Ann" <ann@example.org>`, "x", "Lee, Ann", "ann@example.org", "x"},
		{"comment", `ann@example.org (Ann Lee)`, "x", "Ann Lee", "ann@example.org", "x"},
		{"two authors", "Ann <a@x.org>, Bob <b@x.org>", "x", "Ann", "a@x.org", "x"},
		{"encoded name", "=?utf-8?q?Zo=C3=AB_M=C3=BCller?= <z@x.org>", "x", "Zoë Müller", "z@x.org", "x"},
		{"encoded name in quotes", `"=?UTF-8?B?Wm/Dqw==?=" <z@x.org>`, "x", "Zoë", "z@x.org", "x"},
		{"name that is no phrase", "Firm [Sales] <s@x.org>", "x", "Firm [Sales]", "s@x.org", "x"},
		{"name with a stray quote", `Ann "the boss <a@x.org>`, "x", `Ann "the boss`, "a@x.org", "x"},
		{"name in a charset nobody knows", "=?x-klingon?q?qapla?= <k@x.org>", "x", "=?x-klingon?q?qapla?=", "k@x.org", "x"},
		{"no address at all", "Mailer Daemon", "x", "Mailer Daemon", "", "x"},
		{"nothing", "", "", "", "", ""},
		{"white space", " \n\t", "\n \t", "", "", ""},

		{"folded", "Ann\n Lee\n\t<a@x.org>", "part one\n part two\n\tpart three", "Ann Lee", "a@x.org", "part one part two part three"},
		{"folded with CRLF", "Ann\r\n Lee <a@x.org>", "one\r\n two", "Ann Lee", "a@x.org", "one two"},
		{"words on two lines", "a@x.org", "=?utf-8?q?Gr=C3=BC?=\n =?utf-8?q?=C3=9Fe?=", "a@x.org", "a@x.org", "Grüße"},
		{"character cut between words", "a@x.org", "=?utf-8?q?Gr=C3?= =?utf-8?q?=BC=C3=9Fe?=", "a@x.org", "a@x.org", "Grüße"},
		{"word beside text", "a@x.org", "Re: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= an alle", "a@x.org", "a@x.org", "Re: Grüße an alle"},
		{"word with a language", "a@x.org", "=?iso-8859-1*de?q?Gr=FC=DFe?=", "a@x.org", "a@x.org", "Grüße"},
		{"half a word", "a@x.org", "=?utf-8?q?Gr=C3", "a@x.org", "a@x.org", "=?utf-8?q?Gr=C3"},
		{"damaged base64", "a@x.org", "=?utf-8?B?%%%?=", "a@x.org", "a@x.org", "=?utf-8?B?%%%?="},
		{"bad UTF-8 in a word", "a@x.org", "=?utf-8?q?a=FFb?=", "a@x.org", "a@x.org", "a\uFFFDb"},
		{"line break in a word", "a@x.org", "=?utf-8?q?a=0D=0ABcc:_b?=", "a@x.org", "a@x.org", "a Bcc: b"},

		{"iso-8859-1", "a@x.org", "=?ISO-8859-1?Q?Gr=FC=DFe?=", "a@x.org", "a@x.org", "Grüße"},
		{"iso-8859-15", "a@x.org", "=?iso-8859-15?B?UHJlaXMgNSCk?=", "a@x.org", "a@x.org", "Preis 5 €"},
		{"windows-1252", "a@x.org", "=?windows-1252?B?k0hplCCWIG9r?=", "a@x.org", "a@x.org", "“Hi” – ok"},
		{"windows-1251", "a@x.org", "=?windows-1251?B?z/Do4uXy?=", "a@x.org", "a@x.org", "Привет"},
		{"koi8-r", "=?koi8-r?B?8NLJ18XU?= <a@x.org>", "=?koi8-r?B?8NLJ18XU?=", "Привет", "a@x.org", "Привет"},
		{"gb2312", "a@x.org", "=?GB2312?B?xOO6w8rAvec=?=", "a@x.org", "a@x.org", "你好世界"},
		{"gb18030", "a@x.org", "=?gb18030?B?lTKCNsTjusM=?=", "a@x.org", "a@x.org", "𠀀你好"},
		{"big5", "a@x.org", "=?big5?B?wWPF6aSkpOU=?=", "a@x.org", "a@x.org", "繁體中文"},
		{"shift_jis", "a@x.org", "=?Shift_JIS?B?k/qWe4zqg2WDWINn?=", "a@x.org", "a@x.org", "日本語テスト"},
		{"iso-2022-jp", "=?iso-2022-jp?B?GyRCRnxLXDhsJUYlOSVIGyhC?= <a@x.org>", "=?iso-2022-jp?B?GyRCRnxLXDhsJUYlOSVIGyhC?=", "日本語テスト", "a@x.org", "日本語テスト"},
		{"euc-kr", "a@x.org", "=?euc-kr?B?vsiz58fPvLy/5A==?=", "a@x.org", "a@x.org", "안녕하세요"},

		{"control characters", "Ann\x00\x1b[31m <a@x.org>", "a\x00b\x7fc\u0085d", "Ann[31m", "a@x.org", "abc d"},
		{"turned direction", "\u202eelgoog\u202c <a@x.org>", "\u2067pay\u2069 \u202dnow", "elgoog", "a@x.org", "pay now"},
		{"turned direction in a word", "=?utf-8?q?=E2=80=AEelgoog?= <a@x.org>", "x", "elgoog", "a@x.org", "x"},
		{"Hebrew stays", "דוד <d@x.org>", "שלום\u200f!", "דוד", "d@x.org", "שלום\u200f!"},
		{"spaces of all kinds", "a@x.org", "a\u00a0\u3000 \u2028b", "a@x.org", "a@x.org", "a b"},

		{"huge", long + " <a@x.org>", long, cutAt(long, MaxSender), "a@x.org", cutAt(long, MaxSubject)},
		{"huge in words", words(100) + "<a@x.org>", words(20000), cutAt(long, MaxSender), "a@x.org", cutAt(long, MaxSubject)},
		{"huge address", "<" + strings.Repeat("a", 400) + "@x.org>", "x", strings.Repeat("a", MaxSender), strings.Repeat("a", MaxAddress), "x"},
		{"what begins too late is not read", "a@x.org", "a" + strings.Repeat(" ", maxRaw) + "b", "a@x.org", "a@x.org", "a"},
		{"one character of a megabyte", "a@x.org", "e" + strings.Repeat("\u0301", 1<<19), "a@x.org", "a@x.org", "e" + strings.Repeat("\u0301", MaxSubject/2-1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			sender, address := Author(c.from)
			title := Subject(c.subject)
			for what, pair := range map[string][2]string{
				"sender": {sender, c.sender}, "address": {address, c.address}, "subject": {title, c.title},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s %.100q, want %.100q", what, pair[0], pair[1])
				}
			}
		})
	}
	// A family of four is one character, although it is eleven bytes wide in three places.
	family := "👩‍👩‍👧‍👦"
	text := clean(strings.Repeat(family, 100), MaxSubject)
	if len(text)%len(family) != 0 || len(text) < MaxSubject-len(family) {
		t.Errorf("%d bytes of families of %d", len(text), len(family))
	}
}

// cutAt cuts a text of three-byte characters.
func cutAt(s string, size int) string { return s[:size/3*3] }

// FuzzTexts: whatever a header says, what is made of it can be shown.
func FuzzTexts(f *testing.F) {
	f.Add("\"=?iso-2022-jp?B?GyRCRnxLXDhsGyhC?=\" <a@b>", "=?utf-8*en?q?=E2=80=AE?=\r\n\t\u202e")
	f.Add("a (\\) <b", "\xff")
	f.Fuzz(func(t *testing.T, from, subject string) {
		sender, address := Author(from)
		again, _ := Sender(sender, address)
		for _, text := range []struct {
			s    string
			most int
		}{{sender, MaxSender}, {address, MaxAddress}, {Subject(subject), MaxSubject}, {again, MaxSender}} {
			if !utf8.ValidString(text.s) || len(text.s) > text.most || strings.TrimSpace(text.s) != text.s || strings.Contains(text.s, "  ") {
				t.Fatalf("text %q", text.s)
			}
			if strings.ContainsFunc(text.s, func(r rune) bool { return unicode.IsControl(r) || turnsDirection(r) }) {
				t.Fatalf("text %q", text.s)
			}
			if clean(text.s, text.most) != text.s {
				t.Fatalf("cleaned twice, %q is another", text.s)
			}
		}
		if address != "" && sender == "" && clean(address, MaxSender) != "" {
			t.Fatal("an address and no sender")
		}
	})
}

// FuzzCut: what is cut ends where a character ends.
func FuzzCut(f *testing.F) {
	f.Add("👩‍👩‍👧‍👦 family", 9)
	f.Add("e\u0301\u0301", 2)
	f.Add("🇩🇪🇩🇪", 9)
	f.Fuzz(func(t *testing.T, s string, size int) {
		if !utf8.ValidString(s) || size < 4 || size > 2000 {
			return
		}
		got := cut(s, size)
		rest, ok := strings.CutPrefix(s, got)
		if !ok || len(got) > size || !utf8.ValidString(got) {
			t.Fatalf("cut %q at %d: %q", s, size, got)
		}
		ends := []int{0}
		for g := uniseg.NewGraphemes(s); g.Next(); {
			_, end := g.Positions()
			ends = append(ends, end)
		}
		whole := slices.Contains(ends, len(got)) || strings.TrimLeft(rest, " ") != rest
		if len(ends) > 1 && ends[1] <= size && !whole {
			t.Fatalf("cut %q at %d within a character: %q", s, size, got)
		}
	})
}

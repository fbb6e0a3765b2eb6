package dovecot

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const mac = "AAAAAAAAAAAAAAAAAAAAAA"

func TestWhose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value     string
		ok        bool
		bareHost  holder // where aliases are bare
		keyedHost holder
	}{
		{"", false, nobody, nobody},
		{"user=3@1", false, nobody, nobody},
		{"", true, nobody, nobody},
		{"user=3@1", true, ours, oldOurs},
		{"user=3@1." + mac, true, foreign, ours},
		{"user=3@1." + mac[1:] + "B", true, foreign, foreign},
		{"user=3@1.", true, foreign, foreign},
		{"user=4@1", true, foreign, foreign},
		{"user=33@1", true, foreign, foreign},
		{"user=3@11", true, foreign, foreign},
		{"user=", true, foreign, foreign},
		{"user", true, foreign, foreign},
		{"3@1", true, foreign, foreign},
		{"User=3@1", true, foreign, foreign},
		{" user=3@1", true, foreign, foreign},
		{"user=3@1 ", true, foreign, foreign},
		{"user=3@1\r\n", true, foreign, foreign},
		{"xuser=3@1", true, foreign, foreign},
		{"events=MessageNew", true, foreign, foreign},
		{"user=3@1\texpire=7", true, ours, oldOurs},
		{"folder=INBOX\tuser=3@1", true, ours, oldOurs},
		{"user=4@1\tuser=3@1", true, ours, oldOurs}, // Dovecot takes the last
		{"user=3@1\tuser=4@1", true, foreign, foreign},
		{"user=3@1\tby=another", true, foreign, foreign},
		{"by=another\tuser=3@1", true, foreign, foreign},
		{"user=3@1\t\t", true, ours, oldOurs},
	} {
		if got := whose(c.value, c.ok, "3@1", "3@1"); got != c.bareHost {
			t.Errorf("%q (%v) is %d, want %d", c.value, c.ok, got, c.bareHost)
		}
		if got := whose(c.value, c.ok, "3@1."+mac, "3@1"); got != c.keyedHost {
			t.Errorf("%q (%v) with keyed aliases is %d, want %d", c.value, c.ok, got, c.keyedHost)
		}
	}
}

// TestWhoseOthers: whatever others write is theirs, and what we write is ours whatever stands beside it.
func TestWhoseOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		alias := rapid.SampledFrom([]string{"3@1", "3@1." + mac}).Draw(t, "alias")
		key := rapid.StringMatching(`[a-tv-z]{3,10}`) // neither "user" nor "by"
		var pairs []string
		for range rapid.IntRange(0, 4).Draw(t, "pairs") {
			pairs = append(pairs, key.Draw(t, "key")+"="+rapid.StringMatching(`[^\t]*`).Draw(t, "value"))
		}
		others := strings.Join(pairs, "\t")
		if got := whose(others, true, alias, "3@1"); got != foreign && (others != "" || got != nobody) {
			t.Fatalf("%q is %d", others, got)
		}
		at := rapid.IntRange(0, len(pairs)).Draw(t, "at")
		with := append(append(append([]string{}, pairs[:at]...), "user="+alias), pairs[at:]...)
		if got := whose(strings.Join(with, "\t"), true, alias, "3@1"); got != ours {
			t.Fatalf("%q is %d", with, got)
		}
	})
}

func FuzzWhose(f *testing.F) {
	for _, s := range []string{"", "user=3@1", "user=3@1." + mac, "user=3@1\tx", "\tuser=3@1", "by=\tuser=3@1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		const alias = "3@1." + mac
		has := func(pair string) bool { return strings.Contains("\t"+value+"\t", "\t"+pair+"\t") }
		switch whose(value, true, alias, "3@1") {
		case nobody:
			if value != "" {
				t.Fatalf("%q would be overwritten", value)
			}
		case ours:
			if !has("user=" + alias) {
				t.Fatalf("%q would be removed", value)
			}
		case oldOurs:
			if !has("user=3@1") {
				t.Fatalf("%q would be overwritten", value)
			}
		case foreign:
			if value == "user="+alias {
				t.Fatal("our own is left behind")
			}
		}
	})
}

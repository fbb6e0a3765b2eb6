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
		bareHost  holder // where aliases are bare
		keyedHost holder
	}{
		{"", nobody, nobody},
		{"user=3@1", ours, oldOurs},
		{"user=3@1." + mac, foreign, ours},
		{"user=3@1." + mac[1:] + "B", foreign, foreign},
		{"user=3@1.", foreign, foreign},
		{"user=4@1", foreign, foreign},
		{"user=33@1", foreign, foreign},
		{"user=3@11", foreign, foreign},
		{"user=", foreign, foreign},
		{"user", foreign, foreign},
		{"3@1", foreign, foreign},
		{"User=3@1", foreign, foreign},
		{" user=3@1", foreign, foreign},
		{"user=3@1 ", foreign, foreign},
		{"user=3@1\r\n", foreign, foreign},
		{"xuser=3@1", foreign, foreign},
		{"events=MessageNew", foreign, foreign},
		{"user=3@1\texpire=7", ours, oldOurs},
		{"folder=INBOX\tuser=3@1", ours, oldOurs},
		{"user=4@1\tuser=3@1", ours, oldOurs}, // Dovecot takes the last
		{"user=3@1\tuser=4@1", foreign, foreign},
		{"user=3@1\tby=another", foreign, foreign},
		{"by=another\tuser=3@1", foreign, foreign},
		{"user=3@1\tby=", foreign, foreign},
		{"user=3@1\tby=US", foreign, foreign},
		{"user=3@1\tbyus", ours, oldOurs},
		{"user=3@1\t\t", ours, oldOurs},
	} {
		for _, by := range []string{"", "us"} {
			if got := (names{"3@1", []string{"3@1"}, by}).holder(c.value); got != c.bareHost {
				t.Errorf("%q is %d to %q, want %d", c.value, got, by, c.bareHost)
			}
			if got := (names{"3@1." + mac, []string{"3@1"}, by}).holder(c.value); got != c.keyedHost {
				t.Errorf("%q with keyed aliases is %d to %q, want %d", c.value, got, by, c.keyedHost)
			}
		}
	}
	const marked = "user=3@1\tby=us"
	for value, want := range map[string]holder{
		marked: ours, "by=us\tuser=3@1": ours, "user=4@1\tby=us": foreign, marked + "\tby=them": foreign, "by=them\t" + marked: foreign, "by=us": foreign,
	} {
		if got := (names{"3@1", []string{"3@1"}, "us"}).holder(value); got != want {
			t.Errorf("%q is %d, want %d", value, got, want)
		}
		// Who has no id any more cannot know that it was his.
		if got := (names{"3@1", []string{"3@1"}, ""}).holder(value); got != foreign {
			t.Errorf("%q is %d without an id", value, got)
		}
	}
	if got := (names{"3@1." + mac, []string{"3@1"}, "us"}).holder(marked); got != oldOurs {
		t.Errorf("our mark without the proof is %d", got)
	}
}

// TestWhoseOthers: whatever others write is theirs, and what we write is ours whatever stands beside it.
func TestWhoseOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		alias := rapid.SampledFrom([]string{"3@1", "3@1." + mac}).Draw(t, "alias")
		by := rapid.SampledFrom([]string{"", "us"}).Draw(t, "by")
		key := rapid.StringMatching(`[a-tv-z]{3,10}`) // neither "user" nor "by"
		var pairs []string
		for range rapid.IntRange(0, 4).Draw(t, "pairs") {
			pairs = append(pairs, key.Draw(t, "key")+"="+rapid.StringMatching(`[^\t]*`).Draw(t, "value"))
		}
		others := strings.Join(pairs, "\t")
		if got := (names{alias, []string{"3@1"}, by}).holder(others); got != foreign && (others != "" || got != nobody) {
			t.Fatalf("%q is %d", others, got)
		}
		at := rapid.IntRange(0, len(pairs)).Draw(t, "at")
		with := append(append(append([]string{}, pairs[:at]...), "user="+alias), pairs[at:]...)
		if got := (names{alias, []string{"3@1"}, by}).holder((names{alias: alias, by: by}).value()); got != ours {
			t.Fatalf("what we write is %d", got)
		}
		if got := (names{alias, []string{"3@1"}, by}).holder(strings.Join(with, "\t")); got != ours {
			t.Fatalf("%q is %d", with, got)
		}
	})
}

func FuzzWhose(f *testing.F) {
	for _, s := range []string{"", "user=3@1", "user=3@1." + mac, "user=3@1\tx", "\tuser=3@1", "by=\tuser=3@1", "by=them\tuser=3@1", "by=us\tuser=3@1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		const alias = "3@1." + mac
		has := func(pair string) bool { return strings.Contains("\t"+value+"\t", "\t"+pair+"\t") }
		switch (names{alias, []string{"3@1"}, "us"}).holder(value) {
		case nobody:
			if value != "" {
				t.Fatalf("%q would be overwritten", value)
			}
		case ours:
			if !has("user="+alias) || has("by=them") {
				t.Fatalf("%q would be removed", value)
			}
		case oldOurs:
			if !has("user=3@1") || has("by=them") {
				t.Fatalf("%q would be overwritten", value)
			}
		case foreign:
			if value == "user="+alias || value == "user="+alias+"\tby=us" {
				t.Fatal("our own is left behind")
			}
		}
	})
}

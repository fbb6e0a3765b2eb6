package original

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Verdict is what became of a key.
type Verdict string

// The verdicts.
const (
	Taken   Verdict = "taken"   // means the same with us
	Changed Verdict = "changed" // its sense is kept in another form, or nearly
	Dropped Verdict = "dropped" // has no effect here
)

// Entry says what became of one key of one file.
type Entry struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Key  string `json:"key"`
	// Value is what the file says, redacted if it is a secret.
	Value   string  `json:"value"`
	Verdict Verdict `json:"verdict"`
	// To is the key of our configuration, or another place, that has it now; "" when it was dropped.
	To     string `json:"to,omitempty"`
	Reason string `json:"reason,omitempty"`
	// NeedsYou says that the operator has to do something about it.
	NeedsYou bool `json:"needs_you,omitempty"`
}

// Table says what became of the rows of one table.
type Table struct {
	Name    string `json:"table"`
	Rows    int    `json:"rows"`
	Taken   int    `json:"taken"`
	Dropped int    `json:"dropped"`
	// Reasons counts the dropped rows by why.
	Reasons map[string]int `json:"reasons,omitempty"`
}

// Finding is something to know that no single key says.
type Finding struct {
	Subject string `json:"subject"`
	Text    string `json:"text"`
	// NeedsYou says that the operator has to do something about it.
	NeedsYou bool `json:"needs_you,omitempty"`
}

// Made counts what the plan makes.
type Made struct {
	Files         []string `json:"files"`
	Contexts      int      `json:"contexts"`
	Users         int      `json:"users"`
	MailHosts     []string `json:"mail_hosts"`
	Subscriptions int      `json:"subscriptions"`
}

// Report is what became of everything that was read. It holds no secret.
type Report struct {
	Directory string    `json:"directory"`
	Entries   []Entry   `json:"keys"`
	Tables    []Table   `json:"tables"`
	Findings  []Finding `json:"findings"`
	Made      Made      `json:"made"`
	// Next are the steps that the operator goes from here.
	Next []string `json:"next"`
}

// Count is how many keys came to a verdict.
func (r *Report) Count(v Verdict) (n int) {
	for _, e := range r.Entries {
		if e.Verdict == v {
			n++
		}
	}
	return n
}

// NeedsYou is how many keys and findings need the operator's hand.
func (r *Report) NeedsYou() (n int) {
	for _, e := range r.Entries {
		if e.NeedsYou {
			n++
		}
	}
	for _, f := range r.Findings {
		if f.NeedsYou {
			n++
		}
	}
	return n
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	slices.SortFunc(r.Tables, func(a, b Table) int { return cmp.Compare(a.Name, b.Name) })
}

// few is how many keys of one file that were dropped for one reason are listed one by one.
const few = 3

// Text is the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "What became of %s\n\n", r.Directory)
	fmt.Fprintf(&b, "%d keys: %d taken, %d changed, %d dropped. ", len(r.Entries), r.Count(Taken), r.Count(Changed), r.Count(Dropped))
	if n := r.NeedsYou(); n > 0 {
		fmt.Fprintf(&b, "%s marked with \"!\".\n", plural(n, "thing needs your hand and is", "things need your hand and are"))
	} else {
		b.WriteString("Nothing needs your hand.\n")
	}
	if len(r.Findings) > 0 {
		b.WriteString("\nTo know\n")
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "%s %s\n", mark(f.NeedsYou), wrap(f.Subject+": "+f.Text, "    "))
		}
	}
	if len(r.Tables) > 0 {
		b.WriteString("\nTables\n")
		r.tables(&b)
	}
	for _, v := range []struct {
		verdict Verdict
		title   string
	}{{Taken, "Taken: these mean the same here"}, {Changed, "Changed: the sense is kept"}, {Dropped, "Dropped: these have no effect here"}} {
		if r.Count(v.verdict) > 0 {
			fmt.Fprintf(&b, "\n%s\n", v.title)
			r.entries(&b, v.verdict)
		}
	}
	fmt.Fprintf(&b, "\nMade of it\n    files          %s\n    contexts       %d\n    users          %d\n    mail hosts     %s\n    subscriptions  %d\n",
		cmp.Or(strings.Join(r.Made.Files, ", "), "-"), r.Made.Contexts, r.Made.Users, cmp.Or(strings.Join(r.Made.MailHosts, ", "), "-"), r.Made.Subscriptions)
	if len(r.Next) > 0 {
		b.WriteString("\nWhat to do next\n")
		for i, step := range r.Next {
			fmt.Fprintf(&b, "%3d. %s\n", i+1, wrap(step, "     "))
		}
	}
	return b.String()
}

func (r *Report) tables(b *strings.Builder) {
	width := 0
	for _, t := range r.Tables {
		width = max(width, len(t.Name))
	}
	for _, t := range r.Tables {
		fmt.Fprintf(b, "    %-*s  %d rows, %d taken, %d dropped\n", width, t.Name, t.Rows, t.Taken, t.Dropped)
		for _, reason := range sortedKeys(t.Reasons) {
			fmt.Fprintf(b, "    %*s  %s\n", width, "", wrap(fmt.Sprintf("%d: %s", t.Reasons[reason], reason), strings.Repeat(" ", width+6)))
		}
	}
}

// entries lists the keys of a verdict by file. Many of one file that were dropped for one reason are one line.
func (r *Report) entries(b *strings.Builder, v Verdict) {
	type group struct{ file, reason string }
	same := map[group]int{}
	width := 0
	for _, e := range r.Entries {
		if e.Verdict == v {
			same[group{e.File, e.Reason}]++
			if len(e.Key) <= 60 {
				width = max(width, len(e.Key))
			}
		}
	}
	file := ""
	said := map[group]bool{}
	for _, e := range r.Entries {
		if e.Verdict != v {
			continue
		}
		g := group{e.File, e.Reason}
		if said[g] {
			continue
		}
		if e.File != file {
			file = e.File
			fmt.Fprintf(b, "  %s\n", file)
		}
		if n := same[g]; v == Dropped && n > few && !e.NeedsYou {
			said[g] = true
			fmt.Fprintf(b, "    %s\n", wrap(fmt.Sprintf("%d keys: %s", n, e.Reason), "      "))
			continue
		}
		line := fmt.Sprintf("%-*s = %s", width, cmp.Or(e.Key, `""`), cmp.Or(e.Value, `""`))
		if e.To != "" {
			line += " -> " + e.To
		}
		fmt.Fprintf(b, "%s %s\n", mark(e.NeedsYou), line)
		if e.Reason != "" {
			fmt.Fprintf(b, "        %s\n", wrap(e.Reason, "        "))
		}
	}
}

func mark(needsYou bool) string {
	if needsYou {
		return "  !"
	}
	return "   "
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// wrap breaks text at 110 columns; the lines after the first begin with indent.
func wrap(text, indent string) string {
	const width = 110
	var b strings.Builder
	at := len(indent)
	for i, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case i == 0:
			at += n
		case at+1+n > width:
			b.WriteString("\n" + indent)
			at = len(indent) + n
		default:
			b.WriteByte(' ')
			at += 1 + n
		}
		b.WriteString(word)
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

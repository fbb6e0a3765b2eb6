package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WritePage writes the results page, DIR/bench.md with the plots DIR/img/bench-*.svg, from what runs
// printed with --json. Of a line that several runs have, the last counts.
func WritePage(dir string, files []string) error {
	lines := map[string]Line{}
	var reports []Report
	for _, file := range files {
		raw, err := os.ReadFile(file) //nolint:gosec // the caller names it
		if err != nil {
			return fmt.Errorf("read report: %w", err)
		}
		var r Report
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read report %s: %w", file, err)
		}
		reports = append(reports, r)
		for _, l := range r.Lines {
			l.quick = r.Quick
			lines[l.Name] = l
		}
	}
	if len(reports) == 0 {
		return errors.New("a page needs a report: a file that \"posthorn bench push --json\" wrote")
	}
	out := map[string]string{"bench.md": page(reports, lines)}
	for _, p := range plots {
		out[filepath.Join("img", "bench-"+p.name+".svg")] = p.svg(lines)
	}
	for name, text := range out {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // documentation, for all to read
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // documentation, for all to read
		}
		if err != nil {
			return fmt.Errorf("write page: %w", err)
		}
	}
	return nil
}

const pageHead = `# Benchmark

Figures of the push road and of the listeners, each with its baseline in the same run. This page is generated; do not edit it. To make it anew:

` + "```sh" + `
make bench
` + "```" + `

` + "`posthorn bench push`" + ` and ` + "`posthorn bench listeners`" + ` alone print the figures, ` + "`posthorn bench push --only notify`" + ` one part of
them. Fakes, load generator and sender are processes of their own on one machine; the sender is ` + "`posthorn serve`" + ` with a
configuration that names the provider and is otherwise the default. CPU is what the kernel charged the process, memory its own
high-water mark. Of the push road, outage, memory and crash are run once, the rest five times: the figure is the median, and
the plots show each run. The listeners' parts are run once.
`

const pageNotes = `
## What the lines measure

- ` + "`notify.*`" + `: CPU of the server from PUT to commit, 64 connections, 10,000 users with a device each, SQLite with full fsync,
  while the provider takes requests and answers none, so that its lane rests. The committing handler is net/http, one prepared
  upsert with the same driver and the same group commit; the bare one reads the request and answers.
- push.cpu_us: CPU of the server for one notification when the provider answers again, slot to committed outcome.
- ` + "`latency.*`" + `: from before the PUT is written until the notification is at the provider, 1,000 events a second, each for
  another device. The load generator's own delays are in it. fsync is of 4 KiB appended, on the same disk, before and after.
- ` + "`isolation.*`" + `: the same latency for one provider while another, with 100 events a second, answers or hangs, in turns of 6 s.
- ` + "`apns.*`" + `: rendering, connection and outcome without storage, 1,000 in flight, against ` + "`http2.Transport`" + ` with payloads made
  before. Their provider counts frames and looks into none: the strict fake, which all lines with a server use, takes more
  CPU than a good sender. The two-connection figure is two senders in one process.
- ` + "`webpush.*`" + `: one message without a socket, against one P-256 key pair and agreement.
- ` + "`memory.*`" + `: 100,000 devices and as many unsent slots, from start through ingest to drain.
- ` + "`crash.*`" + `: SIGKILL when half of 4,000 slots have arrived, then a restart; what counts is what each device has in the end.
- ` + "`outage.*`" + `: 1,000,000 events for 10,000 devices over HTTP while nobody listens at the provider's address.
- ` + "`idle.*`" + `: a fake mail server holds so many connections of one server, in IDLE on INBOX. Memory is resident memory, 10 s
  after the last one came and with no collection forced, less that of the same server with the same database and no listeners
  (` + "`listen.allow_permanent_push: false`" + `), each for a connection; over TLS and in clear. SQLite, passwords in the database.
- ` + "`reconnect.*`" + `: the mail server is killed, is away for 3 s and back. CPU of the server from then until every connection is in
  IDLE again, for each. The baseline is a process that dials and says the same bytes, as recorded at the fake, as many at a
  time and in a second, over crypto/tls as it comes and without sessions to resume; it looks at no answer. The fake counts
  logins above 450 in a second as refused: half more than ` + "`listen.host_logins_per_second`" + `.
- ` + "`spread.*`, `join.*`, `failover.*`" + `: three servers, and a fourth that joins, on one PostgreSQL, meshed by TLS routes. 1,000
  users are registered at a real Dovecot; 1,000 more are at a fake mail server with their passwords in the cluster's memory
  alone, by a sign-in. ` + "`join.lost` and `join.doubled`" + `: while the fourth joins a mail is delivered every 50 ms, to another user
  each, as two to one device may rightly become one notification; lost are devices without theirs, doubled is every
  notification beyond. Then the fourth goes, the third is killed (` + "`seconds_3`" + `), and then the second (` + "`seconds_2`" + `): the seconds until
  every user is listed with a node that lives. ` + "`unowned`" + ` are those who are not after 10 s, ` + "`unregistered`" + ` those without
  an entry at Dovecot at any look, ` + "`memory_lost`" + ` those whose password nobody knows in the end.
- ` + "`reconcile.*`" + `: three servers are stopped, 200 mails are delivered to 100 of 200 users, the servers are started: the seconds
  until every device has its newest state. Once with passwords in the database, once with a master user.

Users and subscriptions are put into the database before the server starts, without IMAP sign-ins
([decision 0008](decisions/0008-what-bench-may-import.md)); of the push road, everything measured goes over HTTP, but for ` + "`apns.*`" + ` and ` + "`webpush.*`" + `.
`

func page(reports []Report, lines map[string]Line) string {
	var b strings.Builder
	b.WriteString(pageHead)
	b.WriteString("\n| run (UTC) | lines | machine | load average before | seconds |\n|---|---|---|---|---|\n")
	for _, r := range reports {
		quick := ""
		if r.Quick {
			quick = ", **quick: the figures mean little**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s cores %s, %s, %s, %s | %s | %.0f%s |\n", r.Started.Format("2006-01-02 15:04"), families(r.Lines),
			r.Machine["cores"], r.Machine["cpu"], r.Machine["memory"], r.Machine["system"], r.Machine["go"], r.Machine["load_before"], r.Seconds, quick)
	}
	b.WriteString("\nA load average above the number of cores says that the machine was busy with other things: latencies suffer most from\n" +
		"that, CPU for each message least.\n")
	b.WriteString("\n## Limits\n\n| limit | | measured |\n|---|---|---|\n")
	for _, l := range limits {
		word, figure := l.verdict(lines)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.text, word, figure)
	}
	b.WriteString("\n## Plots\n")
	for _, p := range plots {
		fmt.Fprintf(&b, "\n![%s](img/bench-%s.svg)\n", p.title, p.name)
	}
	b.WriteString("\n## All lines\n\n| line | value | unit | single runs |\n|---|---|---|---|\n")
	for _, r := range reports {
		for _, l := range r.Lines { // not as code: the documentation's test takes push.cpu_us for a setting
			var runs []string
			for _, v := range l.Runs {
				runs = append(runs, number(v))
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", l.Name, number(l.Value), l.Unit, strings.Join(runs, " "))
		}
	}
	b.WriteString(pageNotes)
	return b.String()
}

// families are the words before the dots of the lines' names.
func families(lines []Line) string {
	var all []string
	for _, l := range lines {
		family, _, _ := strings.Cut(l.Name, ".")
		if name := "`" + family + ".*`"; !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

// plot is a chart of horizontal bars.
type plot struct {
	name, title string
	lines       []string
}

var plots = []plot{
	{"cpu", "CPU for each message, us", []string{
		"notify.cpu_us", "notify.baseline_commit_cpu_us", "notify.baseline_handler_cpu_us", "push.cpu_us",
		"apns.cpu_us", "apns.baseline_http2_cpu_us", "webpush.cpu_us", "webpush.baseline_ecdh_us",
	}},
	{"rate", "Messages a second", []string{"notify.rate", "outage.rate", "apns.rate_50ms", "apns.rate_50ms_two", "apns.stream_limit_rate"}},
	{"latency", "Latency, ms", []string{
		"latency.accept_to_write_p50_ms", "latency.accept_to_write_p99_ms", "latency.baseline_fsync_p99_ms",
		"isolation.p99_ms", "isolation.p99_hanging_ms",
	}},
	{"listener", "Memory of a listener, KiB", []string{"idle.tls_rss_kib", "idle.plain_rss_kib"}},
	{"reconnect", "CPU to connect again, ms", []string{"reconnect.cpu_ms", "reconnect.baseline_cpu_ms"}},
	{"recovery", "Seconds until all is well", []string{
		"failover.seconds_3", "failover.seconds_2", "reconcile.seconds", "reconcile.master_seconds",
	}},
}

// svg draws the measured lines of a plot: a bar to the median, a dot for each run. Baselines are grey.
func (p plot) svg(lines map[string]Line) string {
	var shown []Line
	most := 0.0
	for _, name := range p.lines {
		if l, ok := lines[name]; ok {
			shown = append(shown, l)
			for _, v := range append(l.Runs, l.Value) {
				most = max(most, v)
			}
		}
	}
	const left, width, row = 250, 420, 26 // pixels
	height := 44 + row*len(shown)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 %d" font-family="sans-serif" font-size="12">`+"\n", height)
	fmt.Fprintf(&b, `<rect width="760" height="%d" fill="#ffffff"/><text x="12" y="22" font-size="14" font-weight="bold">%s</text>`+"\n", height, html.EscapeString(p.title))
	at := func(v float64) float64 { return left + width*v/max(most, 1e-9) }
	for i, l := range shown {
		y := 40 + row*i
		fill := "#2a6fb0"
		if strings.Contains(l.Name, "baseline") || strings.Contains(l.Name, "limit") {
			fill = "#9aa5b1"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+12, html.EscapeString(l.Name))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="16" fill="%s"/>`, left, y, at(l.Value)-left, fill)
		for _, v := range l.Runs {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%d" r="2.5" fill="#1b1b1b" fill-opacity="0.6"/>`, at(v), y+8)
		}
		end := l.Value
		for _, v := range l.Runs {
			end = max(end, v)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", at(end)+8, y+12, number(l.Value))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

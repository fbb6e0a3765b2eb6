package original

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSumsKeys makes trees of random keys, spellings, forms and repetitions: each key is in the report once, and no
// value of a key that is a secret or not known is.
func TestSumsKeys(t *testing.T) {
	const seed, trees, secret = 5, 60, "Geheim-0815"
	rnd := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test's
	pick := func(all ...string) string { return all[rnd.IntN(len(all))] }
	names := append(append([]string{}, taken...), sortedKeys(idle)...)
	forms := []string{"%s=%s\n", "%s : %s\r\n", "  %s %s\n", "%s=\\\n   %s\n", "! a comment \\\n%s\t=\t%s\r", "#\n%s=%s\n"}
	for range trees {
		dir := t.TempDir()
		want := 0
		for f := range 1 + rnd.IntN(4) {
			var b strings.Builder
			for range rnd.IntN(60) {
				name := pick(names...)
				value := pick("true", "false", "", "5000", "global", "*", `"open-xchange-mailapp", x*`, "/nowhere/x.p12", "localhost")
				switch rnd.IntN(6) {
				case 0:
					name = "com.openexchange." + pick("some.password", "cryptKey", "s3.accessKey", "hash.salt", "of.no.interest", "sms.pin")
					value = secret
				case 1:
					name = strings.Replace(name, "com.openexchange.", "com.openxchange.", 1)
				case 2:
					name = strings.Replace(name, "mobilepush", "mobilenotifier", 1)
				case 3:
					name, value = name[:len(name)-1]+"x", secret
				}
				if secretKey.MatchString(name) && !strings.HasSuffix(name, "Source") {
					value = pick("", secret)
				}
				fmt.Fprintf(&b, pick(forms...), name, value)
				want++
			}
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.properties", f)), []byte(b.String()), 0o600))
		}
		p := planOfTree(t, dir)
		n := 0
		for _, e := range p.Report.Entries {
			n++
			if e.Verdict != Taken && e.Reason == "" || e.Verdict != Dropped && e.To == "" {
				t.Errorf("%s:%d %s was %s to %q for %q", e.File, e.Line, e.Key, e.Verdict, e.To, e.Reason)
			}
		}
		if n != want {
			t.Errorf("%d keys in the report, %d in the files", n, want)
		}
		if text := p.Report.Text(); strings.Contains(text, secret) {
			t.Errorf("the report tells a secret:\n%s", text)
		}
		for _, e := range p.Report.Entries {
			if strings.Contains(e.Value+e.Reason, secret) {
				t.Errorf("%s = %s: %s", e.Key, e.Value, e.Reason)
			}
		}
	}
}

// TestSumsRows makes dumps of random rows, good and bad, twice and of nobody: each is taken or dropped, and those that are
// taken are what is made.
func TestSumsRows(t *testing.T) {
	const seed, dumps = 7, 60
	rnd := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test's
	pick := func(all ...string) string { return all[rnd.IntN(len(all))] }
	for range dumps {
		want := map[string]int{}
		var b strings.Builder
		row := func(table, columns string, values ...string) {
			want[table]++
			fmt.Fprintf(&b, "INSERT INTO `%s` (%s) VALUES (%s);\n", table, columns, strings.Join(values, ","))
		}
		id := func() string { return pick("0", "1", "2", "3", "4294967295", "99999999999", "-1", "NULL", "'x'") }
		for range rnd.IntN(80) {
			token := pick("'"+strings.Repeat(pick("a1", "b2", "C3"), 32)+"'", "'cReg"+pick("1", "2", "3")+":APA91bxxxxxxxxxxxxxxxxxxxxx'", "NULL", "'short'")
			at := pick("0", "1700000000000", "1800000000000", "9223372036854775807", "NULL", "-5")
			switch rnd.IntN(8) {
			case 0:
				row("user", "cid, id, imapServer, imapLogin, mailEnabled", id(), id(), pick("NULL", "'imaps://a.example'", "'::'"), pick("NULL", "'anna'", "'ANNA'", "'bert'", "'a\\nb'"), pick("1", "1", "0"))
			case 1:
				row("context", "cid, name, enabled", id(), pick("'a'", "NULL"), pick("1", "1", "0"))
			case 2:
				row("contextAttribute", "cid, name, value", id(), pick("'taxonomy/types'", "'config/com.openexchange.capability.mobile_mail_app'", "'x'"), pick("'true'", "'a,b'", "'&'"))
			case 3:
				row("user_attribute", "cid, id, name, value", id(), id(), pick("'config/com.openexchange.capability.mobile_mail_app'", "'x'"), pick("'true'", "'perhaps'"))
			case 4:
				row("mobileEventSubscriptions", "cid, user, service, token, provider, timestamp", id(), id(), pick("'apn'", "'gcm'", "'apn.macos'", "'pigeon'"), token, pick("'mail'", "'calendar'"), at)
			case 5:
				row("pns_subscription", "cid, user, id, token, client, transport, last_modified, all_flag, expires", id(), id(), pick("0x"+strings.Repeat("ab", 16), "0xABC", "0x00"),
					token, pick("'app'", "'an app'", "NULL"), pick("'apn'", "'gcm'", "'websocket'", "'wns'", "'webhook'", "'x'"), at, pick("0", "1"), at)
			case 6:
				row("pns_subscription_topic_exact", "id, cid, topic", "0x"+strings.Repeat("ab", 16), id(), pick("'ox:mail:new'", "'ox:calendar:new'"))
			case 7:
				row(pick("user", "context"), "cid, id", "1") // too few
			}
		}
		p, subs := planOf(t, twoLogins+"1,3,carl@example.org,\n", "x.sql", b.String())
		taken := map[string]int{}
		for _, table := range p.Report.Tables {
			n := 0
			for _, of := range table.Reasons {
				n += of
			}
			if table.Name != "logins" && table.Rows != want[table.Name] || table.Rows != table.Taken+table.Dropped || n != table.Dropped || table.Taken < 0 {
				t.Errorf("%+v of %d rows", table, want[table.Name])
			}
			taken[table.Name] = table.Taken
			delete(want, table.Name)
		}
		if len(want) > 0 {
			t.Errorf("not in the report: %v", want)
		}
		if n := taken["mobileEventSubscriptions"] + taken["pns_subscription"]; n != len(subs) || n != p.Report.Made.Subscriptions {
			t.Errorf("%d subscriptions taken, %d made, %d in the report", n, len(subs), p.Report.Made.Subscriptions)
		}
		if n := taken["user"] + taken["logins"]; n < len(p.Users) || taken["user"] > len(p.Users) {
			t.Errorf("%d rows of users and %d logins taken, %d users made", taken["user"], taken["logins"], len(p.Users))
		}
		if taken["user_attribute"] > len(p.Values) {
			t.Errorf("%d values of users taken, %d made", taken["user_attribute"], len(p.Values))
		}
	}
}

// planOfTree makes the plan of a tree without dumps.
func planOfTree(t *testing.T, dir string) *Plan {
	t.Helper()
	r, err := Open(dir, Options{Now: today})
	must(t, err)
	p, err := r.Plan()
	must(t, err)
	return p
}

package original

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMysqldump reads one database as a real mysqldump (MariaDB 10.11) writes it, with options that operators use. They
// all say the same.
func TestMysqldump(t *testing.T) {
	files, err := filepath.Glob("testdata/mysqldump/*.sql")
	must(t, err)
	tab, err := filepath.Glob("testdata/mysqldump/tab/*") // .sql before .txt
	must(t, err)
	if len(files) != 6 || len(tab) != 12 {
		t.Fatalf("%d dumps, and %d files of --tab", len(files), len(tab))
	}
	const want = `user 3@1 anna@example.org imap.example.org
user 4@1 börn;"x"@example.org imap.example.org
user 6@1 spacey imap.example.org
sub 3@1 open-xchange-mailapp apns a1a1a1 2023 expires false
sub 3@1 open-xchange-mobile-api-facade apns b1b1b1 2024 expires false
sub 4@1 open-xchange-mailapp fcm cReg1: 2023 expires false
sub 4@1 open-xchange-mobile-api-facade apns b2b2b2 2026 expires false
sub 4@1 open-xchange-mobile-api-facade fcm cReg2: 2024 expires false
value user 3@1 capability.mobile_mail_app=false
table mobileEventSubscriptions 4 = 2 + 2
table pns_subscription 8 = 3 + 5
table pns_subscription_topic_exact 1 = 1 + 0
table pns_subscription_topic_wildcard 1 = 1 + 0
table user 5 = 3 + 2
table user_attribute 3 = 1 + 2
`
	for _, dumps := range append([][]string{tab}, slices.Collect(slices.Chunk(files, 1))...) {
		t.Run(filepath.Base(dumps[0]), func(t *testing.T) {
			r, err := Open(t.TempDir(), Options{Now: today})
			must(t, err)
			for _, file := range dumps {
				f, err := os.Open(file) //nolint:gosec // the test's own
				must(t, err)
				must(t, r.Dump(filepath.Base(file), f))
				must(t, f.Close())
			}
			p, err := r.Plan()
			must(t, err)
			var b strings.Builder
			for _, u := range p.Users {
				fmt.Fprintf(&b, "user %s %s %s\n", u.ID, u.Login, u.MailHost)
			}
			var subs []string
			must(t, p.Subscriptions(func(s Subscription) error {
				subs = append(subs, fmt.Sprintf("sub %s %s %s %s %d expires %v\n", s.User, s.Client, s.Transport, s.Token[:6], s.Renewed.Year(), !s.Expires.IsZero()))
				return nil
			}))
			slices.Sort(subs)
			b.WriteString(strings.Join(subs, ""))
			for _, v := range p.Values {
				fmt.Fprintf(&b, "value %s %s %s=%s\n", v.Scope, v.Subject, v.Name, v.Value)
			}
			for _, table := range p.Report.Tables {
				if !slices.Contains([]string{"login2user", "registeredPush", "credentials"}, table.Name) {
					fmt.Fprintf(&b, "table %s %d = %d + %d\n", table.Name, table.Rows, table.Taken, table.Dropped)
				}
			}
			if got := b.String(); got != want {
				t.Errorf("it says\n%s, want\n%s", got, want)
			}
			for _, f := range p.Report.Findings {
				if strings.Contains(f.Text, "cannot be read") || strings.Contains(f.Text, "Dump completed") {
					t.Errorf("%s: %s", f.Subject, f.Text)
				}
			}
		})
	}
}

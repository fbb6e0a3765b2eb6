package original

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// planOf makes a plan of dumps by their names, and a file of logins.
func planOf(t *testing.T, logins string, dumps ...string) (*Plan, []string) {
	t.Helper()
	r, err := Open(t.TempDir(), Options{Now: today, IMAPHost: "imap.example.org"})
	must(t, err)
	for dump := range slices.Chunk(dumps, 2) {
		must(t, r.Dump(dump[0], strings.NewReader(dump[1])))
	}
	must(t, r.Logins("logins.csv", strings.NewReader(logins)))
	p, err := r.Plan()
	must(t, err)
	var subs []string
	must(t, p.Subscriptions(func(s Subscription) error {
		subs = append(subs, fmt.Sprintf("%s %s %s %d", s.User, s.Transport, s.Token[:4], s.Renewed.UnixMilli()))
		return nil
	}))
	slices.Sort(subs)
	return p, subs
}

const twoLogins = "context,user,login,mailhost\n1,3,anna@example.org,\n2,7,gerd@example.org,imaps://other.example.org\n"

// TestNewestWins gives a device to who subscribed last, in whatever order that is read.
func TestNewestWins(t *testing.T) {
	token := strings.Repeat("a1", 32)
	row := func(c, u, at int) string { return fmt.Sprintf("%d,apn,%s,mail,%d,%d\n", c, token, u, at) }
	for _, tc := range []struct {
		name, rows, want string
		conflicts        int
	}{
		{"the newer later", row(1, 3, 100) + row(2, 7, 200), "7@2 apns a1a1 200", 1},
		{"the newer first", row(2, 7, 200) + row(1, 3, 100), "7@2 apns a1a1 200", 1},
		{"one user twice", row(1, 3, 200) + row(1, 3, 100), "3@1 apns a1a1 200", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, subs := planOf(t, twoLogins, "x.csv", "cid,service,token,provider,user,timestamp\n"+tc.rows)
			if len(subs) != 1 || subs[0] != tc.want {
				t.Errorf("%q, want %q", subs, tc.want)
			}
			found := slices.ContainsFunc(p.Report.Findings, func(f Finding) bool { return f.Subject == "devices" })
			if table := p.Report.Tables[1]; found != (tc.conflicts > 0) || table.Taken != 1 || table.Dropped != 1 {
				t.Errorf("%+v, %+v", p.Report.Findings, table)
			}
		})
	}
}

// TestTopicsFirst reads topics before the subscriptions they belong to, and ids as HEX() prints them.
func TestTopicsFirst(t *testing.T) {
	id := func(n int) string { return strings.Repeat(fmt.Sprintf("%02X", n), 16) }
	sub := func(n, user int) string {
		return fmt.Sprintf("%s\t1\t%d\t%s\tapp\tapn\t100\t0\n", id(n), user, strings.Repeat(fmt.Sprintf("%02x", n), 32))
	}
	_, subs := planOf(t, twoLogins,
		"pns_subscription_topic_wildcard.tsv", "id\tcid\ttopic\n"+id(0xc1)+"\t1\tox:\n"+id(0xc2)+"\t1\tox:calendar:\n"+id(0xc3)+"\t1\tox:mail:ne\n",
		"pns_subscription.tsv", "id\tcid\tuser\ttoken\tclient\ttransport\tlast_modified\tall_flag\n"+sub(0xc1, 3)+sub(0xc2, 3)+sub(0xc3, 3))
	if want := []string{"3@1 apns c1c1 100"}; !slices.Equal(subs, want) {
		t.Errorf("%q, want %q", subs, want)
	}
}

// TestLogins lets the operator's file win over the dump, and refuses one login for two users.
func TestLogins(t *testing.T) {
	p, _ := planOf(t, twoLogins+"1,8,ANNA@example.org,\n0,1,x,\n1,9,,\n",
		"user.csv", "cid,id,imapServer,imapLogin\n1,3,imap://old.example.org,old\n1,4,imap://old.example.org,bert\n")
	var users []string
	for _, u := range p.Users {
		users = append(users, u.ID.String()+" "+u.Login+" "+u.MailHost)
	}
	want := []string{"3@1 anna@example.org imap.example.org", "4@1 bert old.example.org", "7@2 gerd@example.org other.example.org"}
	if !slices.Equal(users, want) {
		t.Errorf("%q, want %q", users, want)
	}
	if len(p.MailHosts) != 3 || p.MailHosts[1].Name != "old.example.org" || p.MailHosts[1].Security != "starttls" {
		t.Errorf("%+v", p.MailHosts)
	}
	if i := slices.IndexFunc(p.Report.Findings, func(f Finding) bool { return f.Subject == "logins" && strings.Contains(f.Text, "8@1 has that of 3@1") }); i < 0 || !p.Report.Findings[i].NeedsYou {
		t.Errorf("two users with one login: %+v", p.Report.Findings)
	}
	r, err := Open(t.TempDir(), Options{Now: today})
	must(t, err)
	if err := r.Logins("x.csv", strings.NewReader("user,login\n3,anna\n")); err == nil {
		t.Error("a file without contexts was read")
	}
}

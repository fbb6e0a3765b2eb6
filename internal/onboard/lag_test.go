package onboard

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func TestLag(t *testing.T) {
	t.Parallel()
	dove := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret}})
	good := fmt.Sprintf("127.0.0.1:%d", dove.LMTPPort)
	for _, tc := range []struct {
		name    string
		user    string // who is known, by his login
		devices int
		told    bool // the notification comes
		lmtp    string
		to      string
		want    map[string]State
	}{
		{"told", alice, 1, true, good, "", map[string]State{"delivery": OK, "lag_mailbox": OK, "lag_notification": OK}},
		{"nothing tells us", alice, 1, false, good, "", map[string]State{"delivery": OK, "lag_notification": Failed}},
		{"no device", alice, 0, false, good, "", map[string]State{"lag_mailbox": OK, "lag_notification": Skipped}},
		{"no user of ours", "", 0, false, good, "", map[string]State{"lag_mailbox": OK, "lag_notification": Skipped}},
		{"no such recipient", alice, 1, false, good, "nobody@rig.test", map[string]State{"delivery": Failed, "lag_mailbox": "", "lag_notification": ""}},
		{"no address", alice, 1, false, good, "a>\r\nb", map[string]State{"delivery": Failed}},
		{"no LMTP", alice, 1, false, "127.0.0.1:1", "", map[string]State{"delivery": Failed}},
		{"another protocol", alice, 1, false, fmt.Sprintf("127.0.0.1:%d", dove.IMAPPort), "", map[string]State{"delivery": Failed}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := tenant.MailHost{Name: "dove", IMAPHost: dove.Host, IMAPPort: dove.IMAPPort, Security: tenant.SecurityNone}
			d := newDoctor(t, h)
			d.patience = 10 * time.Second
			if tc.devices > 0 && !tc.told {
				d.patience = time.Second
			}
			if _, err := d.Tenants.AddContext(t.Context(), tenant.Context{}); err != nil {
				t.Fatal(err)
			}
			if tc.user != "" {
				if _, err := d.Tenants.AddUser(t.Context(), tenant.User{ID: tenant.UserID{Context: 1}, Login: tc.user, MailHost: "dove"}); err != nil {
					t.Fatal(err)
				}
			}
			d.Devices = func(context.Context, tenant.UserID) (int, error) { return tc.devices, nil }
			var asked atomic.Int64
			d.Told = func(context.Context, tenant.UserID) (uint32, bool, error) {
				if tc.told && asked.Add(1) > 2 {
					return 1 << 31, true, nil
				}
				return 1, true, nil // the mailbox was empty then
			}
			r := examine(t, d, Request{Login: alice, Password: secret, LMTP: tc.lmtp, To: tc.to})
			for name, state := range tc.want {
				r.want(t, name, state, "")
			}
		})
	}
}

// TestLagUnseen is a mailbox that does not tell of a mail, as one beyond the limit of inotify does not for long.
func TestLagUnseen(t *testing.T) {
	t.Parallel()
	lmtp := listen(t, func(c net.Conn) {
		_, _ = c.Write([]byte("220 ready\r\n"))
		in, text := bufio.NewScanner(c), false
		for in.Scan() {
			switch line := in.Text(); {
			case text && line != ".":
			case line == "DATA":
				text = true
				_, _ = c.Write([]byte("354 go on\r\n"))
			default:
				text = false
				_, _ = c.Write([]byte("250 ok\r\n"))
			}
		}
	})
	imap := listen(t, func(c net.Conn) {
		_, _ = c.Write([]byte("* OK [CAPABILITY IMAP4rev1 IDLE] ready\r\n"))
		in := bufio.NewScanner(c)
		idling := ""
		for in.Scan() {
			tag, command, _ := strings.Cut(in.Text(), " ")
			switch {
			case idling != "": // DONE
				_, _ = fmt.Fprintf(c, "%s OK done\r\n", idling)
				idling = ""
			case command == "IDLE":
				idling = tag
				_, _ = c.Write([]byte("+ idling\r\n* 3 EXISTS\r\n")) // which is no news
			case strings.HasPrefix(command, "EXAMINE"):
				_, _ = fmt.Fprintf(c, "* 3 EXISTS\r\n* OK [UIDVALIDITY 1] x\r\n* OK [UIDNEXT 4] x\r\n%s OK [READ-ONLY] done\r\n", tag)
			default:
				_, _ = fmt.Fprintf(c, "* CAPABILITY IMAP4rev1 IDLE\r\n%s OK done\r\n", tag)
			}
		}
	})
	d := newDoctor(t, imap)
	d.patience = 500 * time.Millisecond
	r := examine(t, d, Request{Login: "anna", Password: secret, SMTP: fmt.Sprintf("127.0.0.1:%d", lmtp.IMAPPort)})
	r.want(t, "mailbox", OK, "3 messages")
	r.want(t, "delivery", OK, "it stays in the mailbox")
	r.want(t, "lag_mailbox", Failed, "does not tell of the mail")
	r.want(t, "lag_notification", Skipped, "no user of this mail host")
}

package bench

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMailServer has a talk with the fake, restarts it at its address, and has the baseline say over TLS what
// the fake heard.
func TestMailServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := testRunner(t)
	m, err := r.imapServer(ctx, mailserverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.ready.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, step := range []struct{ say, want string }{
		{"", "* OK [CAPABILITY " + capabilitiesBefore + "] Bench ready.\r\n"},
		{"a1 EXAMINE INBOX\r\n", "a1 BAD Log in first.\r\n"},
		{"a2 LOGIN {4}\r\n", "+ OK\r\n"},
		{"anna \"pass \\\"word\\\"\"\r\n", "a2 OK [CAPABILITY " + capabilitiesAfter + "] Logged in\r\n"},
		{"a3 ENABLE QRESYNC\r\n", "* ENABLED QRESYNC\r\na3 OK ENABLE completed.\r\n"},
		{"a4 STATUS {5+}\r\nINBOX (UIDNEXT UNSEEN)\r\n", "* STATUS INBOX (UIDNEXT 13 UNSEEN 0)\r\na4 OK STATUS completed.\r\n"},
		{
			"a5 LIST \"\" \"*\" RETURN (STATUS (UIDVALIDITY HIGHESTMODSEQ))\r\n", `* LIST (\HasNoChildren) "/" INBOX` +
				"\r\n* STATUS INBOX (UIDVALIDITY 1700000000 HIGHESTMODSEQ 20)\r\na5 OK LIST completed.\r\n",
		},
		{"a6 UID FETCH 13:* (FLAGS)\r\n", "* 12 FETCH (UID 12 FLAGS (\\Seen))\r\na6 OK UID FETCH completed.\r\n"},
		{"a7 UID FETCH 1:* (FLAGS) (CHANGEDSINCE 20)\r\n", "a7 OK UID FETCH completed.\r\n"},
		{"a8 UID SEARCH UNSEEN\r\n", "* SEARCH\r\na8 OK UID SEARCH completed.\r\n"},
		{"a9 UID SEARCH RETURN (MIN COUNT) UID 3:4\r\n", "* ESEARCH (TAG \"a9\") UID MIN 3 COUNT 2\r\na9 OK UID SEARCH completed.\r\n"},
		{"b0 NOTIFY NONE\r\n", "b0 BAD Unknown command.\r\n"},
		{"b1 EXAMINE Other\r\n", "b1 NO [NONEXISTENT] Mailbox doesn't exist\r\n"},
		{"b2 IDLE\r\n", "+ idling\r\n"},
	} {
		if _, err := conn.Write([]byte(step.say)); err != nil {
			t.Fatal(err)
		}
		for want := range strings.SplitAfterSeq(step.want, "\n") {
			if want == "" {
				continue
			}
			if got, err := in.ReadString('\n'); err != nil || got != want {
				t.Fatalf("after %q: %q, %v, want %q", step.say, got, err, want)
			}
		}
	}
	heard, err := m.idling(ctx, 1, m.process)
	if err != nil || heard.Open != 1 || heard.Logins != 1 || heard.Commands["STATUS"] != 1 {
		t.Errorf("%+v, %v", heard, err)
	}
	if _, err := conn.Write([]byte("DONE\r\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := in.ReadString('\n'); got != "b2 OK Idle completed.\r\n" {
		t.Errorf("%q, %v", got, err)
	}

	if err := m.kill(); err != nil {
		t.Fatal(err)
	}
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	m.cfg = mailserverConfig{Certificate: id.leaf, CertificateKey: id.leafKey, Rate: 5}
	if err := m.again(ctx, r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.kill(); err != nil {
			t.Error(err)
		}
	})
	var res dialResult
	err = r.run(ctx, "dial", dialConfig{Addr: m.ready.Addr, CA: id.caPEM, Talk: heard.Talk, Connections: 5, Concurrency: 3}, &res)
	if err != nil || res.CPU <= 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	s, err := m.stats(ctx)
	if err != nil || s.Logins != 5 || s.Refused != 0 || s.Commands["IDLE"] != 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestHold is the idle and the reconnect line, small: users that were seeded are listened to.
func TestHold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cfg := mailserverConfig{Certificate: id.leaf, CertificateKey: id.leafKey}
	kib, again, err := testRunner(t).holdOn(ctx, 20, cfg, id)
	if err != nil || kib <= 0 || again.rate <= 0 || len(again.talk) < 3 {
		t.Errorf("%v KiB, %+v, %v", kib, again, err)
	}
}

// TestFleet starts two nodes with the real servers of a fleet, and delivers a mail while they run and one
// while they do not.
func TestFleet(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r := testRunner(t)
	t.Cleanup(func() {
		for _, dir := range r.clean {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	f, err := r.newFleet(ctx, fleetConfig{Nodes: 2, Users: 5, Host: seedHost{
		Source: "dovecot", PasswordSource: "global", MasterLogin: masterLogin, MasterPassword: masterPassword,
	}})
	if errors.Is(err, errMissing) && os.Getenv("POSTHORN_REQUIRE_PEERS") != "1" {
		t.Skipf("SKIPPED PEER: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	if n, err := f.dovecot.unregistered(ctx, 5); n != 5 || err != nil {
		t.Errorf("%d are not registered, %v", n, err)
	}
	if err := f.start(ctx, f.nodes...); err != nil {
		t.Fatal(err)
	}
	v, err := f.settled(ctx, time.Minute, 5, listeningStates...)
	if err != nil || v.share["node1"]+v.share["node2"] != 5 {
		t.Fatalf("%v, %v", v.share, err)
	}
	if n, err := f.dovecot.unregistered(ctx, 5); n != 0 || err != nil {
		t.Errorf("%d are not registered, %v", n, err)
	}
	all := []string{login(0), login(1), login(2), login(3), login(4)}
	for i, told := range [][]string{all, all[1:3]} {
		if err := f.dovecot.deliver(ctx, told, mail("hello")); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := f.start(ctx, f.nodes...); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := f.pushed(ctx, len(told), i+1, 30*time.Second); err != nil || s.Newest != len(told) || s.Sends != len(told) {
			t.Errorf("mail %d: %+v, %v", i+1, s, err)
		}
		if i == 0 {
			err := errors.Join(f.nodes[0].stop(), f.nodes[1].stop(), f.apns.reset(ctx))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

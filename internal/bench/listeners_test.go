package bench

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/imap"
)

// TestMailServer has Posthorn's own client sign in at the fake, restarts the fake at its address, and has
// the baseline say what the fake heard.
func TestMailServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := testRunner(t)
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.imapServer(ctx, mailserverConfig{Certificate: id.leaf, CertificateKey: id.leafKey, Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.again(ctx, r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.kill(); err != nil {
			t.Error(err)
		}
	})
	var res dialResult
	talk := []talkStep{{Answer: len("* OK [CAPABILITY " + capabilitiesBefore + "] Bench ready.\r\n")}}
	for _, said := range []string{"a LOGIN user pass\r\n", "b EXAMINE INBOX (CONDSTORE)\r\n", "c UID FETCH 11:* (UID FLAGS)\r\n"} {
		talk = append(talk, talkStep{Said: []byte(said), Answer: 1})
	}
	_ = imap.SecurityTLS
	err = r.run(ctx, "dial", dialConfig{Addr: m.ready.Addr, CA: id.caPEM, Talk: talk, Connections: 8, Concurrency: 3}, &res)
	if err != nil || res.CPU <= 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	s, err := m.stats(ctx)
	t.Logf("%+v", s)
	if err != nil || s.Logins != 8 || s.Refused != 0 || s.Commands["EXAMINE"] != 8 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestPeers starts the real servers of a fleet and delivers a mail.
func TestPeers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := testRunner(t)
	t.Cleanup(func() {
		for _, dir := range r.clean {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	f, err := r.newFleet(ctx, fleetConfig{Nodes: 2, Users: 5, Stored: true, Host: seedHost{MasterLogin: masterLogin, MasterPassword: masterPassword}})
	if errors.Is(err, errMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.dovecot.deliver(ctx, []string{login(1), login(2)}, mail("hello")); err != nil {
		t.Error(err)
	}
	if n, err := f.dovecot.unregistered(ctx, 5); n != 5 || err != nil {
		t.Errorf("%d are not registered, %v", n, err)
	}
	call := doveadmCall{"mailboxMetadataSet", map[string]any{
		"user": login(3), "mailbox": "", "allowEmptyMailboxName": true, "key": metadataKey, "value": "user=4@1",
	}, "t"}
	if _, err := f.dovecot.doveadm(ctx, []doveadmCall{call}); err != nil {
		t.Error(err)
	}
	if n, err := f.dovecot.unregistered(ctx, 5); n != 4 || err != nil {
		t.Errorf("%d are not registered, %v", n, err)
	}
}

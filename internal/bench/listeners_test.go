package bench

import (
	"context"
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

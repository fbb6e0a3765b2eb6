package server_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/demo"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// TestPhone is "posthorn push phone": it says what the server must allow, shows a mail that Dovecot reports, and
// leaves nothing behind.
func TestPhone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	at := testpeer.FreeAddresses(t, 2)
	w.edit(`outbound: {allow: [`, `outbound: {allow: ["http://`+at[0]+`", `)
	w.start()
	d := testpeer.StartDovecot(t, testpeer.DovecotConfig{Users: map[string]string{alice: secret1}, NotifyURL: w.notifyURL()})
	w.provision(d, api.MailHost{}, alice)
	devices := func() int {
		var list api.List[map[string]any]
		must(t, w.admin.Do(t.Context(), "GET", "/admin/v1/push/devices", nil, nil, &list))
		return len(list.Items)
	}
	var out bytes.Buffer
	cfg := demo.PhoneConfig{Server: w.public, Client: "posthorn-app", Login: alice, Password: secret1, Addr: at[1], Count: 1, Out: &out}
	if err := demo.Phone(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `outbound: {allow: ["http://`+at[1]+`"]}`) {
		t.Errorf("not allowed: %v", err)
	}
	cfg.Addr = at[0]
	done := make(chan error)
	go func() { done <- demo.Phone(t.Context(), cfg) }()
	w.waitFor("the phone subscribes", func() bool { return devices() == 1 })
	d.DeliverLDA(t, alice, mail("It works", "Hallo"))
	must(t, <-done)
	if got := out.String(); !strings.Contains(got, "its listener is registered") || !strings.Contains(got, ": It works") {
		t.Errorf("the phone shows:\n%s", got)
	}
	if left := devices(); left > 0 {
		t.Errorf("%d devices are left behind", left)
	}
}

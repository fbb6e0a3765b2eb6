package onboard

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// late is when a mail server's news come so late that something must be wrong, as at the inotify limit, where
	// Dovecot looks each 30 s.
	late = 5 * time.Second
	// pollTold is how often the store is asked whether the user was told.
	pollTold = 10 * time.Millisecond
)

// lag delivers a test mail, and measures how long the mailbox and we take to know of it.
func (e *exam) lag(ctx context.Context) {
	proto, addr := "lmtp", e.req.LMTP
	if addr == "" {
		proto, addr = "smtp", e.req.SMTP
	}
	if addr == "" {
		return
	}
	var w watch
	if !e.run(ctx, "mailbox", func(ctx context.Context) Check { return e.openWatch(ctx, &w) }) {
		return
	}
	var handed time.Time
	delivered := e.run(ctx, "delivery", func(ctx context.Context) (c Check) {
		handed, c = e.deliver(ctx, proto, addr)
		return c
	})
	if !delivered {
		e.conn.Close()
		_ = w.idle()
		return
	}
	patience := cmp.Or(e.patience, lagTimeout)
	waiting, cancel := context.WithDeadline(ctx, handed.Add(patience))
	defer cancel()
	var told Check
	var asking sync.WaitGroup
	asking.Go(func() { told = e.awaitTold(waiting, w, handed) })
	e.run(ctx, "lag_mailbox", func(context.Context) Check { return e.awaitSeen(waiting, &w, handed) })
	e.run(ctx, "lag_notification", func(context.Context) Check { asking.Wait(); return told })
}

// watch is what is known of the INBOX before the delivery.
type watch struct {
	user    tenant.UserID // whose it is; zero when nobody's here
	devices int
	uidNext uint32 // of the mailbox, or the one told of where the server does not say
	seen    chan time.Time
	idle    func() error // waits for the end of the connection's IDLE; nil error when there is none
}

// openWatch opens the INBOX, and looks who is to be told of it.
func (e *exam) openWatch(ctx context.Context, w *watch) Check {
	w.seen, w.idle = make(chan time.Time, 1), func() error { return nil }
	u, err := e.who(ctx)
	if err == nil && u != (tenant.UserID{}) {
		w.user = u
		w.devices, err = e.Devices(ctx, u)
	}
	if err != nil {
		return failed("see database", "users cannot be read: %s", why(ctx, err))
	}
	inbox, err := e.conn.Examine(ctx, "INBOX", nil)
	if err != nil {
		return failed("the mail server's log says more", "the INBOX cannot be opened: %s", why(ctx, err))
	}
	if w.uidNext = inbox.UIDNext; w.uidNext == 0 && w.user != (tenant.UserID{}) {
		w.uidNext, _, _ = e.Told(ctx, w.user)
	}
	if !e.conn.Has("IDLE") && !e.conn.Has("IMAP4REV2") {
		return ok("%d messages; without IDLE", inbox.Exists)
	}
	e.conn.Handle(func(u imap.Update) {
		if n, isExists := u.(imap.Exists); isExists && uint32(n) > inbox.Exists {
			select {
			case w.seen <- time.Now():
			default:
			}
		}
	})
	idling := make(chan error, 1)
	go func() { idling <- e.conn.Idle() }()
	w.idle = sync.OnceValue(func() error {
		e.conn.Interrupt(time.Second)
		return <-idling
	})
	return ok("%d messages; the connection idles", inbox.Exists)
}

// who is the user of the sign-in, if he is one of ours.
func (e *exam) who(ctx context.Context) (tenant.UserID, error) {
	if e.user != nil {
		return e.user.ID, nil
	}
	users, err := e.Tenants.UsersByLogin(ctx, e.req.Login)
	for _, u := range users {
		if u.MailHost == e.host.Name {
			return u.ID, nil
		}
	}
	return tenant.UserID{}, err
}

// awaitSeen waits for the mailbox to tell of the mail.
func (e *exam) awaitSeen(ctx context.Context, w *watch, handed time.Time) Check {
	if !e.conn.Has("IDLE") && !e.conn.Has("IMAP4REV2") {
		return skipped("the mail server has no IDLE")
	}
	select {
	case at := <-w.seen:
		err := w.idle()
		took := at.Sub(handed)
		switch {
		case err != nil:
			return warning("the mail server's log says more", "told after %s, but the connection broke: %v", in(took), err)
		case took > late:
			return warning("is the inotify limit of the mail server's machine reached (fs.inotify.max_user_instances)?", "told after %s", in(took))
		}
		return ok("told over IDLE after %s", in(took))
	case <-ctx.Done():
	}
	if err := w.idle(); err != nil {
		return failed("the mail server's log says more", "the connection broke: %v", err)
	}
	return failed("was it put into another folder, by a filter? is fs.inotify.max_user_instances reached at the mail server?", "the INBOX does not tell of the mail in time")
}

// awaitTold waits until the user was told of the mail, whatever has told us.
func (e *exam) awaitTold(ctx context.Context, w watch, handed time.Time) Check {
	switch {
	case w.user == (tenant.UserID{}):
		return skipped("%s is no user of this mail host (posthorn user add)", e.req.Login)
	case w.devices == 0:
		return skipped("%s has no subscribed device, so nobody is told", w.user)
	}
	tick := time.NewTicker(pollTold)
	defer tick.Stop()
	for {
		next, _, err := e.Told(ctx, w.user)
		switch {
		case err == nil && next > w.uidNext:
			return ok("on its way to the devices after %s", in(time.Since(handed)))
		case err != nil && ctx.Err() == nil:
			return failed("see database", "the store cannot be asked: %s", why(ctx, err))
		}
		select {
		case <-ctx.Done():
			return failed(fmt.Sprintf("posthorn push users %s says how the listener is; for a Dovecot see that notify and push_notification are in mail_plugins of protocol lmtp, and give --notify-url", w.user),
				"the mail was delivered, and nothing told us in time")
		case <-tick.C:
		}
	}
}

// deliver hands a test mail to a mail server, and returns when it began to hand over its text: the
// notification may come before the answer.
func (e *exam) deliver(ctx context.Context, proto, addr string) (handed time.Time, c Check) {
	to := e.req.To
	if to == "" && e.user != nil {
		to = e.user.Login
	} else if to == "" {
		to = e.req.Login
	}
	if to == "" || strings.ContainsAny(to, "<> \r\n") {
		return handed, failed("give it with --deliver-to", "%q is no address to deliver to", to)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return handed, failed("is that the port of "+strings.ToUpper(proto)+", and open to this machine?", "%s cannot be reached: %s", addr, why(ctx, err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	handed, err = send(textproto.NewConn(conn), proto, to)
	if err != nil {
		return handed, failed("the mail server's log says more; --deliver-to names another recipient", "the test mail was not taken: %s", why(ctx, err))
	}
	return handed, ok("taken for %s after %s; it stays in the mailbox", to, in(time.Since(handed)))
}

// send speaks SMTP (RFC 5321) or LMTP (RFC 2033), which for one recipient differ in the first word.
func send(c *textproto.Conn, proto, to string) (handed time.Time, err error) {
	if _, _, err := c.ReadResponse(220); err != nil {
		return handed, fmt.Errorf("read greeting: %w", err)
	}
	hello := map[string]string{"lmtp": "LHLO localhost", "smtp": "EHLO localhost"}[proto]
	for _, cmd := range []struct {
		line string
		code int
	}{{hello, 250}, {"MAIL FROM:<>", 250}, {"RCPT TO:<" + to + ">", 25}, {"DATA", 354}} {
		if err := c.PrintfLine("%s", cmd.line); err != nil {
			return handed, err
		}
		if _, _, err := c.ReadResponse(cmd.code); err != nil {
			return handed, fmt.Errorf("answer to %s: %w", cmd.line, err)
		}
	}
	w := c.DotWriter()
	_, err = fmt.Fprintf(w, "From: posthorn doctor <postmaster@localhost>\r\nTo: <%s>\r\nSubject: posthorn doctor\r\nDate: %s\r\nMessage-ID: <%s@posthorn.localhost>\r\n"+
		"Auto-Submitted: auto-generated\r\n\r\nA test of the way of new mail to the phones.\r\n", to, time.Now().Format(time.RFC1123Z), rand.Text())
	handed = time.Now()
	if err := errors.Join(err, w.Close()); err != nil {
		return handed, err
	}
	if _, _, err := c.ReadResponse(250); err != nil {
		return handed, fmt.Errorf("answer to the mail: %w", err)
	}
	_ = c.PrintfLine("QUIT") // the mail is taken
	return handed, nil
}

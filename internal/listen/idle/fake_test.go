package idle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// fake is a server with one mailbox and no more extensions than it is told.
type fake struct {
	caps   string
	quirks string // "no uidnext", "deaf" (no answer to DONE), "restless" and "busy" (EXISTS with each SEARCH), "full" (at login)

	mu       sync.Mutex
	validity int
	next     int
	seen     map[int]bool // by uid
	modseq   int
	given    []string // names of commands
	conns    []net.Conn
	tell     func(string) // to the connection that idles
	listener net.Listener
}

func (f *fake) start(t *testing.T) *rig {
	t.Helper()
	f.validity, f.next, f.seen, f.modseq = 7, 1, map[int]bool{}, 1
	var err error
	f.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				f.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		must(t, f.listener.Close())
		f.drop()
		wg.Wait()
	})
	return newRig(t, tenant.MailHost{IMAPHost: "127.0.0.1", IMAPPort: f.listener.Addr().(*net.TCPAddr).Port})
}

// drop ends all connections.
func (f *fake) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// idles waits until a connection does.
func (f *fake) idles(r *rig) {
	r.tb.Helper()
	r.within(2*time.Second, "IDLE", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.tell != nil
	})
}

// add has n messages arrive, and tells of them where somebody idles.
func (f *fake) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.seen[f.next] = false
		f.next++
	}
	f.modseq++
	if f.tell != nil {
		f.tell(fmt.Sprintf("* %d EXISTS\r\n", len(f.seen)))
	}
}

func (f *fake) change(seen bool, uids ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, uid := range uids {
		f.seen[uid] = seen
	}
	f.modseq++
}

// commands are what was given since the last call.
func (f *fake) commands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.given
	f.given = nil
	return all
}

func (f *fake) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(conn, format, args...) }
	say("* OK [CAPABILITY %s] hi\r\n", f.caps)
	idle := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		f.mu.Lock()
		if words[0] == "DONE" {
			f.tell = nil
			if f.quirks != "deaf" {
				say("%s OK\r\n", idle)
			}
			f.mu.Unlock()
			continue
		}
		name := words[1]
		if name == "UID" {
			name += " " + words[2]
		}
		f.given = append(f.given, name)
		answer := "OK"
		switch name {
		case "LOGIN":
			if f.quirks == "full" {
				answer = "NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded"
			}
		case "EXAMINE":
			say("* %d EXISTS\r\n* OK [UIDVALIDITY %d] x\r\n", len(f.seen), f.validity)
			if f.quirks != "no uidnext" {
				say("* OK [UIDNEXT %d] x\r\n", f.next)
			}
			if strings.Contains(f.caps, "CONDSTORE") {
				say("* OK [HIGHESTMODSEQ %d] x\r\n", f.modseq)
			}
		case "STATUS":
			say("* STATUS INBOX (UNSEEN %d)\r\n", len(f.find("UNSEEN")))
		case "UID SEARCH":
			if f.quirks == "restless" {
				say("* %d EXISTS\r\n* 1 FETCH (FLAGS (\\Recent))\r\n", len(f.seen))
			}
			if f.quirks == "busy" && f.next < 20 { // mail comes while we look
				f.seen[f.next] = false
				f.next++
				say("* %d EXISTS\r\n", len(f.seen))
			}
			say("* SEARCH %s\r\n", strings.Join(f.find(strings.Join(words[3:], " ")), " "))
		case "UID FETCH":
			for _, uid := range f.find("UID " + words[3]) {
				say("* 1 FETCH (UID %s INTERNALDATE %q ENVELOPE (NIL \"mail %s\" ((NIL NIL \"zoe\" \"example.org\")) NIL NIL NIL NIL NIL NIL NIL))\r\n",
					uid, time.Now().UTC().Format("02-Jan-2006 15:04:05 -0700"), uid)
			}
		case "IDLE":
			idle = words[0]
			say("+ idling\r\n")
			f.tell = func(s string) { _, _ = io.WriteString(conn, s) }
		case "CAPABILITY":
			say("* CAPABILITY %s\r\n", f.caps)
		}
		if name != "IDLE" {
			say("%s %s done\r\n", words[0], answer)
		}
		f.mu.Unlock()
	}
}

// find returns the uids for which "UID 1:2,5:* UNSEEN UNDELETED", or less of it, holds.
func (f *fake) find(what string) (all []string) {
	for uid := 1; uid < f.next; uid++ {
		seen, ok := f.seen[uid]
		if !ok || seen && strings.Contains(what, "UNSEEN") {
			continue
		}
		if rest, ok := strings.CutPrefix(what, "UID "); ok {
			set, _, _ := strings.Cut(rest, " ")
			in := func(r string) bool {
				from, to, more := strings.Cut(r, ":")
				if !more {
					to = from
				}
				at := func(s string) int {
					if s == "*" {
						return f.next - 1
					}
					n, _ := strconv.Atoi(s)
					return n
				}
				return min(at(from), at(to)) <= uid && uid <= max(at(from), at(to))
			}
			if !slices.ContainsFunc(strings.Split(set, ","), in) {
				continue
			}
		}
		all = append(all, strconv.Itoa(uid))
	}
	return all
}

// TestWithoutIdle: a server that tells nothing is asked, whatever else it lacks.
func TestWithoutIdle(t *testing.T) {
	t.Parallel()
	for _, f := range []*fake{{caps: "IMAP4rev1"}, {caps: "IMAP4rev1", quirks: "no uidnext"}, {caps: "IMAP4rev1 CONDSTORE"}} {
		t.Run(f.caps+f.quirks, func(t *testing.T) {
			t.Parallel()
			r := f.start(t)
			r.PollEvery = 20 * time.Millisecond
			f.add(1)
			c := r.open()
			if c.Mode() != ModePoll {
				t.Errorf("mode %s", c.Mode())
			}
			f.add(1)
			r.mail(event.Inbox, 2, "mail 2", 2)
			f.add(2)
			r.mail(event.Inbox, 4, "mail 4", 4)
			f.change(true, 2, 3)
			r.unseen(2)
			f.drop()
			if err := <-r.held; err == nil {
				t.Error("the connection is gone, and Hold does not say so")
			}
			f.add(1)
			r.open()
			r.mail(event.Inbox, 5, "mail 5", 3)
		})
	}
}

// TestReissue: what the server did not tell is found when IDLE is issued again; and most connections cost one command.
func TestReissue(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE CONDSTORE"}
	r := f.start(t)
	r.ReissueEvery = 50 * time.Millisecond
	r.open()
	f.mu.Lock()
	f.seen[1], f.next, f.modseq = false, 2, 9
	f.mu.Unlock()
	r.mail(event.Inbox, 1, "mail 1", 1)
	f.commands()
	<-time.After(300 * time.Millisecond)
	got := f.commands()
	if n := len(got); n < 4 || slices.ContainsFunc(got, func(s string) bool { return s != "IDLE" && s != "EXAMINE" }) {
		t.Errorf("commands while nothing happens: %v", got)
	}
}

// TestTold: new mail at once, also without CONDSTORE and ESEARCH.
func TestTold(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE"}
	r := f.start(t)
	r.open()
	for i := range uint32(3) {
		f.idles(r)
		f.add(1)
		r.mail(event.Inbox, i+1, fmt.Sprint("mail ", i+1), int(i+1))
	}
	if late := lagOf(t, r.Metrics.(*prometheus.Registry)); late < 0 || late > 2 {
		t.Errorf("told after %v s", late)
	}
}

// TestBusy: mail that comes while we look is not forgotten.
func TestBusy(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1", quirks: "busy"}
	r := f.start(t)
	c := r.open()
	f.add(1)
	c.Wake()
	r.within(20*time.Second, "the last", func() bool { return r.told()["mail"].UID == 19 })
}

// TestRestless: a server that always has something to say does not keep us busy.
func TestRestless(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1", quirks: "restless"}
	r := f.start(t)
	f.add(1)
	c := r.open()
	f.add(1)
	c.Wake()
	r.mail(event.Inbox, 2, "mail 2", 2)
	f.commands()
	<-time.After(1500 * time.Millisecond)
	if got := f.commands(); len(got) > 10 {
		t.Errorf("%d commands within 1.5 s", len(got))
	}
}

// TestStoreFails: what cannot be read now is read later, and the connection stays.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE"}
	r := f.start(t)
	var mu sync.Mutex
	fault := errors.New("disk full")
	r.Folders = func(context.Context, tenant.UserID) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		return nil, fault
	}
	c := r.open()
	if !strings.Contains(r.log.String(), "disk full") {
		t.Errorf("logged: %s", r.log.String())
	}
	r.alarms.mu.Lock()
	if soon := time.Until(c.due); soon > retryStore {
		t.Errorf("tried again after %v", soon)
	}
	r.alarms.mu.Unlock()
	mu.Lock()
	fault = nil
	mu.Unlock()
	f.idles(r)
	f.add(1)
	r.mail(event.Inbox, 1, "mail 1", 1)
}

// TestNotified: of which folders the server tells, until it says that it lost count.
func TestNotified(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE NOTIFY"}
	r := f.start(t)
	r.folders = []string{"Archive", "Lists"}
	c := r.open()
	if c.Mode() != ModeNotify {
		t.Errorf("mode %s", c.Mode())
	}
	f.idles(r)
	f.commands()
	say := func(s string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tell(s)
	}
	say("* STATUS Drafts (UNSEEN 1)\r\n* OK Still here\r\n")
	say("* STATUS Lists (UNSEEN 1)\r\n")
	r.within(3*time.Second, "a look", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return slices.Contains(f.given, "STATUS") })
	if got := f.commands(); slices.Contains(got, "NOTIFY") {
		t.Errorf("asked again: %v", got)
	}
	f.idles(r)
	say("* OK [NOTIFICATIONOVERFLOW] too much\r\n")
	r.within(3*time.Second, "NOTIFY again", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return slices.Contains(f.given, "NOTIFY") })
	r.within(3*time.Second, "its mode", func() bool { return c.Mode() == ModeNotify })
	r.mu.Lock()
	r.folders = nil
	r.mu.Unlock()
	f.idles(r)
	c.Wake()
	r.within(3*time.Second, "no more folders", func() bool { return c.Mode() == ModeIdle })
}

func TestDeaf(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE", quirks: "deaf"}
	r := f.start(t)
	r.answer = 50 * time.Millisecond
	c := r.open()
	f.idles(r)
	c.Wake()
	if err := <-r.held; err == nil {
		t.Error("a server that does not answer is taken for well")
	}
	c.Wake() // nothing happens to one that is gone
}

func TestFull(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1 IDLE", quirks: "full"}
	r := f.start(t)
	if _, err := r.Open(t.Context(), r.user); !errors.Is(err, ErrLimit) {
		t.Errorf("open: %v", err)
	}
}

// TestLook is Look alone, by itself.
func TestLook(t *testing.T) {
	t.Parallel()
	f := &fake{caps: "IMAP4rev1"}
	r := f.start(t)
	f.add(200)
	f.change(true, 1, 120, 200)
	client, err := r.Accounts.Dial(t.Context(), r.user)
	must(t, err)
	defer client.Close()
	look := func(known event.Position, ok bool) event.Look {
		t.Helper()
		l, err := Look(t.Context(), client, r.user.ID, event.Inbox, known, ok)
		must(t, err)
		return l
	}
	for _, l := range []event.Look{look(event.Position{}, false), look(event.Position{UIDValidity: 6, UIDNext: 1, Recent: []uint32{1}}, true)} {
		if l.UIDValidity != 7 || l.UIDNext != 201 || l.Unseen != 197 || len(l.New) != 0 || len(l.Gone) != 0 {
			t.Errorf("of what nothing is known: %+v", l)
		}
	}
	l := look(event.Position{UIDValidity: 7, UIDNext: 50, Recent: []uint32{49, 2, 1}}, true)
	if len(l.New) != event.MaxNew || l.New[0].UID != 199 || l.New[99].UID != 99 || l.Unseen != 197 || !slices.Equal(l.Gone, []uint32{1}) {
		t.Errorf("%d new from %d to %d, %d unseen, gone %v", len(l.New), l.New[0].UID, l.New[len(l.New)-1].UID, l.Unseen, l.Gone)
	}
	if ev := l.New[1]; ev.Kind != event.NewMail || ev.Address != "zoe@example.org" || ev.Subject != "mail 198" || ev.User != 1 || ev.Context != 1 || ev.Unseen != 197 {
		t.Errorf("%+v", ev)
	}
	l = look(event.Position{UIDValidity: 7, UIDNext: 201, Recent: []uint32{199}}, true)
	if len(l.New) != 0 || len(l.Gone) != 0 || l.UIDNext != 201 {
		t.Errorf("nothing new: %+v", l)
	}
	l = look(event.Position{UIDValidity: 7, UIDNext: 199, Recent: []uint32{198, 197}}, true)
	if len(l.New) != 1 || l.New[0].UID != 199 || len(l.Gone) != 0 {
		t.Errorf("one new: %+v", l)
	}
	f.mu.Lock()
	f.next = 300 // what came was removed
	f.mu.Unlock()
	l = look(event.Position{UIDValidity: 7, UIDNext: 201}, true)
	if len(l.New) != 0 || l.UIDNext != 300 {
		t.Errorf("nothing left of what came: %+v", l)
	}
	f.mu.Lock()
	f.validity = 0
	f.mu.Unlock()
	if _, err := Look(t.Context(), client, r.user.ID, event.Inbox, event.Position{}, false); !errors.Is(err, imap.ErrUnsupported) {
		t.Errorf("without UIDVALIDITY: %v", err)
	}
}

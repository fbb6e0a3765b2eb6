package original

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// login is what the tables say of where a user's mail is.
type login struct {
	name   string
	server uint16 // index of words
	of     source // the tables that have a row of it
}

// source is a set of tables.
type source uint8

const (
	ofUser source = 1 << iota
	ofLogin2user
	ofLogins
	switchedOff // the system before let nobody in by it
)

// sourceNames are the tables of a source, by its bits.
var sourceNames = []string{"user", "login2user", "logins"}

// dropLogin moves the rows that a login was made of to those that were dropped.
func (r *rows) dropLogin(l login, reason string) {
	for i, name := range sourceNames {
		if l.of&(1<<i) != 0 {
			r.table(name).drop(reason)
		}
	}
}

// seen notes that a table has a row of a login.
func (r *rows) seen(l *login, of source) {
	if l.of&of != 0 {
		r.dropLogin(login{of: of}, "the same user is there again: the later row is taken")
	}
	l.of |= of
}

func (r *rows) mailUser(row record) string {
	u, ok := row.user("id")
	if !ok {
		return noUser
	}
	l := r.logins[u]
	r.seen(&l, ofUser)
	l.server = r.word(row.name("imapServer"))
	l.of &^= switchedOff
	if row.off("mailEnabled") {
		l.of |= switchedOff
	}
	switch r.loginSource {
	case "login":
		l.name = row.name("imapLogin")
	case "mail":
		l.name = row.name("mail")
	}
	r.logins[u] = l
	return ""
}

func (r *rows) loginName(row record) string {
	if r.loginSource != "name" {
		return "users sign in at the mail server with another name (com.openexchange.mail.loginSource)"
	}
	u, ok := row.user("id")
	if !ok {
		return noUser
	}
	l := r.logins[u]
	r.seen(&l, ofLogin2user)
	l.name = row.name("uid")
	r.logins[u] = l
	return ""
}

func (r *rows) contextName(row record) string {
	c := row.int("cid")
	if !inRange(c) {
		return "it names no context: cid must be from 1 to 4294967295"
	}
	if row.off("enabled") {
		r.closed[uint32(c)] = true //nolint:gosec // in range
		return closedContext
	}
	r.contexts[uint32(c)] = row.name("name") //nolint:gosec // in range
	return ""
}

// closedContext is why nothing of a context is taken.
const closedContext = "its context is disabled (context.enabled is 0)"

// readLogins takes a file with the columns context, user, login and mailhost.
func (r *rows) readLogins(table string, columns []string, cells []cell) error {
	t := r.table(table)
	t.Rows++
	t.Taken++
	row := record{columns, cells}
	c, u := row.int("context"), row.int("user")
	name := strings.TrimSpace(row.name("login"))
	if !inRange(c) || !inRange(u) {
		t.drop("it names no user: context and user must be from 1 to 4294967295")
		return nil
	}
	if name == "" {
		t.drop("it names no login")
		return nil
	}
	id := UserID{uint32(c), uint32(u)} //nolint:gosec // in range
	l := login{name: name, server: r.word(row.name("mailhost"))}
	if before, twice := r.given[id]; twice {
		l.of = before.of
	}
	r.seen(&l, ofLogins)
	r.given[id] = l
	return nil
}

// isOff reports whether a user could not sign in.
func (r *rows) isOff(u UserID) bool { return r.closed[u.Context] || r.logins[u].of&switchedOff != 0 }

// users makes users of the logins, and the mail hosts that they have.
func (r *Reader) users(p *Plan) {
	hosts := map[string]*MailHost{}
	if r.globalHost != "" {
		r.addHost(hosts, r.globalHost)
	}
	for id, l := range r.rows.given { // it wins
		l.of |= r.rows.logins[id].of &^ switchedOff
		r.rows.logins[id] = l
	}
	ids := slices.SortedFunc(maps.Keys(r.rows.logins), func(a, b UserID) int {
		return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.User, b.User))
	})
	taken := map[string]UserID{}
	var nameless, hostless, shared, off []UserID
	first := ""
	for _, id := range ids {
		l := r.rows.logins[id]
		_, given := r.rows.given[id]
		server := ""
		if int(l.server) < len(r.rows.words) {
			server = r.rows.words[l.server]
		}
		if r.globalHost != "" && !given || server == "" {
			server = cmp.Or(r.globalHost, r.opts.IMAPHost)
		}
		name := strings.TrimSpace(l.name)
		leave := func(list *[]UserID, why string) {
			*list = append(*list, id)
			r.rows.dropLogin(l, why)
		}
		switch {
		case r.rows.closed[id.Context]:
			leave(&off, closedContext)
			continue
		case l.of&switchedOff != 0:
			leave(&off, "its user may not sign in (user.mailEnabled is 0)")
			continue
		case name == "":
			leave(&nameless, "it has no login for the mail server")
			continue
		case !isLogin(name):
			leave(&nameless, "its login for the mail server has control characters, or is longer than 255 bytes")
			continue
		}
		host := r.addHost(hosts, server)
		if host == nil {
			leave(&hostless, "it has no mail host")
			continue
		}
		key := strings.ToLower(name) + "\x00" + host.Name
		if other, twice := taken[key]; twice {
			if first == "" {
				first = fmt.Sprintf("%s has that of %s at %s", id, other, host.Name)
			}
			leave(&shared, "its login at the mail host is another user's already")
			continue
		}
		taken[key] = id
		p.have[id] = struct{}{}
		p.Users = append(p.Users, User{ID: id, Login: name, MailHost: host.Name})
	}
	if len(off) > 0 {
		r.finding(false, "users", "%s left out who could not sign in before: %s. Their context or they themselves were disabled",
			plural(len(off), "user is", "users are"), some(off))
	}
	if len(shared) > 0 {
		r.finding(true, "logins", "%s left out whose login is another user's at the same mail host: %s (%s). Give them others with --logins, if they are to use the app",
			plural(len(shared), "user is", "users are"), some(shared), first)
	}
	if len(nameless) > 0 {
		r.finding(false, "logins", "%s left out for want of a login in the dump (com.openexchange.mail.loginSource is %s): %s. Give theirs with --logins, if they are to use the app",
			plural(len(nameless), "user is", "users are"), r.rows.loginSource, some(nameless))
	}
	if len(hostless) > 0 {
		r.finding(true, "mail hosts", "%s no mail host: %s. Name one with --imap-host",
			plural(len(hostless), "user has", "users have"), some(hostless))
	}
	for _, name := range sortedKeys(hosts) {
		p.MailHosts = append(p.MailHosts, *hosts[name])
	}
	if len(p.MailHosts) == 0 && r.opts.IMAPHost != "" {
		if h := r.addHost(hosts, r.opts.IMAPHost); h != nil {
			p.MailHosts = append(p.MailHosts, *h)
		}
	}
}

// isLogin is the rule that tenant.CheckLogin has.
func isLogin(s string) bool {
	return len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd })
}

func some(ids []UserID) string {
	const most = 5
	var b strings.Builder
	for i, id := range ids {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(ids)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(id.String())
	}
	return b.String()
}

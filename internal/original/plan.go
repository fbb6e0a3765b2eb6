package original

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// Options are what the operator says beside what the original's files say.
type Options struct {
	// IMAPHost is where mail is for whom nothing else says it: "host", "host:port" or "imaps://host:port".
	IMAPHost string
	// IMAPSecurity is tls, starttls or none, for all mail hosts; "" decides by the address.
	IMAPSecurity string
	// MasterLogin is the login of a master user at the mail hosts.
	MasterLogin string
	// UserForm is what mail servers send as user: login or metadata; "" looks for a file of Dovecot's.
	UserForm string
	// ServiceAccount is Firebase's, as JSON; nil for none.
	ServiceAccount []byte
	// StateDir and DatabaseURLFile are put into the configuration; "" leaves them out.
	StateDir, DatabaseURLFile string
	Now                       time.Time
}

// MailHost is one upstream mail server.
type MailHost struct {
	Name, Host     string
	Port           int
	Security       string
	Source         string
	MasterLogin    string
	MasterPassword config.Secret
	DoveadmURL     string
	DoveadmKey     config.Secret
}

// Context is one tenant.
type Context struct {
	ID   uint32
	Name string // "" for the usual one
	Tags []string
}

// Plan is what becomes of the original. Its rows are made as they are asked for.
type Plan struct {
	Files     []File
	MailHosts []MailHost
	Contexts  []Context
	// Users are sorted by context and id.
	Users  []User
	Values []Value
	Report *Report

	rows *rows
	have map[UserID]struct{}
}

// Reader reads the original: the configuration first, then the dumps, then it makes the plan.
type Reader struct {
	opts   Options
	tree   *tree
	out    *settings
	report *Report
	rows   *rows

	host       MailHost // what the configuration says of all of them
	globalHost string
	apps       []app
	fcmClients []string
	allowed    []string // patterns of push.allowed_clients; nil for all

	known   map[string][]string // columns of tables, by CREATE TABLE of the dumps
	read    int                 // rows
	damaged int                 // of them
}

// Open reads and judges the configuration in dir.
func Open(dir string, opts Options) (*Reader, error) {
	t, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	r := &Reader{
		opts: opts, tree: t, out: newSettings(), rows: newRows(opts.Now), known: map[string][]string{},
		report: &Report{Directory: dir, Entries: []Entry{}, Tables: []Table{}, Findings: slices.Clone(t.broken), Next: []string{}},
	}
	if len(t.files) == 0 {
		r.finding(true, dir, "there is no file of a configuration in it: name the directory with mail-push.properties and its like, a copy of /opt/open-xchange/etc")
	}
	for _, judge := range []func(){
		r.own, r.push, r.sources, r.credentials, r.mail, r.rest, r.delays, r.apns, r.fcm, r.capability, r.mailNotify, r.hosts, r.contextSets, r.otherFiles, r.remaining,
	} {
		judge()
	}
	return r, nil
}

// Dump reads one dump; name is its file's. Several may hold parts of one table.
func (r *Reader) Dump(name string, in io.Reader) error {
	to := r.sink(name)
	before := r.read
	cutOff, err := readDump(in, name, to)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case cutOff:
		r.finding(true, name, "it does not end as mysqldump ends a dump (-- Dump completed), so some of it may be missing: make it again, and look at what mysqldump says")
	case r.read == before && len(r.known) == 0:
		r.finding(true, name, "there is no row in it of a table that is known here: look whether it is the right file")
	}
	return nil
}

// sink takes the rows of a file, and tells of those that are damaged.
func (r *Reader) sink(file string) sink {
	return sink{
		known: r.known,
		row: func(table string, columns []string, cells []cell) error {
			r.read++
			return r.rows.take(table, columns, cells)
		},
		bad: func(table string, line int, why string) error {
			const most = 20
			r.read++
			if r.damaged++; r.damaged <= most {
				r.finding(true, fmt.Sprintf("%s:%d", file, line), "a row of %s cannot be read: %s. The others are read", table, why)
			}
			return r.rows.bad(table, "it cannot be read: "+why)
		},
	}
}

// Logins reads a file of logins: parted by commas, semicolons or tabs, its first line naming the columns context, user,
// login and, if it is not for all the same, mailhost.
func (r *Reader) Logins(name string, in io.Reader) error {
	known := func(columns []string) string {
		rec := record{columns: columns, cells: make([]cell, len(columns))}
		for _, c := range []string{"context", "user", "login"} {
			if _, ok := rec.cell(c); !ok {
				return ""
			}
		}
		return "logins"
	}
	data := newPeeker(in)
	to := r.sink(name)
	to.row = r.rows.readLogins
	var err error
	switch {
	case data.firstLineHas('\t'):
		err = readTSV(data, nil, "", known, to)
	case data.firstLineHas(';'):
		err = readCSV(data, ';', known, to)
	default:
		err = readCSV(data, ',', known, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// finding adds something to know.
func (r *Reader) finding(needsYou bool, subject, format string, args ...any) {
	f := Finding{subject, fmt.Sprintf(format, args...), needsYou}
	if !slices.Contains(r.report.Findings, f) {
		r.report.Findings = append(r.report.Findings, f)
	}
}

// Plan makes the plan of all that was read. The Reader is not used again.
func (r *Reader) Plan() (*Plan, error) {
	p := &Plan{Report: r.report, rows: r.rows, have: map[UserID]struct{}{}}
	r.users(p)
	r.subscriptions(p)
	r.contexts(p)
	r.values(p)
	for _, t := range r.rows.stats {
		if len(t.Reasons) == 0 {
			t.Reasons = nil
		}
		r.report.Tables = append(r.report.Tables, *t)
	}
	r.advise(p)
	head := "# Posthorn's configuration, made of " + r.report.Directory + " by \"posthorn config import\".\n" +
		"# Each comment says where a value was. What became of every other key is in import-report.txt.\n" +
		"# All keys that there are: docs/configuration.md.\n\n"
	text, err := r.out.render(head)
	if err != nil {
		return nil, err
	}
	p.Files = append([]File{{Name: ConfigFile, Mode: 0o640, Content: text}}, r.out.files...)
	slices.SortStableFunc(p.Files[1:], func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	for _, f := range p.Files {
		r.report.Made.Files = append(r.report.Made.Files, f.Name)
	}
	r.report.Made.Contexts, r.report.Made.Users = len(p.Contexts), len(p.Users)
	r.report.Made.MailHosts = []string{}
	for _, h := range p.MailHosts {
		r.report.Made.MailHosts = append(r.report.Made.MailHosts, fmt.Sprintf("%s (%s:%d, %s)", h.Name, h.Host, h.Port, h.Security))
	}
	r.report.sort()
	return p, nil
}

// addHost finds or makes the mail host that an address means; nil for none.
func (r *Reader) addHost(hosts map[string]*MailHost, address string) *MailHost {
	h, err := r.parseServer(address)
	if err != nil {
		return nil
	}
	if have := hosts[h.Name]; have != nil {
		return have
	}
	hosts[h.Name] = &h
	return &h
}

// parseServer reads "host", "host:port", "imap://host:port" or "imaps://host".
func (r *Reader) parseServer(address string) (MailHost, error) {
	h := r.host
	address = strings.TrimSpace(address)
	if !strings.Contains(address, "://") {
		address = "//" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || !isLogin(u.Hostname()) || strings.ContainsRune(u.Hostname(), ' ') {
		return MailHost{}, errors.New("no address of a mail server")
	}
	if h.Host, err = idna.Lookup.ToASCII(u.Hostname()); err != nil { // an address of IPv6, or a name with "_"
		h.Host = strings.ToLower(u.Hostname())
	}
	if h.Port, _ = strconv.Atoi(u.Port()); h.Port > 65535 {
		return MailHost{}, errors.New("no port of a mail server")
	}
	ip := net.ParseIP(h.Host)
	switch h.Security = r.opts.IMAPSecurity; {
	case h.Security != "":
	case u.Scheme == "imaps" || h.Port == 993 || u.Scheme == "" && h.Port == 0:
		h.Security = "tls"
	case h.Host == "localhost" || ip != nil && ip.IsLoopback():
		h.Security = "none"
	default:
		h.Security = "starttls"
	}
	usual := 143
	if h.Security == "tls" {
		usual = 993
	}
	if h.Port == 0 {
		h.Port = usual
	}
	if h.Name = h.Host; h.Port != usual {
		h.Name = net.JoinHostPort(h.Host, strconv.Itoa(h.Port))
	}
	return h, nil
}

// contexts are those that have a user, a tag or a value.
func (r *Reader) contexts(p *Plan) {
	all := map[uint32]bool{}
	for id := range r.rows.contexts {
		all[id] = true
	}
	for id := range r.rows.tags {
		all[id] = !r.rows.closed[id] // the table of contexts may have come after
	}
	maps.DeleteFunc(all, func(_ uint32, open bool) bool { return !open })
	for _, u := range p.Users {
		all[u.ID.Context] = true
	}
	names := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		name := strings.TrimSpace(r.rows.contexts[id])
		if name == strconv.FormatUint(uint64(id), 10) || !isLogin(name) || names[name] {
			name = ""
		}
		names[name] = true
		p.Contexts = append(p.Contexts, Context{ID: id, Name: name, Tags: r.rows.tags[id]})
	}
}

// values are those whose context or user is there.
func (r *Reader) values(p *Plan) {
	contexts := map[string]bool{}
	for _, c := range p.Contexts {
		contexts[strconv.FormatUint(uint64(c.ID), 10)] = true
	}
	missing := 0
	for _, v := range r.rows.values {
		var id UserID
		_, err := fmt.Sscanf(v.Subject, "%d@%d", &id.User, &id.Context)
		_, has := p.have[id]
		if v.Scope == "context" && contexts[v.Subject] || err == nil && has {
			p.Values = append(p.Values, v)
			continue
		}
		missing++
		table := "user_attribute"
		if v.Scope == "context" {
			table = "contextAttribute"
		}
		r.rows.table(table).drop("its user or context is not imported")
	}
	if missing > 0 {
		r.finding(false, "attributes", "%s of users or contexts that are not imported", plural(missing, "value is", "values are"))
	}
}

// subscriptions drops those that nobody here can have, and counts the rest.
func (r *Reader) subscriptions(p *Plan) {
	clients := map[string]int{}
	var users []UserID
	unknown := map[UserID]bool{}
	for i := range r.rows.subs {
		s := &r.rows.subs[i]
		t := r.rows.table(r.rows.words[s.table])
		_, wants := r.rows.topics[s.id]
		switch _, ok := p.have[s.user]; {
		case !s.all && !wants:
			t.drop(noMail)
			s.token = ""
		case r.rows.isOff(s.user):
			t.drop("its user could not sign in before")
			s.token = ""
		case !ok:
			t.drop("its user has no login here")
			s.token = ""
			if !unknown[s.user] {
				unknown[s.user] = true
				users = append(users, s.user)
			}
		default:
			clients[s.transport()+" "+r.rows.words[s.client]]++
			p.Report.Made.Subscriptions++
		}
	}
	if len(users) > 0 {
		r.finding(true, "subscriptions", "%s subscriptions and no login: %s. Give the tables user and login2user with --dump, or their logins with --logins",
			plural(len(users), "user has", "users have"), some(users))
	}
	if n := r.rows.conflicts; n > 0 {
		r.finding(false, "devices", "%s two users: the system before told the device of the mail of both. The newest has it now. %s",
			plural(n, "device was subscribed by", "devices were subscribed by"), strings.Join(r.rows.examples, "; "))
	}
	const most = 50 // clients that are told of one by one
	for i, c := range sortedKeys(clients) {
		if i == most {
			r.finding(true, "clients", "devices of %d clients more have subscribed: pns_subscription.client has their names", len(clients)-most)
			break
		}
		transport, client, _ := strings.Cut(c, " ")
		r.served(transport, client, clients[c])
	}
}

// Subscriptions calls f with each, in no order. Their tokens are secrets.
func (p *Plan) Subscriptions(f func(Subscription) error) error {
	for i := range p.rows.subs {
		s := &p.rows.subs[i]
		if s.token == "" {
			continue
		}
		out := Subscription{User: s.user, Client: p.rows.words[s.client], Transport: s.transport(), Token: s.plain()}
		if s.renewed > 0 {
			out.Renewed = time.UnixMilli(s.renewed)
		}
		if s.expires > 0 {
			out.Expires = time.UnixMilli(s.expires)
		}
		if err := f(out); err != nil {
			return err
		}
	}
	return nil
}

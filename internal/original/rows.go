package original

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/apns"
)

// UserID names a user as both systems do.
type UserID struct{ Context, User uint32 }

func (u UserID) String() string { return fmt.Sprintf("%d@%d", u.User, u.Context) }

// Subscription is one device that is told of a user's new mail.
type Subscription struct {
	User      UserID
	Client    string
	Transport string // "apns" or "fcm"
	Token     string // for its provider; never shown
	Renewed   time.Time
	Expires   time.Time // zero: never
}

// User is one mail user.
type User struct {
	ID       UserID
	Login    string
	MailHost string // a name among the plan's mail hosts
}

// sub is a Subscription as long as there are many: some 100 bytes and the token.
type sub struct {
	user             UserID
	client, table    uint16 // indices of words
	fcm, all         bool
	token            string // bytes of an APNs token, else as it is
	renewed, expires int64  // ms
	id               [16]byte
}

// rows gathers what is taken of the tables.
type rows struct {
	loginSource string // "login", "mail" or "name": com.openexchange.mail.loginSource
	now         time.Time

	subs     []sub
	byToken  map[[16]byte]int32 // index of subs, by transport and token
	topics   map[[16]byte]struct{}
	logins   map[UserID]login
	contexts map[uint32]string // names
	closed   map[uint32]bool   // contexts that are disabled
	given    map[UserID]login  // what a file of logins says, which wins
	tags     map[uint32][]string
	values   []Value
	words    []string
	wordAt   map[string]uint16
	stats    map[string]*Table

	conflicts int
	examples  []string // the first conflicts
}

// Value is one value of the configuration cascade.
type Value struct {
	Scope   string // "context" or "user"
	Subject string // "1" or "3@1"
	Name    string
	Value   string
}

func newRows(now time.Time) *rows {
	return &rows{
		loginSource: "login", now: now,
		byToken: map[[16]byte]int32{}, topics: map[[16]byte]struct{}{}, logins: map[UserID]login{}, given: map[UserID]login{},
		contexts: map[uint32]string{}, closed: map[uint32]bool{}, tags: map[uint32][]string{}, wordAt: map[string]uint16{}, stats: map[string]*Table{},
	}
}

// word keeps one copy of a text that many rows have. There are at most 65535; the rest are "".
func (r *rows) word(s string) uint16 {
	if i, ok := r.wordAt[s]; ok {
		return i
	}
	if len(r.words) == 0 {
		r.words, r.wordAt[""] = []string{""}, 0
		if s == "" {
			return 0
		}
	}
	if len(r.words) > 0xffff {
		return 0
	}
	i := uint16(len(r.words)) //nolint:gosec // bounded just above
	s = strings.Clone(s)
	r.words, r.wordAt[s] = append(r.words, s), i
	return i
}

func (r *rows) table(name string) *Table {
	t := r.stats[name]
	if t == nil {
		t = &Table{Name: name, Reasons: map[string]int{}}
		r.stats[name] = t
	}
	return t
}

// drop moves a row that was taken to those that were dropped.
func (t *Table) drop(reason string) {
	t.Taken--
	t.Dropped++
	const most = 50 // a reason may have a word of the row in it
	if _, ok := t.Reasons[reason]; !ok && len(t.Reasons) >= most {
		reason = "for other reasons"
	}
	t.Reasons[reason]++
}

// record is a row by the names of its columns.
type record struct {
	columns []string
	cells   []cell
}

func (r record) cell(column string) (cell, bool) {
	for i, c := range r.columns {
		if strings.EqualFold(c, column) && i < len(r.cells) {
			return r.cells[i], true
		}
	}
	return cell{}, false
}

func (r record) text(column string) string {
	c, _ := r.cell(column)
	if c.null {
		return ""
	}
	return c.text
}

// name is a text for people; a dump in another character set than UTF-8 is taken for ISO 8859-1, as property files are.
func (r record) name(column string) string {
	text := r.text(column)
	if !utf8.ValidString(text) {
		return latin1([]byte(text))
	}
	return strings.Clone(text)
}

// off reports whether a switch is there, and off.
func (r record) off(column string) bool {
	text := r.text(column)
	return text == "0" || text == "\x00"
}

func (r record) int(column string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(r.text(column)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// user reads the two numbers; ok is false when they name nobody.
func (r record) user(column string) (UserID, bool) {
	c, u := r.int("cid"), r.int(column)
	return UserID{Context: uint32(c), User: uint32(u)}, inRange(c) && inRange(u) //nolint:gosec // not used unless in range
}

func inRange(n int64) bool { return n >= 1 && n <= 1<<32-1 }

// id reads the binary id of a PNS subscription: 16 bytes, or what HEX() prints of them.
func (r record) id() (id [16]byte, ok bool) {
	raw := r.text("id")
	if len(raw) == 32 {
		if b, err := hex.DecodeString(raw); err == nil {
			raw = string(b)
		}
	}
	return id, copy(id[:], raw) == 16 && len(raw) == 16
}

// tables are those that are known; each takes a row and says why not.
var tables = map[string]func(*rows, record) (reason string){
	"mobileEventSubscriptions":        (*rows).v1Subscription,
	"pns_subscription":                (*rows).pnsSubscription,
	"pns_subscription_topic_exact":    (*rows).pnsTopic,
	"pns_subscription_topic_wildcard": (*rows).pnsTopic,
	"registeredPush":                  (*rows).registration,
	"credentials":                     (*rows).credential,
	"user":                            (*rows).mailUser,
	"login2user":                      (*rows).loginName,
	"context":                         (*rows).contextName,
	"contextAttribute":                (*rows).contextAttribute,
	"user_attribute":                  (*rows).userAttribute,
	"login2context": func(*rows, record) string {
		return "contexts are found by the user here, not by the name that he types"
	},
}

// tableOf finds out of which table a listing is: by the name of its file, else by its columns.
func tableOf(file string, columns []string) string {
	base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := (record{columns: columns, cells: make([]cell, len(columns))}).cell(n); !ok {
				return false
			}
		}
		return true
	}
	for name := range tables {
		if strings.EqualFold(name, base) && has("cid") {
			return name
		}
	}
	switch {
	case has("cid", "service", "token", "user"):
		return "mobileEventSubscriptions"
	case has("cid", "user", "token", "transport"):
		return "pns_subscription"
	case has("id", "cid", "topic"):
		return "pns_subscription_topic_exact"
	case has("cid", "user", "password"):
		return "credentials"
	case has("cid", "user", "client"):
		return "registeredPush"
	case has("cid", "id", "imapLogin"), has("cid", "id", "mail"):
		return "user"
	case has("cid", "id", "uid"):
		return "login2user"
	}
	return ""
}

// bad counts a row that could not be read.
func (r *rows) bad(table, why string) error {
	t := r.table(table)
	t.Rows++
	t.Taken++
	t.drop(why)
	return nil
}

// take is the rowFunc of a dump.
func (r *rows) take(table string, columns []string, cells []cell) error {
	t := r.table(table)
	if t.Rows++; t.Rows > maxRows {
		return fmt.Errorf("%s has more than %d rows: import it in parts", table, maxRows)
	}
	t.Taken++
	if reason := tables[table](r, record{columns, cells}); reason != "" {
		t.drop(reason)
	}
	return nil
}

const (
	noUser     = "it names no user: cid and user must be from 1 to 4294967295"
	badToken   = "the token is none that Apple or Google gave out"
	noMail     = "it does not ask for new mail, and nothing else is pushed here"
	noClient   = "the client has characters that no client's name has here"
	replaced   = "the same device has a newer subscription"
	lostToUser = "the same device is another user's since: the newest has it"
)

// never is when a year has more than four digits, in ms.
const never = 253402300800000

// v1App is the client of the first generation, whose table does not name it.
const v1App = "open-xchange-mailapp"

// v1Mac is what its app for macOS is called here, since it had a certificate of its own.
const v1Mac = "open-xchange-mailapp-macos"

func (r *rows) v1Subscription(row record) string {
	u, ok := row.user("user")
	if !ok {
		return noUser
	}
	if p := row.text("provider"); p != "" && p != "mail" && p != "*" {
		return noMail
	}
	s := sub{user: u, renewed: min(row.int("timestamp"), r.now.UnixMilli()), all: true}
	client := v1App
	switch service := row.text("service"); service {
	case "apn":
	case "apn.macos":
		client = v1Mac
	case "gcm":
		s.fcm = true
	default:
		return "there is no way " + strconv.Quote(clip(service)) + " to a device here"
	}
	return r.add(s, "mobileEventSubscriptions", client, row.text("token"))
}

func (r *rows) pnsSubscription(row record) string {
	u, ok := row.user("user")
	if !ok {
		return noUser
	}
	// A time to come would outlive every word of Apple's; one thousands of years away is how Java says never.
	s := sub{user: u, renewed: min(row.int("last_modified"), r.now.UnixMilli()), expires: row.int("expires")}
	if s.expires > never {
		s.expires = 0
	}
	s.all = row.text("all_flag") == "1" || row.text("all_flag") == "\x01"
	switch transport := row.text("transport"); transport {
	case "apn", "apns_http2":
	case "gcm", "fcm":
		s.fcm = true
	case "websocket":
		return "a web socket is there while an app is open; this is no device that can be told later"
	case "wns":
		return "Windows phones are not served"
	case "webhook":
		return "webhooks are not served"
	default:
		return "there is no way " + strconv.Quote(clip(transport)) + " to a device here"
	}
	if s.id, ok = row.id(); !ok && !s.all {
		return "its id is damaged: make the dump with --hex-blob"
	}
	if s.expires > 0 && s.expires <= r.now.UnixMilli() {
		return "it has expired"
	}
	return r.add(s, "pns_subscription", row.text("client"), row.text("token"))
}

// add takes a subscription, unless its token is no token or has a newer owner.
func (r *rows) add(s sub, table, client, token string) string {
	if !isClient(client) {
		return noClient
	}
	if s.fcm {
		if len(token) < 20 || len(token) > 4096 || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return badToken
		}
		s.token = strings.Clone(token)
	} else {
		raw, err := hex.DecodeString(token)
		if err != nil || apns.CheckDeviceToken(token) != nil {
			return badToken
		}
		s.token = string(raw)
	}
	if s.client, s.table = r.word(client), r.word(table); s.client == 0 || s.table == 0 {
		return "it is of one client too many: 65535 names are read"
	}
	key := tokenKey(s)
	i, ok := r.byToken[key]
	if !ok {
		r.byToken[key] = int32(len(r.subs)) //nolint:gosec // maxRows is less
		r.subs = append(r.subs, s)
		return ""
	}
	old := &r.subs[i]
	reason := replaced
	if old.user != s.user {
		reason = lostToUser
		r.conflict(*old, s)
	}
	if s.renewed < old.renewed {
		return reason
	}
	r.table(r.words[old.table]).drop(reason)
	*old = s
	return ""
}

func tokenKey(s sub) (key [16]byte) {
	h := sha256.New()
	kind := "a"
	if s.fcm {
		kind = "f"
	}
	h.Write([]byte(kind + s.token))
	copy(key[:], h.Sum(nil))
	return key
}

// conflict remembers that a device was two users': the original pushed the mail of both to it.
func (r *rows) conflict(a, b sub) {
	const most = 20
	if r.conflicts++; len(r.examples) >= most {
		return
	}
	if a.renewed > b.renewed {
		a, b = b, a
	}
	r.examples = append(r.examples, fmt.Sprintf("%s was of %s since %s and of %s since %s: %s keeps it",
		b.target(), a.user, day(a.renewed), b.user, day(b.renewed), b.user))
}

// target shows a token by its end.
func (s sub) target() string {
	token := s.plain()
	return s.transport() + " …" + token[len(token)-6:]
}

func (s sub) plain() string {
	if s.fcm {
		return s.token
	}
	return hex.EncodeToString([]byte(s.token))
}

func (s sub) transport() string {
	if s.fcm {
		return "fcm"
	}
	return "apns"
}

func day(ms int64) string {
	if ms <= 0 {
		return "an unknown day"
	}
	return time.UnixMilli(ms).UTC().Format(time.DateOnly)
}

// isClient is the rule that account.CheckClient has for the name of an app.
func isClient(s string) bool {
	ok := s != "" && len(s) <= 64
	for _, c := range s {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_", c))
	}
	return ok
}

// pnsTopic remembers which subscriptions want new mail.
func (r *rows) pnsTopic(row record) string {
	id, ok := row.id()
	if !ok {
		return "its id is damaged: make the dump with --hex-blob"
	}
	topic := strings.TrimSuffix(row.text("topic"), "*")
	if topic == "com/openexchange/mail/new" || topic == "ox:mail:new" || strings.HasPrefix("ox:mail:new", topic) && strings.HasSuffix(topic, ":") {
		r.topics[id] = struct{}{}
		return ""
	}
	return noMail
}

func (*rows) registration(record) string {
	return "a listener is wanted here as long as its user has a subscription: no row of its own is needed"
}

func (*rows) credential(record) string {
	return "stored passwords are not taken: their encryption tells a right password from a wrong one by nothing. The next sign-in brings it"
}

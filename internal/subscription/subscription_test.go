package subscription_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/seal"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// fixture is a store on an empty database with users 1@1 to 4@1, and a clock set by hand.
type fixture struct {
	*subscription.Store
	db      *db.DB
	tenants *tenant.Store
	rounds  int // of tests that hope for a race: on SQLite writes are one after the other anyhow
	passed  atomic.Int64
	// watched are the users that were told of as changed. Concurrent tests do not look at it.
	watched []int64
}

func (f *fixture) now() time.Time {
	return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).Add(time.Duration(f.passed.Load()))
}

func (f *fixture) pass(d time.Duration) { f.passed.Add(int64(d)) }

func newFixture(t *testing.T, url string) *fixture {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	text, err := seal.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{db: d, rounds: 2}
	if strings.HasPrefix(url, "postgres") {
		f.rounds = 15
	}
	tenants, err := tenant.New(d, keys, tenant.NotifyCredential{UserForm: tenant.FormLogin}, f.now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tenants.AddContext(t.Context(), tenant.Context{})
	host := tenant.MailHost{Name: "dove", IMAPHost: "localhost", IMAPPort: 143, Security: tenant.SecurityNone}
	if err = errors.Join(err, tenants.AddMailHost(t.Context(), host, "")); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		u := tenant.User{ID: tenant.UserID{Context: 1}, Login: fmt.Sprint("user", i+1), MailHost: "dove"}
		if _, err := tenants.AddUser(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	// The tests call a client that may not have pushes "banned".
	if err := tenants.SetProperty(t.Context(), tenant.Subject{Scope: cascade.Server}, "push.allowed_clients", "app", "test"); err != nil {
		t.Fatal(err)
	}
	f.Store, f.tenants = subscription.New(d, keys, tenants.View, f.now), tenants
	var mu sync.Mutex
	f.Watch(func(users []tenant.UserID) {
		mu.Lock()
		defer mu.Unlock()
		for _, u := range users {
			f.watched = append(f.watched, u.ID)
		}
	})
	return f
}

// each runs f on each engine.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) { test(t, newFixture(t, url)) })
}

func (f *fixture) write(t *testing.T, fn func(ctx context.Context, tx *db.Tx) error) {
	t.Helper()
	if err := f.db.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func user(n int64) tenant.UserID { return tenant.UserID{Context: 1, ID: n} }

// session is a sign-in of a user on a device that has a secret.
func session(n int64, secret string) account.Session {
	return account.Session{User: user(n), Client: "app", Device: "hash of " + secret}
}

// token is how to reach a device.
func token(name string) subscription.Token {
	return subscription.Token{Transport: "apns", Identity: name, Body: []byte("body of " + name), Target: "…" + name}
}

func request(name string, topics ...string) subscription.Request {
	if topics == nil {
		topics = []string{"mail:new"}
	}
	return subscription.Request{Client: "app", Token: token(name), Topics: topics}
}

func (f *fixture) subscribe(t *testing.T, sess account.Session, req subscription.Request) subscription.Subscription {
	t.Helper()
	sub, err := f.Subscribe(t.Context(), sess, req)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

// owners lists who holds which device: "1@1 …phone", and who has a listener that is wanted: "1@1 listens".
func (f *fixture) owners(t *testing.T) string {
	t.Helper()
	var all []string
	subs, err := f.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subs {
		all = append(all, s.User.String()+" "+strings.TrimPrefix(s.Token.Target, "…"))
	}
	err = f.Listeners(t.Context(), func(l subscription.Listener) {
		if l.Wanted {
			all = append(all, l.User.String()+" listens")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (f *fixture) wantOwners(t *testing.T, want string) {
	t.Helper()
	if got := f.owners(t); got != want {
		t.Errorf("owners: %s; want %s", got, want)
	}
}

func TestSubscribe(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		req := request("phone", "mail:new", "mail:new:Listen/Gö")
		req.Expires = f.now().Add(time.Hour)
		first := f.subscribe(t, session(1, "s"), req)
		if len(first.ID) != 24 || first.User != user(1) || first.Client != "app" || first.Token.Target != "…phone" ||
			!slices.Equal(first.Topics, req.Topics) || !first.Created.Equal(f.now()) || !first.Expires.Equal(req.Expires) {
			t.Errorf("%+v", first)
		}
		loaded, err := f.Load(ctx, first.ID)
		if err != nil || string(loaded.Token.Body) != "body of phone" || loaded.Token.Transport != "apns" {
			t.Errorf("%+v, %v", loaded, err)
		}

		// Again is a renewal: the same one, with what is asked for now.
		f.pass(time.Minute)
		again := request("phone")
		again.Client, again.Token.Body, again.Token.Target = "app-2", []byte("new keys"), "…other"
		renewed := f.subscribe(t, session(1, "s"), again)
		if renewed.ID != first.ID || !renewed.Created.Equal(first.Created) || !renewed.Expires.IsZero() || renewed.Client != "app-2" ||
			!slices.Equal(renewed.Topics, again.Topics) || renewed.Token.Target != "…other" {
			t.Errorf("renewed: %+v", renewed)
		}
		if loaded, err := f.Load(ctx, first.ID); err != nil || string(loaded.Token.Body) != "new keys" {
			t.Errorf("renewed: %+v, %v", loaded, err)
		}
		// The same words on another transport are another device.
		fcm := request("phone")
		fcm.Token.Transport = "fcm"
		if other := f.subscribe(t, session(1, "s"), fcm); other.ID == first.ID {
			t.Error("two transports, one device")
		}
		all, err := f.ByUser(ctx, user(1))
		if err != nil || len(all) != 2 || all[0].ID != first.ID {
			t.Errorf("%+v, %v", all, err)
		}
		if none, err := f.ByUser(ctx, user(2)); err != nil || none == nil || len(none) != 0 {
			t.Errorf("%+v, %v", none, err)
		}

		for _, id := range []string{"", "current", strings.Repeat("0", 24), strings.Repeat("0", 23), "\x00", "\xff", first.ID + "00"} {
			if _, err := f.Load(ctx, id); !errors.Is(err, subscription.ErrNotFound) {
				t.Errorf("load %q: %v", id, err)
			}
			if err := f.Unsubscribe(ctx, user(1), id); !errors.Is(err, subscription.ErrNotFound) {
				t.Errorf("unsubscribe %q: %v", id, err)
			}
		}
		if err := f.Unsubscribe(ctx, user(2), first.ID); !errors.Is(err, subscription.ErrNotFound) {
			t.Errorf("another's: %v", err)
		}
		f.wantOwners(t, "1@1 listens, 1@1 other, 1@1 phone")
		for i, want := range []error{nil, subscription.ErrNotFound} {
			if err := f.Unsubscribe(ctx, user(1), first.ID); !errors.Is(err, want) {
				t.Errorf("%d: %v", i, err)
			}
		}
		f.wantOwners(t, "1@1 listens, 1@1 phone")
		if err := f.Unsubscribe(ctx, user(1), all[1].ID); err != nil {
			t.Error(err)
		}
		f.wantOwners(t, "")
	})
}

func TestSubscribeIsChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testpeer.SQLiteURL(t))
	for field, change := range map[string]func(*subscription.Request){
		"client":    func(r *subscription.Request) { r.Client = "no such*" },
		"topics":    func(r *subscription.Request) { r.Topics = []string{} },
		"topics ":   func(r *subscription.Request) { r.Topics = slices.Repeat([]string{"mail:new"}, 51) },
		"topics[1]": func(r *subscription.Request) { r.Topics = []string{"mail:new", "mail:old"} },
		"expires":   func(r *subscription.Request) { r.Expires = f.now() },
	} {
		req := request("phone")
		change(&req)
		_, err := f.Subscribe(t.Context(), session(1, "s"), req)
		var invalid *tenant.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != strings.TrimSpace(field) {
			t.Errorf("%v, want one of field %s", err, field)
		}
	}
	f.wantOwners(t, "")
}

// TestOwnership is the rule of who holds a device: all who signed in with its secret, or the one who came
// without it.
func TestOwnership(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var sub subscription.Subscription
		as := func(n int64, secret, device, want string) {
			t.Helper()
			f.pass(time.Second)
			sub = f.subscribe(t, session(n, secret), request(device))
			f.wantOwners(t, want)
		}
		as(1, "s", "phone", "1@1 listens, 1@1 phone")
		as(2, "s", "phone", "1@1 listens, 1@1 phone, 2@1 listens, 2@1 phone")
		as(2, "s", "tablet", "1@1 listens, 1@1 phone, 2@1 listens, 2@1 phone, 2@1 tablet")
		bobs := sub
		as(3, "sold it", "phone", "2@1 listens, 2@1 tablet, 3@1 listens, 3@1 phone") // 1 and 2 fall silent there
		if !sub.Created.Equal(f.now()) {
			t.Error("the answer tells of an earlier owner")
		}
		as(3, "installed anew", "phone", "2@1 listens, 2@1 tablet, 3@1 listens, 3@1 phone")
		as(1, "s", "phone", "1@1 listens, 1@1 phone, 2@1 listens, 2@1 tablet") // the old secret is as good as none
		as(1, "s2", "tablet", "1@1 listens, 1@1 phone, 1@1 tablet")
		if _, err := f.Load(t.Context(), bobs.ID); !errors.Is(err, subscription.ErrNotFound) {
			t.Errorf("the earlier owner's subscription: %v", err)
		}

		// Signing out ends what the device has for this user, and for no other.
		as(2, "s2", "tablet", "1@1 listens, 1@1 phone, 1@1 tablet, 2@1 listens, 2@1 tablet")
		if err := f.UnsubscribeDevice(t.Context(), user(1), session(1, "s2").Device); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "1@1 listens, 1@1 phone, 2@1 listens, 2@1 tablet")
		if err := f.UnsubscribeDevice(t.Context(), user(1), session(1, "s").Device); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "2@1 listens, 2@1 tablet")
	})
}

func TestTooMany(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		theirs := f.subscribe(t, session(2, "s"), request("phone"))
		f.write(t, func(ctx context.Context, tx *db.Tx) error {
			for i := range 100 {
				_, err := tx.Exec(ctx, `INSERT INTO subscriptions VALUES (?, 1, 1, 'app', 'apns', ?, '', '', 'd', '["mail:new"]', 0, 0, 0, '', '', '', '')`,
					fmt.Sprintf("%024x", i), fmt.Sprint(i))
				if err != nil {
					return err
				}
			}
			return nil
		})
		_, err := f.Subscribe(t.Context(), session(1, "other"), request("phone"))
		if !errors.Is(err, subscription.ErrTooMany) {
			t.Errorf("%v", err)
		}
		// The device was not taken either.
		if _, err := f.Load(t.Context(), theirs.ID); err != nil {
			t.Errorf("%v", err)
		}
		if err := f.Unsubscribe(t.Context(), user(1), fmt.Sprintf("%024x", 7)); err != nil {
			t.Fatal(err)
		}
		f.subscribe(t, session(1, "other"), request("phone"))
		f.subscribe(t, session(1, "other"), request("phone")) // a renewal is not one more
	})
}

func TestFor(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.subscribe(t, session(1, "s"), request("inbox"))
		f.subscribe(t, session(1, "s"), request("lists", "mail:new:Lists/Go", "mail:new:Ü"))
		banned := request("banned")
		banned.Client = "banned"
		f.subscribe(t, session(1, "s"), banned)
		brief := request("brief")
		brief.Expires = f.now().Add(time.Minute)
		f.subscribe(t, session(1, "s"), brief)
		f.subscribe(t, session(2, "s"), request("others"))
		want := func(n int64, folder, want string) {
			t.Helper()
			found, err := f.For(t.Context(), user(n), subscription.TopicFor(folder))
			var got []string
			for _, s := range found {
				got = append(got, strings.TrimPrefix(s.Token.Target, "…"))
			}
			slices.Sort(got)
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%d %s: %v, %v", n, folder, got, err)
			}
		}
		want(1, "INBOX", "brief inbox")
		want(1, "Lists/Go", "lists")
		want(1, "Ü", "lists")
		want(1, "Lists", "")
		want(2, "INBOX", "others")
		want(3, "INBOX", "")
		f.pass(time.Minute)
		want(1, "INBOX", "inbox")
	})
}

func TestRemoveGone(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		sub := f.subscribe(t, session(1, "s"), request("phone"))
		remove := func(id string, gone time.Time, want bool) {
			t.Helper()
			var got bool
			f.write(t, func(ctx context.Context, tx *db.Tx) (err error) {
				_, got, err = f.RemoveGone(ctx, tx, id, gone)
				return err
			})
			if got != want {
				t.Errorf("removed %v, want %v", got, want)
			}
		}
		gone := f.now().Add(time.Minute)
		f.pass(2 * time.Minute)
		f.subscribe(t, session(1, "s"), request("phone")) // renewed after the provider gave it up
		remove(sub.ID, gone, false)
		f.wantOwners(t, "1@1 listens, 1@1 phone")
		remove("unknown", f.now(), false)
		remove(sub.ID, f.now(), true)
		remove(sub.ID, f.now(), false)
		f.wantOwners(t, "")
		if back := f.subscribe(t, session(1, "s"), request("phone")); back.ID != sub.ID {
			t.Errorf("came back as %s, was %s", back.ID, sub.ID)
		}
		if other := f.subscribe(t, session(2, "s"), request("phone")); other.ID == sub.ID {
			t.Error("another user's subscription has the same id")
		}
	})
}

func TestRemoveExpired(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for i, name := range []string{"hour", "two", "never"} {
			req := request(name)
			if name != "never" {
				req.Expires = f.now().Add(time.Duration(i+1) * time.Hour)
			}
			f.subscribe(t, session(1, "s"), req)
		}
		req := request("hour2")
		req.Expires = f.now().Add(time.Hour)
		f.subscribe(t, session(2, "s"), req)
		f.pass(time.Hour - time.Millisecond)
		for _, want := range []string{
			"1@1 hour, 1@1 listens, 1@1 never, 1@1 two, 2@1 hour2, 2@1 listens", "1@1 listens, 1@1 never, 1@1 two", "1@1 listens, 1@1 never",
		} {
			if err := f.RemoveExpired(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.wantOwners(t, want)
			f.pass(time.Hour)
		}
	})
}

// TestAtRest looks for tokens in the database's file, and moves a sealed one to where it does not belong.
func TestAtRest(t *testing.T) {
	t.Parallel()
	url := testpeer.SQLiteURL(t)
	f := newFixture(t, url)
	req := request("0123456789abcdef")
	req.Token.Target = "…cdef"
	one := f.subscribe(t, session(1, "s"), req)
	f.subscribe(t, session(1, "s"), request("phone"))
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(strings.TrimPrefix(url, "sqlite:") + suffix) //nolint:gosec // the test's own
		if err != nil || bytes.Contains(content, req.Token.Body) || bytes.Contains(content, []byte("0123456789abcdef")) {
			t.Errorf("a token stands in the database, %v", err)
		}
	}
	f.write(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE subscriptions SET token = (SELECT token FROM subscriptions WHERE id <> ?) WHERE id = ?", one.ID, one.ID)
		return err
	})
	if _, err := f.Load(t.Context(), one.ID); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("another device's token: %v", err)
	}
}

func TestTokenIsRedacted(t *testing.T) {
	t.Parallel()
	tok := subscription.Token{Transport: "apns", Identity: "hunter2", Body: []byte("hunter2"), Target: "…er2"}
	sub := subscription.Subscription{ID: "1", Token: tok}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v %+v %s %q %v %+v\n", tok, tok, tok, tok, sub, &sub)
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", slog.Any("token", tok), slog.Any("sub", sub))
	}
	raw, err := json.Marshal(sub)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(raw)
	if strings.Contains(b.String(), "hunter") || strings.Contains(b.String(), "aHVudGVyMg") || !strings.Contains(b.String(), "apns …er2") {
		t.Errorf("the token is told:\n%s", &b)
	}
}

func TestCheckTopic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		folder := rapid.StringN(1, -1, 255).Filter(func(s string) bool {
			return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
		}).Draw(t, "folder")
		err := subscription.CheckTopic(subscription.TopicFor(folder))
		if ok := folder == "INBOX" || !strings.EqualFold(folder, "INBOX"); ok != (err == nil) {
			t.Fatalf("%q: %v", folder, err)
		}
	})
	for topic, ok := range map[string]bool{
		"mail:new": true, "mail:new:Lists": true, "mail:new:Lists/Inbox": true, "mail:new:mail:new": true, "mail:new: ": true,
		"": false, "mail": false, "mail:new:": false, "mail:news": false, "Mail:New": false, " mail:new": false, "mail:*": false, "*": false,
		"mail:new:INBOX": false, "mail:new:inbox": false, "mail:new:a\x00b": false, "mail:new:a\nb": false, "mail:new:\u0085": false,
		"mail:new:\xff": false, "mail:new:" + strings.Repeat("x", 255): true, "mail:new:" + strings.Repeat("x", 256): false,
	} {
		if err := subscription.CheckTopic(topic); (err == nil) != ok {
			t.Errorf("%q: %v", topic, err)
		}
	}
}

func FuzzCheckTopic(f *testing.F) {
	for _, s := range []string{"mail:new", "mail:new:Lists/Go", "mail:new:INBOX", "mail:new:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if subscription.CheckTopic(topic) != nil {
			return
		}
		// What is accepted is the topic of exactly one folder, and any database can keep it.
		folder := "INBOX"
		if topic != subscription.TopicNewMail {
			folder = strings.TrimPrefix(topic, subscription.TopicNewMail+":")
		}
		if subscription.TopicFor(folder) != topic || strings.ToValidUTF8(topic, "") != topic || strings.ContainsRune(topic, 0) || len(topic) > 300 {
			t.Fatalf("%q is accepted", topic)
		}
	})
}

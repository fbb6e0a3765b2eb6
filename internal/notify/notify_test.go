package notify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// dovecotBody is what Dovecot 2.3.19 sent for a mail to a user, byte for byte.
func dovecotBody(user string, uid int) string {
	return fmt.Sprintf(`{"user":"%s","event":"messageNew","folder":"INBOX","imap-uidvalidity":1795315879,"imap-uid":%d,`+
		`"from":"Rig Sender <sender@example.org>","subject":"Grüße test","snippet":"Hello from the rig. Second sentence with ünïcode.","unseen":1}`, user, uid)
}

// dovecotRequest is the whole request: no User-Agent, no Accept, no Expect, and authorization unasked.
func dovecotRequest(host, authorization, body string) string {
	return "PUT /preliminary/http-notify/v1/notify HTTP/1.1\r\n" +
		"Host: " + host + "\r\n" +
		"Date: Sun, 22 Nov 2026 02:51:19 GMT\r\n" +
		"Authorization: Basic " + authorization + "\r\n" +
		"Content-Length: " + fmt.Sprint(len(body)) + "\r\n" +
		"Connection: Keep-Alive\r\n" +
		"Content-Type: application/json; charset=utf-8\r\n" +
		"\r\n" + body
}

// TestDovecot speaks as Dovecot does: one connection for many deliveries, one after the other.
func TestDovecot(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		mux := http.NewServeMux()
		mux.Handle("/preliminary/http-notify/v1/notify", r)
		srv := httptest.NewServer(mux)
		defer srv.Close()
		host := strings.TrimPrefix(srv.URL, "http://")
		var dialer net.Dialer
		conn, err := dialer.DialContext(t.Context(), "tcp", host)
		must(t, err)
		defer conn.Close()
		answers := bufio.NewReader(conn)
		const dove = "ZG92ZTpjb3JyZWN0IGhvcnNlIGJhdHRlcnkgc3RhcGxl" // dove:correct horse battery staple
		const meta = "bWV0YTpjb3JyZWN0IGhvcnNlIGJhdHRlcnkgc3RhcGxl"
		if body := dovecotBody("alice@rig.test", 1); len(body) != 247 {
			t.Fatalf("the body has %d bytes, as measured it had 247", len(body))
		}
		alias := r.alias(metaUser)
		for _, c := range []struct {
			authorization, body string
			status              int
			result, reason      string
		}{
			{dove, dovecotBody(doveUser, 1), 200, "queued", ""},
			{dove, dovecotBody(doveUser, 1), 200, "duplicate", ""}, // it timed out and tried again
			{dove, dovecotBody(doveUser, 2), 200, "queued", ""},
			{dove, dovecotBody("nobody@rig.test", 1), 200, "ignored", "unknown_user"},
			{"eDp5", dovecotBody(doveUser, 3), 401, "", "bad_credential"},
			{dove, "{", 400, "", "not_json"},
			{meta, dovecotBody(alias, 1), 200, "queued", ""},
			{dove, dovecotBody(doveUser, 3), 200, "queued", ""}, // and the connection still serves
		} {
			r.expect(r.exchange(conn, answers, dovecotRequest(host, c.authorization, c.body)), c.status, c.result, c.reason)
		}
		if answers.Buffered() > 0 {
			t.Error("something follows the last answer")
		}
		got := r.slots()
		in := got[doveUser]
		if in.AcceptedMS == 0 {
			t.Error("when it was accepted is not known")
		}
		in.AcceptedMS = 0
		want := push.Input{
			Topic: "mail:new", Folder: "INBOX", UIDValidity: 1795315879, UID: 3, Sender: "Rig Sender", Subject: "Grüße test", Unseen: 1,
		}
		if !reflect.DeepEqual(in, want) || len(got) != 2 {
			t.Errorf("slots %+v, want %+v of two users", got, want)
		}
	})
}

// alias is what a user is registered as at his mail host.
func (r *rig) alias(login string) string {
	r.tb.Helper()
	users, err := r.tenants.UsersByLogin(r.tb.Context(), login)
	must(r.tb, err)
	h, err := r.tenants.MailHost(r.tb.Context(), users[0].MailHost)
	must(r.tb, err)
	return r.tenants.Alias(h, users[0].ID)
}

// TestAnswerBytes: the answer is short, and the same to the byte for whoever compares it.
func TestAnswerBytes(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	for _, want := range []string{
		`{"success":true,"result":"queued"}`,
		`{"success":true,"result":"duplicate"}`,
	} {
		if got := r.put("dove", "", dovecotBody(doveUser, 1)).Body.String(); got != want {
			t.Errorf("answer %s, want %s", got, want)
		}
	}
	if got, want := r.put("dove", "", `{}`).Body.String(), `{"success":true,"result":"ignored","reason":"no_event"}`; got != want {
		t.Errorf("answer %s, want %s", got, want)
	}
}

// TestWhoSpeaksForWhom: a credential fixes the user form and for whom it may speak, and in the metadata
// form the name is a claim of the mailbox owner's. Who is named wrongly gets nothing.
func TestWhoSpeaksForWhom(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		verified, others := r.alias(metaUser), r.alias(metaOther)
		if verified == "3@1" || !strings.HasPrefix(verified, "3@1.") {
			t.Fatalf("alias %q", verified)
		}
		flipped := verified[:len(verified)-1] + "~"
		for i, c := range []struct {
			login, user    string
			pushes         string // whose device; "" nobody's
			result, reason string
		}{
			{"posthorn", sharedUser, sharedUser, "queued", ""},
			{"posthorn", strings.ToUpper(sharedUser), sharedUser, "queued", ""}, // Dovecot folds logins, others may not
			{"posthorn", doveUser, "", "ignored", tenant.ReasonForeignUser},     // "dove" has a credential of its own
			{"posthorn", "1@1", "", "ignored", tenant.ReasonUnknownUser},        // the installation's form is the login
			{"dove", doveUser, doveUser, "queued", ""},
			{"dove", sharedUser, "", "ignored", tenant.ReasonForeignUser},
			{"dove", metaUser, "", "ignored", tenant.ReasonForeignUser},
			{"dove", "2@1", "", "ignored", tenant.ReasonUnknownUser},
			{"meta", verified, metaUser, "queued", ""},
			{"meta", others, metaOther, "queued", ""},
			{"meta", "3@1", "", "ignored", tenant.ReasonUnverifiedUser},
			{"meta", "4@1", "", "ignored", tenant.ReasonUnverifiedUser}, // what an owner can write of somebody else
			{"meta", "4@1" + verified[3:], "", "ignored", tenant.ReasonUnverifiedUser},
			{"meta", flipped, "", "ignored", tenant.ReasonUnverifiedUser},
			{"meta", "3@1.", "", "ignored", tenant.ReasonUnverifiedUser},
			{"meta", metaUser, "", "ignored", tenant.ReasonUnknownUser},
			{"meta", "2@1", "", "ignored", tenant.ReasonForeignUser},
			{"bare", "1@2", bareUser, "queued", ""},
			{"bare", "1@2.AAAAAAAAAAAAAAAAAAAAAA", "", "ignored", tenant.ReasonUnverifiedUser},
			{"bare", "5@1", "", "ignored", tenant.ReasonForeignUser}, // its context is not this credential's
			{"bare", "3@1", "", "ignored", tenant.ReasonForeignUser},
			{"bare", "99@2", "", "ignored", tenant.ReasonUnknownUser},
			{"bare", "01@2", "", "ignored", tenant.ReasonUnknownUser},
			{"bare", "1@2@3", "", "ignored", tenant.ReasonUnknownUser},
			{"bare", `\u0000`, "", "ignored", tenant.ReasonUnknownUser},
			{"dove", `a\u0000b`, "", "ignored", tenant.ReasonUnknownUser}, // PostgreSQL would refuse to look for it
			{"dove", "", "", "ignored", tenant.ReasonUnknownUser},
		} {
			before := r.slots()
			r.expect(r.notify(c.login, "", dovecotBody(c.user, 100+i)), 200, c.result, c.reason)
			for login, in := range r.slots() {
				if changed := !reflect.DeepEqual(before[login], in); changed != (login == c.pushes) {
					t.Errorf("%s says %q: pushes to %s", c.login, c.user, login)
				}
			}
			if _, ok := r.slots()[c.pushes]; !ok && c.pushes != "" {
				t.Errorf("%s says %q: no push", c.login, c.user)
			}
		}
	})
}

// TestCredentials: whoever cannot say who he is learns nothing and changes nothing.
func TestCredentials(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		for _, c := range []struct{ name, login, password, header string }{
			{name: "none"},
			{name: "wrong password", login: "dove", password: "wrong"},
			{name: "empty password", login: "dove"},
			{name: "unknown login", login: "nobody", password: secret},
			{name: "empty login", password: secret},
			{name: "host without a credential of its own", login: "shared", password: secret},
			{name: "host without a credential, no password", login: "shared"},
			{name: "NUL", login: "do\x00ve", password: secret},
			{name: "bad UTF-8", login: "do\xffve", password: secret},
			{name: "long", login: strings.Repeat("x", 5000), password: secret},
			{name: "bearer", header: "Bearer " + secret},
			{name: "not base64", header: "Basic %%%"},
		} {
			t.Run(c.name, func(t *testing.T) {
				req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, Path, strings.NewReader(dovecotBody(doveUser, 1)))
				if c.login+c.password != "" {
					req.SetBasicAuth(c.login, c.password)
				}
				if c.header != "" {
					req.Header.Set("Authorization", c.header)
				}
				w := httptest.NewRecorder()
				r.ServeHTTP(w, req)
				r.expect(r.read(w.Code, w.Header(), w.Body), 401, "", "bad_credential")
				if got := w.Header().Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic realm=") {
					t.Errorf("WWW-Authenticate %q", got)
				}
			})
		}
		if n := len(r.slots()); n != 0 {
			t.Errorf("%d slots", n)
		}
	})
}

func TestAllowFrom(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	for uid, c := range []struct {
		remote string
		status int
	}{
		{"192.0.2.7:4711", 200},
		{"[::ffff:192.0.2.7]:4711", 200}, // a listener on both families sees IPv4 like this
		{"[fe80::1%eth0]:4711", 200},
		{"192.0.3.7:4711", 403},
		{"[2001:db8::1]:4711", 403},
		{"127.0.0.1:4711", 403},
		{"@", 403}, // no address at all
	} {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, Path, strings.NewReader(dovecotBody(nearUser, uid+1)))
		req.SetBasicAuth("near", secret)
		req.RemoteAddr = c.remote
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		result, reason := "queued", ""
		if c.status == 403 {
			result, reason = "", "address_not_allowed"
		}
		r.expect(r.read(w.Code, w.Header(), w.Body), c.status, result, reason)
	}
}

func TestMethods(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	for _, method := range []string{"GET", "POST", "DELETE", "PATCH", "OPTIONS", "put"} {
		req := httptest.NewRequestWithContext(t.Context(), method, Path, strings.NewReader(dovecotBody(doveUser, 1)))
		req.SetBasicAuth("dove", secret)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		r.expect(r.read(w.Code, w.Header(), w.Body), 405, "", "method_not_allowed")
		if got := w.Header().Get("Allow"); got != "PUT" {
			t.Errorf("%s: Allow %q", method, got)
		}
	}
}

func TestSize(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	body := func(size, uid int) string {
		text := dovecotBody(doveUser, uid)
		return strings.Replace(text, "Grüße", "Grüße"+strings.Repeat("x", size-len(text)), 1)
	}
	r.expect(r.notify("dove", "", body(1<<20, 1)), 200, "queued", "")
	r.expect(r.notify("dove", "", body(1<<20+1, 2)), 413, "", "too_large")
	if got := r.slots()[doveUser]; got.UID != 1 || !strings.HasPrefix(got.Subject, "Grüßexxx") || len(got.Subject) != event.MaxSubject {
		t.Errorf("uid %d, a subject of %d bytes", got.UID, len(got.Subject))
	}
	// The refusal comes without reading what else is sent: the connection ends.
	srv := httptest.NewServer(r)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, srv.URL, strings.NewReader(body(1<<20+1, 3)))
	must(t, err)
	req.SetBasicAuth("dove", secret)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	r.expect(r.read(res.StatusCode, res.Header, res.Body), 413, "", "too_large")
	if !res.Close {
		t.Error("the connection goes on after a body that was not read")
	}
}

func TestBodyEndsEarly(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPut, Path,
		io.MultiReader(strings.NewReader(dovecotBody(doveUser, 1)), failing{io.ErrUnexpectedEOF}))
	req.SetBasicAuth("dove", secret)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	r.expect(r.read(w.Code, w.Header(), w.Body), 400, "", "unreadable_body")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestStoreAway: what could not be committed is not "queued".
func TestStoreAway(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		must(t, r.db.Close())
		for _, login := range []string{"posthorn", "dove"} { // the second is looked up in the store
			w := r.put(login, "", dovecotBody(sharedUser, 1))
			r.expect(r.read(w.Code, w.Header(), w.Body), 503, "", "store_unavailable")
			if got := w.Header().Get("Retry-After"); got != "1" {
				t.Errorf("Retry-After %q", got)
			}
		}
		// What needs no store is answered without one.
		r.expect(r.notify("posthorn", "", `{"event":"FlagsSet","folder":"INBOX","imap-uid":1}`), 200, "ignored", "no_change")
		r.expect(r.notify("posthorn", "", `[]`), 400, "", "not_json")
	})
}

// slow delivers a body long after its request began.
type slow struct {
	io.Reader
	after time.Duration
	then  func()
}

func (s *slow) Read(p []byte) (int, error) {
	<-time.After(s.after)
	n, err := s.Reader.Read(p)
	if errors.Is(err, io.EOF) && s.then != nil {
		s.then()
	}
	return n, err
}

// TestSlowOrHastySender: neither a body that takes its time nor a sender that does not wait for the
// answer loses the mail.
func TestSlowOrHastySender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t))
		ctx, hangUp := context.WithCancel(t.Context())
		req := httptest.NewRequestWithContext(ctx, http.MethodPut, Path,
			&slow{strings.NewReader(dovecotBody(doveUser, 1)), 2 * storeTimeout, hangUp})
		req.SetBasicAuth("dove", secret)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		r.expect(r.read(w.Code, w.Header(), w.Body), 200, "queued", "")
		if ctx.Err() == nil {
			t.Error("the sender has not left")
		}
	})
}

func TestMetrics(t *testing.T) {
	r := newRig(t, sqliteURL(t))
	r.notify("dove", "", dovecotBody(doveUser, 1))
	r.notify("dove", "", dovecotBody(doveUser, 1))
	r.notify("dove", "", dovecotBody("nobody", 1))
	r.notify("dove", "", `{"event":"BEGIN"}`)
	r.notify("dove", "", `{`)
	r.notify("", "", `{`)
	families, err := r.metrics.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetName() + "=" + label.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	const requests = "posthorn_notify_requests_total"
	want := map[string]float64{
		requests + " reason= result=duplicate":             1,
		requests + " reason= result=queued":                1,
		requests + " reason=bad_credential result=refused": 1,
		requests + " reason=not_json result=refused":       1,
		requests + " reason=unknown_event result=ignored":  1,
		requests + " reason=unknown_user result=ignored":   1,
		"posthorn_notify_seconds":                          6,
	}
	if !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
	if _, err := New(r.tenants, nil, nil, r.metrics, time.Now); err == nil {
		t.Error("two handlers in one registry")
	}
}

package notify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/posthorn-mail/posthorn/internal/event"
)

// TestInput plays every kind of body through the whole endpoint.
func TestInput(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url)
		// In the bodies, U is "user" of a user with a device, E "event":"MessageNew", F "folder":"INBOX" and V
		// a UIDVALIDITY that no other row has.
		for i, c := range []struct {
			name, contentType, body string
			status                  int
			result, reason          string
			field                   string // at fault
			uid                     uint32 // queued
			unseen                  int
		}{
			{name: "minimal", body: `{U,E,F,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "no Content-Type", body: `{U,E,F,V,"imap-uid":1,"unseen":4}`, status: 200, result: "queued", uid: 1, unseen: 4},
			{name: "JSON with another charset's name", contentType: "application/json; charset=iso-8859-1", body: `{U,E,F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "curl's Content-Type", contentType: "application/x-www-form-urlencoded", body: `{U,E,F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "damaged Content-Type", contentType: `text/calendar; ";`, body: `{U,E,F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "space around", body: " \r\n\t{U,E,F,V,\"imap-uid\":1}\n", status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "unknown members", body: `{U,E,F,V,"imap-uid":1,"snippet":7,"flags":["\\Seen"],"x":{"y":[null]},"calendar":null}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "a member given twice", body: `{U,E,F,V,"imap-uid":1,"imap-uid":2}`, status: 200, result: "queued", uid: 2, unseen: -1},

			{name: "event as documented", body: `{U,"event":"MessageNew",F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "event as sent", body: `{U,"event":"messageNew",F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "event in capitals", body: `{U,"event":"MESSAGENEW",F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "append", body: `{U,"event":"MessageAppend",F,V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "flags set", body: `{U,"event":"FlagsSet",F,V,"imap-uid":[1,2],"flags":["\\Seen"]}`, status: 200, result: "ignored", reason: "unchanged"},
			{name: "flags cleared", body: `{U,"event":"FlagsClear",F,V,"imap-uid":[1,2],"flags-old":["\\Seen"]}`, status: 200, result: "ignored", reason: "no_change"},
			{name: "expunge", body: `{U,"event":"MessageExpunge",F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "unchanged"},
			{name: "read", body: `{U,"event":"MessageRead",F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "unchanged"},
			{name: "unknown event", body: `{U,"event":"MailboxRename",F}`, status: 200, result: "ignored", reason: "unknown_event"},
			{name: "no event", body: `{U,F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "no_event"},
			{name: "empty object", body: `{}`, status: 200, result: "ignored", reason: "no_event"},
			{name: "event of another type", body: `{U,"event":1,F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "no_event"},

			{name: "iCalendar by its type", contentType: "text/calendar; charset=utf-8; method=REQUEST", body: "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", status: 200, result: "ignored", reason: "calendar"},
			{name: "iCalendar by its looks", body: "\r\nBEGIN:VCALENDAR\r\nVERSION:2.0\r\nEND:VCALENDAR\r\n", status: 200, result: "ignored", reason: "calendar"},
			{name: "invitation in JSON", body: `{U,"event":"itip","calendar":"BEGIN:VCALENDAR"}`, status: 200, result: "ignored", reason: "calendar"},
			{name: "invitation in JSON with a mail's event", body: `{U,E,F,"itip":{"method":"REQUEST"}}`, status: 200, result: "ignored", reason: "calendar"},
			{name: "mail that mentions an invitation", body: `{U,E,F,V,"imap-uid":1,"itip":true}`, status: 200, result: "queued", uid: 1, unseen: -1},

			{name: "folder without subscribers", body: `{U,E,"folder":"Archive",V,"imap-uid":1}`, status: 200, result: "ignored", reason: "other_folder"},
			{name: "folder in UTF-8", body: `{U,E,"folder":"Entwürfe/日本",V,"imap-uid":1}`, status: 200, result: "ignored", reason: "other_folder"},
			{name: "folder with NUL", body: `{U,E,"folder":"a\u0000b",V,"imap-uid":1}`, status: 200, result: "ignored", reason: "other_folder"},
			{name: "inbox in any case", body: `{U,E,"folder":"InBoX",V,"imap-uid":1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "below the inbox", body: `{U,E,"folder":"INBOX/a",V,"imap-uid":1}`, status: 200, result: "ignored", reason: "other_folder"},
			{name: "no folder", body: `{U,E,V,"imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},
			{name: "empty folder", body: `{U,E,"folder":"",V,"imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},
			{name: "null folder", body: `{U,E,"folder":null,V,"imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},
			{name: "folder of another type", body: `{U,E,"folder":["INBOX"],V,"imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},
			{name: "folder too long", body: `{U,E,"folder":"` + strings.Repeat("x", 1025) + `","imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},
			{name: "no folder, of an event that is ignored", body: `{U,"event":"FlagsSet","imap-uid":1}`, status: 400, reason: "invalid_field", field: "folder"},

			{name: "largest uid", body: `{U,E,F,V,"imap-uid":4294967295}`, status: 200, result: "queued", uid: 4294967295, unseen: -1},
			{name: "several uids", body: `{U,E,F,V,"imap-uid":[7, 12 ,9]}`, status: 200, result: "queued", uid: 12, unseen: -1},
			{name: "one uid in an array", body: `{U,E,F,V,"imap-uid":[3]}`, status: 200, result: "queued", uid: 3, unseen: -1},
			{name: "no uid", body: `{U,E,F,V}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "no uids", body: `{U,E,F,V,"imap-uid":[]}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "null uid", body: `{U,E,F,V,"imap-uid":null}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "uid zero", body: `{U,E,F,V,"imap-uid":0}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "a zero among uids", body: `{U,E,F,V,"imap-uid":[1,0]}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "negative uid", body: `{U,E,F,V,"imap-uid":-1}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "uid too large", body: `{U,E,F,V,"imap-uid":4294967296}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "uid far too large", body: `{U,E,F,V,"imap-uid":1e400}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "half a uid", body: `{U,E,F,V,"imap-uid":1.5}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "uid in quotes", body: `{U,E,F,V,"imap-uid":"1"}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "array in array", body: `{U,E,F,V,"imap-uid":[[1]]}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "uid of another type", body: `{U,E,F,V,"imap-uid":{"1":1}}`, status: 400, reason: "invalid_field", field: "imap-uid"},
			{name: "null UIDVALIDITY", body: `{U,E,F,"imap-uidvalidity":null,"imap-uid":2}`, status: 200, result: "queued", uid: 2, unseen: -1},
			{name: "UIDVALIDITY zero", body: `{U,E,F,"imap-uidvalidity":0,"imap-uid":1}`, status: 400, reason: "invalid_field", field: "imap-uidvalidity"},
			{name: "UIDVALIDITY in quotes", body: `{U,E,F,"imap-uidvalidity":"7","imap-uid":1}`, status: 400, reason: "invalid_field", field: "imap-uidvalidity"},

			{name: "unread, as the original read it", body: `{U,E,F,V,"imap-uid":1,"unread":5}`, status: 200, result: "queued", uid: 1, unseen: 5},
			{name: "both", body: `{U,E,F,V,"imap-uid":1,"unread":5,"unseen":6}`, status: 200, result: "queued", uid: 1, unseen: 6},
			{name: "none unseen", body: `{U,E,F,V,"imap-uid":1,"unseen":0}`, status: 200, result: "queued", uid: 1, unseen: 0},
			{name: "unseen null, unread known", body: `{U,E,F,V,"imap-uid":1,"unseen":null,"unread":2}`, status: 200, result: "queued", uid: 1, unseen: 2},
			{name: "unseen below zero", body: `{U,E,F,V,"imap-uid":1,"unseen":-1}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "unseen of another type", body: `{U,E,F,V,"imap-uid":1,"unseen":"7"}`, status: 200, result: "queued", uid: 1, unseen: -1},
			{name: "unseen beyond reason", body: `{U,E,F,V,"imap-uid":1,"unseen":99999999999}`, status: 200, result: "queued", uid: 1, unseen: -1},

			{name: "user of another type", body: `{"user":3,E,F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "unknown_user"},
			{name: "no user", body: `{E,F,V,"imap-uid":1}`, status: 200, result: "ignored", reason: "unknown_user"},

			{name: "from and subject of other types", body: `{U,E,F,V,"imap-uid":1,"from":[],"subject":{}}`, status: 200, result: "queued", uid: 1, unseen: -1},

			{name: "nothing", body: ``, status: 400, reason: "not_json"},
			{name: "null", body: `null`, status: 400, reason: "not_json"},
			{name: "an array", body: `[{U,E,F,"imap-uid":1}]`, status: 400, reason: "not_json"},
			{name: "a string", body: `"messageNew"`, status: 400, reason: "not_json"},
			{name: "a form", body: `user=a&event=messageNew`, status: 400, reason: "not_json"},
			{name: "half", body: `{U,E,F,"imap-uid":1`, status: 400, reason: "not_json"},
			{name: "comma at the end", body: `{U,E,F,"imap-uid":1,}`, status: 400, reason: "not_json"},
			{name: "leading zero", body: `{U,E,F,"imap-uid":01}`, status: 400, reason: "not_json"},
			{name: "raw control character", body: "{U,E,F,\"imap-uid\":1,\"subject\":\"a\nb\"}", status: 400, reason: "not_json"},
			{name: "deep", body: `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, status: 400, reason: "not_json"},
			{name: "two objects", body: `{U,E,F,"imap-uid":1}{}`, status: 400, reason: "trailing_data"},
			{name: "trailing brace", body: `{U,E,F,"imap-uid":1}}`, status: 400, reason: "trailing_data"},
			{name: "trailing NUL", body: "{U,E,F,\"imap-uid\":1}\x00", status: 400, reason: "trailing_data"},
			{name: "bad UTF-8 in a value", body: "{U,E,F,\"imap-uid\":1,\"subject\":\"Gr\xfc\xdfe\"}", status: 400, reason: "bad_utf8"},
			{name: "bad UTF-8 after the end", body: "{U,E,F,\"imap-uid\":1}\xff", status: 400, reason: "bad_utf8"},
			{name: "UTF-16", body: "\xfe\xff\x00{\x00}", status: 400, reason: "bad_utf8"},
		} {
			body := c.body
			for short, long := range map[string]string{
				"U": `"user":"` + doveUser + `"`, "E": `"event":"MessageNew"`, "F": `"folder":"INBOX"`,
				"V": fmt.Sprintf(`"imap-uidvalidity":%d`, 1000+i),
			} {
				for _, before := range []string{"{", ","} {
					for _, after := range []string{",", "}"} {
						body = strings.ReplaceAll(body, before+short+after, before+long+after)
					}
				}
			}
			got := r.notify("dove", c.contentType, body)
			r.expect(got, c.status, c.result, c.reason)
			if got.problem.Field != c.field {
				t.Errorf("%s: field %q, want %q", c.name, got.problem.Field, c.field)
			}
			if in := r.slots()[doveUser]; c.result == "queued" && (in.UID != c.uid || in.Unseen != c.unseen || in.Folder != "INBOX") {
				t.Errorf("%s: queued %+v", c.name, in)
			}
			if t.Failed() {
				t.Fatalf("%s: %.200s", c.name, body)
			}
		}
	})
}

// TestParseChanges: what the wider events mean for a notification.
func TestParseChanges(t *testing.T) {
	for _, c := range []struct {
		event, more string
		kind        event.Kind
		unseen      int
		ignored     string
	}{
		{"MessageRead", "", event.Read, -1, ""},
		{"messageread", `,"unseen":2`, event.Read, 2, ""},
		{"MessageExpunge", `,"unread":0`, event.Removed, 0, ""},
		{"MessageTrash", "", event.Removed, -1, ""},
		{"FlagsSet", `,"flags":["\\Seen"],"keywords":[]`, event.Read, -1, ""},
		{"FlagsSet", `,"flags":["\\Flagged","\\SEEN"]`, event.Read, -1, ""},
		{"FlagsSet", `,"flags":["\\Seen","\\Deleted"]`, event.Removed, -1, ""},
		{"FlagsSet", `,"flags":"\\Answered \\Seen"`, event.Read, -1, ""},
		{"FlagsSet", `,"flags":8`, event.Read, -1, ""},
		{"FlagsSet", `,"flags":13`, event.Removed, -1, ""},
		{"FlagsSet", `,"flags":3,"unseen":4`, event.Counted, 4, ""},
		{"FlagsSet", `,"flags":["\\Flagged"]`, "", -1, "no_change"},
		{"FlagsSet", `,"flags":["Seen"]`, "", -1, "no_change"},
		{"FlagsSet", `,"flags":{"a":1}`, "", -1, "no_change"},
		{"FlagsSet", "", "", -1, "no_change"},
		{"FlagsClear", `,"flags":["\\Seen"],"unseen":5`, event.Counted, 5, ""},
		{"FlagsClear", `,"flags":["\\Seen"]`, "", -1, "no_change"},
	} {
		body := fmt.Sprintf(`{"user":"u","event":%q,"folder":"inbox","imap-uidvalidity":9,"imap-uid":[3,7,5]%s}`, c.event, c.more)
		n, ignored, p := parse([]byte(body), "")
		if p != nil || ignored != c.ignored || ignored == "" && (n.kind != c.kind || n.unseen != c.unseen) {
			t.Errorf("%s: %+v, ignored %q, %v", body, n, ignored, p)
		}
		if ignored == "" && (n.folder != "INBOX" || n.uidValidity != 9 || n.uid != 7 || !slices.Equal(n.uids, []uint32{3, 7, 5})) {
			t.Errorf("%s: names %+v", body, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(dovecotBody("alice@rig.test", 1)), "application/json; charset=utf-8")
	f.Add([]byte(`{"user":"3@1","event":"FlagsSet","folder":"INBOX","imap-uid":[1,2],"unread":0}`), "")
	f.Add([]byte(`{"event":"messagenew","folder":"inbox","imap-uid":1,"from":"\"=?iso-2022-jp?B?GyRCRnxLXDhsGyhC?=\" <a@b>","subject":"=?utf-8*en?q?=E2=80=AE?=\r\n\t\u202e"}`), "")
	f.Add([]byte(`{"event":"MessageAppend","folder":"x","imap-uid":1,"from":"a (\\) <b","subject":"\ud800"}`), "")
	f.Add([]byte("BEGIN:VCALENDAR"), "text/calendar")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		n, ignored, p := parse(body, contentType)
		if ignored != "" || p != nil {
			if p != nil && (p.Status != 400 || p.Reason == "" || p.Detail == "") {
				t.Fatalf("problem %+v", p)
			}
			return
		}
		if n.uid < 1 || n.unseen < event.Unknown || n.folder == "" || len(n.folder) > maxFolder || !utf8.ValidString(n.folder) || !utf8.ValidString(n.user) {
			t.Fatalf("accepted %+v", n)
		}
		for _, text := range []struct {
			s    string
			most int
		}{{n.sender, event.MaxSender}, {n.address, event.MaxAddress}, {n.subject, event.MaxSubject}} {
			if !utf8.ValidString(text.s) || len(text.s) > text.most {
				t.Fatalf("text %q", text.s)
			}
		}
	})
}

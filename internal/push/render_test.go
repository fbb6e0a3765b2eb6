package push

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"
	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

var update = flag.Bool("update", false, "write the golden files")

func clientOf(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
}

func sample() Notification {
	id := slotID{"000102030405060708090a0b", collapseKeyMail}
	return Notification{
		Version: 42, Collapse: id.collapse(), ID: notificationID(id, 42), Expires: moment.Add(72 * time.Hour),
		Input: Input{
			Topic: "mail:new", Folder: "INBOX", UIDValidity: 1795315879, UID: 7, Unseen: 3, AcceptedMS: moment.UnixMilli(),
			Sender: "Zoë <b>Müller</b>", Subject: "Re: \"Grüße\" & Pläne\\für 👩‍👩‍👧",
		},
	}
}

// TestGolden holds what leaves for each provider, as its fake received it. Run with -update after a
// change on purpose, and read the difference: apps in the field depend on these.
func TestGolden(t *testing.T) {
	change := map[string]func(*Notification){
		"":       func(*Notification) {},
		"-short": func(n *Notification) { n.Short = true },
		"-bare": func(n *Notification) {
			n.Input = Input{Topic: "mail:new", Folder: "Lists/go-nuts", UID: 4294967295, Unseen: -1}
		},
		"-read": func(n *Notification) { n.Input.Unseen = 0 },
		"-vip":  func(n *Notification) { n.Input.VIP = true },
		"-clear": func(n *Notification) {
			n.Input.Topic, n.Input.Sender, n.Input.Subject = topicClear, "", ""
		},
		"-clear-uncounted": func(n *Notification) {
			n.Input.Topic, n.Input.Sender, n.Input.Subject, n.Input.Unseen = topicClear, "", "", -1
		},
		"-badge": func(n *Notification) { n.Input = Input{Topic: topicBadge, Unseen: 2} },
	}
	b := newBench(t, PrivacyFull)
	for _, c := range []struct{ privacy, name string }{
		{"full", ""},
		{"full", "-short"},
		{"full", "-bare"},
		{"full", "-read"},
		{"sender", ""},
		{"sender", "-bare"},
		{"none", ""},
		{"full", "-vip"},
		{"full", "-clear"},
		{"full", "-clear-uncounted"},
		{"full", "-badge"},
		{"sealed", ""},
		{"sealed", "-short"},
		{"sealed", "-clear"},
		{"sealed", "-badge"},
	} {
		b.privacy = Privacy(c.privacy)
		for _, tr := range b.transports() {
			n := sample()
			change[c.name](&n)
			o, d := b.send(tr, n)
			if o.Kind != outcome.Delivered {
				t.Fatalf("%s: %v", tr.Name(), o)
			}
			d.Payload = b.opened(d.Payload)
			golden(t, filepath.Join("testdata", tr.Name()+"-"+c.privacy+c.name+".golden"), d)
		}
	}
}

func golden(t *testing.T, file string, d fake.Delivery) {
	t.Helper()
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(d.Headers)) {
		if name == "authorization" {
			continue
		}
		fmt.Fprintf(&got, "%s: %s\n", name, d.Headers[name])
	}
	got.WriteString("\n")
	got.Write(d.Payload)
	got.WriteString("\n")
	if *update {
		must(t, os.MkdirAll("testdata", 0o750))
		must(t, os.WriteFile(file, []byte(got.String()), 0o600))
		return
	}
	wanted, err := os.ReadFile(file) //nolint:gosec // a golden file
	must(t, err)
	if got.String() != string(wanted) {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", file, got.String(), wanted)
	}
}

var sealedMember = regexp.MustCompile(`"sealed":"([^"]*)"`)

// opened puts what a device makes of a sealed payload in the place of the ciphertext.
func (b *bench) opened(payload []byte) []byte {
	b.tb.Helper()
	m := sealedMember.FindSubmatchIndex(payload)
	if m == nil {
		return payload
	}
	plain, err := b.device.Open(string(payload[m[2]:m[3]]))
	must(b.tb, err)
	return slices.Concat(payload[:m[0]], []byte(`"sealed":`), plain, payload[m[1]:])
}

// TestSealedWithoutKeys: who cannot be sealed to is told what "none" tells.
func TestSealedWithoutKeys(t *testing.T) {
	b := newBench(t, PrivacySealed)
	b.keys = nil
	for _, tr := range []Transport{&b.apns, &b.fcm} {
		_, d := b.send(tr, sample())
		golden(t, filepath.Join("testdata", tr.Name()+"-none.golden"), d)
	}
	b.keys = []byte("{}") // damaged: nothing goes out, rather than in clear
	for _, tr := range []Transport{&b.apns, &b.fcm} {
		if o, _ := b.send(tr, sample()); o.Kind != outcome.Refused || o.Reason != "bad_keys" {
			t.Errorf("%s with damaged keys: %v", tr.Name(), o)
		}
	}
}

// TestPrivacyOfApp: an app's own level takes the place of the server's.
func TestPrivacyOfApp(t *testing.T) {
	b := newBench(t, PrivacyFull)
	b.apns.Apps[0].Privacy, b.fcm.Apps[0].Privacy = PrivacyNone, PrivacyNone
	for _, tr := range []Transport{&b.apns, &b.fcm} {
		_, d := b.send(tr, sample())
		golden(t, filepath.Join("testdata", tr.Name()+"-none.golden"), d)
	}
}

// shown is what a device is told of the mail.
func shown(t testing.TB, transport string, payload []byte) (title, body string) {
	t.Helper()
	var p struct {
		APS struct {
			Alert struct{ Title, Body string }
		}
		Notification struct{ Title, Body string }
		Data         struct{ Sender, Subject string }
	}
	must(t, json.Unmarshal(payload, &p))
	switch transport {
	case "apns":
		return p.APS.Alert.Title, p.APS.Alert.Body
	case "fcm":
		return p.Data.Sender, p.Data.Subject
	}
	return p.Notification.Title, p.Notification.Body
}

var limits = map[string]int{"apns": apns.MaxPayload, "fcm": fcm.MaxData, "webpush": webpush.MaxBody}

// TestLimits sends texts far beyond what fits, and has the strict fakes judge the size.
func TestLimits(t *testing.T) {
	b := newBench(t, PrivacyFull)
	for name, unit := range map[string]string{
		"latin":          "The quick brown fox ",
		"cjk":            "日本語の件名がとても長い場合",
		"family":         "👩‍👩‍👧‍👦",
		"skin and flags": "👍🏽🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿",
		"combining":      "g̈ọ̈a̐é",
		"devanagari":     "क्षत्रिय ",
		"hangul jamo":    "각",
		"quotes":         `"\`,
		"controls":       "\x01\x1f\n\t",
		"separators":     "\u2028\u2029",
		"one cluster":    "\u0301",
	} {
		for _, length := range []struct{ sender, subject int }{{40, 1 << 14}, {1 << 14, 1 << 14}, {1 << 14, 0}} {
			n := sample()
			n.Input.Sender = strings.Repeat(unit, length.sender/len(unit)+1)
			n.Input.Subject = strings.Repeat(unit, length.subject/len(unit))
			for _, tr := range b.transports() {
				o, d := b.send(tr, n)
				if o.Kind != outcome.Delivered {
					t.Errorf("%s, %s: %v", name, tr.Name(), o)
					continue
				}
				limit := limits[tr.Name()]
				size := len(d.Payload)
				if tr.Name() == "fcm" {
					size = dataSize(t, d.Payload)
				}
				if size > limit || size < limit/3 && name != "one cluster" {
					t.Errorf("%s, %s: %d bytes, limit %d", name, tr.Name(), size, limit)
				}
				title, body := shown(t, tr.Name(), d.Payload)
				if title == "" && tr.Name() != "fcm" { // there, the app has words of its own
					t.Errorf("%s, %s: nothing to show", name, tr.Name())
				}
				for _, text := range []struct{ got, whole string }{{title, n.Input.Sender}, {body, n.Input.Subject}} {
					if !isHead(text.got, text.whole) {
						t.Errorf("%s, %s: %.40q… is no head of %.40q…", name, tr.Name(), text.got, text.whole)
					}
				}
			}
		}
	}
}

// TestSealedLimits: what is too long is cut before it is encrypted, to what then fits.
func TestSealedLimits(t *testing.T) {
	b := newBench(t, PrivacySealed)
	for _, subject := range []int{0, 1, 1000, 2200, 2300, 2400, 2500, 3000, 1 << 14} {
		n := sample()
		n.Input.Subject = strings.Repeat("ö", subject/2)
		for _, tr := range []Transport{&b.apns, &b.fcm} {
			o, d := b.send(tr, n)
			if o.Kind != outcome.Delivered {
				t.Errorf("%d, %s: %v", subject, tr.Name(), o)
				continue
			}
			size := len(d.Payload)
			if tr.Name() == "fcm" {
				size = dataSize(t, d.Payload)
			}
			if size > limits[tr.Name()] || subject > 2600 && size < limits[tr.Name()]-2*128*4/3 {
				t.Errorf("%d, %s: %d bytes, limit %d", subject, tr.Name(), size, limits[tr.Name()])
			}
			var v struct {
				Sealed struct{ Sender, Subject string }
				Data   struct {
					Sealed struct{ Sender, Subject string }
				}
			}
			must(t, json.Unmarshal(b.opened(d.Payload), &v))
			if got := v.Sealed.Subject + v.Data.Sealed.Subject; !isHead(got, n.Input.Subject) && got != textNoSubject {
				t.Errorf("%d, %s: subject %.40q…", subject, tr.Name(), got)
			}
		}
	}
}

// isHead reports whether a shown text is the whole, one of our own words, or ends at the end of a
// character as people see them, and an ellipsis.
func isHead(got, whole string) bool {
	if got == whole || got == "" || got == textNewMail || got == textNoSubject {
		return true
	}
	head, cut := strings.CutSuffix(got, "…")
	if !cut || !strings.HasPrefix(whole, head) {
		return false
	}
	end := 0
	for g := uniseg.NewGraphemes(whole); end < len(head) && g.Next(); {
		_, end = g.Positions()
	}
	return end == len(head)
}

func dataSize(t testing.TB, message []byte) (n int) {
	t.Helper()
	var m struct{ Data map[string]string }
	must(t, json.Unmarshal(message, &m))
	for k, v := range m.Data {
		n += len(k) + len(v)
	}
	return n
}

// TestFit is TestLimits without the wire, for texts of every make.
func TestFit(t *testing.T) {
	texts := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{
		"a", " ", "日", "👩‍👩‍👧", "é", "\u0301", "\u200d", "\x01", `"`, "…", "🇩🇪", "\u0600", "\r\n", "각",
	}), 0, 200), func(parts []string) string { return strings.Join(parts, "") }))
	rapid.Check(t, func(t *rapid.T) {
		n := sample()
		n.Input.Sender, n.Input.Subject = texts.Draw(t, "sender"), texts.Draw(t, "subject")
		limit := rapid.IntRange(70, 600).Draw(t, "limit")
		renders := 0
		v := fit(PrivacyFull.view(n), limit, func(v view) (view, int) {
			renders++
			title, body := v.screen()
			return v, len(encode(struct{ Title, Body string }{title, body}))
		})
		title, body := v.screen()
		whole := PrivacyFull.view(n)
		if size := len(encode(struct{ Title, Body string }{title, body})); size > limit {
			t.Fatalf("%d bytes, limit %d", size, limit)
		}
		if !isHead(v.sender, whole.sender) || !isHead(v.subject, whole.subject) || title == "" {
			t.Fatalf("%+v of %+v", v, whole)
		}
		if v.sender != whole.sender && v.subject != "" {
			t.Fatal("the sender was cut before the subject")
		}
		if renders > 40 {
			t.Fatalf("%d renderings", renders)
		}
	})
}

// TestTooLongAnyhow: facts that no cut can help are the wire's to refuse.
func TestTooLongAnyhow(t *testing.T) {
	b := newBench(t, PrivacyFull)
	for _, tr := range b.transports() {
		n := sample()
		n.Input.Folder = strings.Repeat("f", 5000)
		if o, _ := b.send(tr, n); o.Kind != outcome.Refused {
			t.Errorf("%s: %v", tr.Name(), o)
		}
	}
}

// TestShortForm: a provider that finds a notification too large gets it once more without the subject.
func TestShortForm(t *testing.T) {
	b := newBench(t, PrivacyFull)
	r := newRig(t, sqliteURL(t), 1)
	s := r.service(nil, b.transports()...)
	tooLarge := func() func(fake.Delivery) *fake.Answer {
		return fake.Queue(fake.Answer{Status: 413, Reason: "PayloadTooLarge"})
	}
	b.apnsFake.Script(tooLarge())
	b.fcmFake.Script(tooLarge())
	b.webpushFake.Script(tooLarge())
	for _, tr := range b.transports() {
		n := sample()
		v := slot{id: slotID{"x", collapseKeyMail}, version: 1, input: n.Input, expires: time.Now().Add(time.Hour)}
		sub := subscription.Subscription{Client: "app", Token: b.tokens[tr.Name()], Privacy: "full"}
		if o := s.send(t.Context(), v, sub, -1, time.Now()); o.Kind != outcome.Delivered {
			t.Errorf("%s: %v", tr.Name(), o)
		}
	}
	for name, f := range map[string]interface{ Deliveries() []fake.Delivery }{"apns": b.apnsFake, "fcm": b.fcmFake, "webpush": b.webpushFake} {
		all := f.Deliveries()
		if len(all) != 1 {
			t.Fatalf("%s: %d deliveries", name, len(all))
		}
		title, body := shown(t, name, all[0].Payload)
		want(t, name+" title", title, sample().Input.Sender)
		if strings.Contains(string(all[0].Payload), "Pläne") || name != "fcm" && body != textNewMail {
			t.Errorf("%s: the short form holds the subject: %s", name, all[0].Payload)
		}
	}
}

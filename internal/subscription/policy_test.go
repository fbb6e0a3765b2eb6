package subscription_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// night is 22:00 to 07:00 every day.
var night = subscription.Window{From: "22:00", To: "07:00"}

func quiet(zone string, windows ...subscription.Window) subscription.Policy {
	return subscription.Policy{Quiet: &subscription.QuietHours{TimeZone: zone, Windows: windows}}
}

func TestQuietHours(t *testing.T) {
	t.Parallel()
	berlin := func(w ...subscription.Window) subscription.Policy { return quiet("Europe/Berlin", w...) }
	weekend := subscription.Window{Days: []string{"fri"}, From: "18:00", To: "24:00"}
	saturday := subscription.Window{Days: []string{"sat", "sun"}, From: "00:00", To: "24:00"}
	for _, c := range []struct {
		name      string
		policy    subscription.Policy
		now, want string // RFC 3339; want "" is no silence
	}{
		{"none", subscription.Policy{}, "2026-11-22T23:00:00+01:00", ""},
		{"before", berlin(night), "2026-11-22T21:59:59.999+01:00", ""},
		{"the first moment", berlin(night), "2026-11-22T22:00:00+01:00", "2026-11-23T07:00:00+01:00"},
		{"after midnight", berlin(night), "2026-11-23T01:30:00+01:00", "2026-11-23T07:00:00+01:00"},
		{"the last moment", berlin(night), "2026-11-23T06:59:59.999+01:00", "2026-11-23T07:00:00+01:00"},
		{"after", berlin(night), "2026-11-23T07:00:00+01:00", ""},
		{"another zone", quiet("America/New_York", night), "2026-11-23T03:00:00Z", "2026-11-23T12:00:00Z"},
		{"a half-hour zone", quiet("Asia/Kolkata", night), "2026-11-22T16:30:00Z", "2026-11-23T01:30:00Z"},
		{"across the date line", quiet("Pacific/Kiritimati", night), "2026-11-22T08:00:00Z", "2026-11-22T17:00:00Z"},
		{
			"the day is that of the beginning", berlin(subscription.Window{Days: []string{"sun"}, From: "22:00", To: "07:00"}),
			"2026-11-23T01:00:00+01:00", "2026-11-23T07:00:00+01:00",
		},
		{"not that of the end", berlin(subscription.Window{Days: []string{"mon"}, From: "22:00", To: "07:00"}), "2026-11-23T01:00:00+01:00", ""},
		{
			"from is to: a whole day", berlin(subscription.Window{Days: []string{"sun"}, From: "09:00", To: "09:00"}),
			"2026-11-23T08:00:00+01:00", "2026-11-23T09:00:00+01:00",
		},
		{"windows that adjoin are one silence", berlin(weekend, saturday), "2026-11-20T19:00:00+01:00", "2026-11-23T00:00:00+01:00"},
		{"so are those that overlap", berlin(weekend, saturday, night), "2026-11-20T19:00:00+01:00", "2026-11-23T07:00:00+01:00"},
		// 29 March 2026, 02:00 becomes 03:00; 25 October, 03:00 becomes 02:00.
		{"the short night", berlin(night), "2026-03-28T22:00:00+01:00", "2026-03-29T07:00:00+02:00"},
		{"the long night", berlin(night), "2026-10-24T22:00:00+02:00", "2026-10-25T07:00:00+01:00"},
		{"02:30 the first time", berlin(night), "2026-10-25T02:30:00+02:00", "2026-10-25T07:00:00+01:00"},
		{"02:30 the second time", berlin(night), "2026-10-25T02:30:00+01:00", "2026-10-25T07:00:00+01:00"},
		// In Cairo there is no midnight on 24 April 2026, a Friday: 00:00 becomes 01:00.
		{
			"a day without midnight", quiet("Africa/Cairo", subscription.Window{Days: []string{"fri"}, From: "00:00", To: "06:00"}),
			"2026-04-23T23:30:00Z", "2026-04-24T03:00:00Z",
		},
		{"always", berlin(subscription.Window{From: "00:00", To: "24:00"}), "2026-11-22T12:00:00+01:00", "2026-12-01T00:00:00+01:00"},
	} {
		if err := c.policy.Check(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, want := c.policy.Until(at(t, c.now)), time.Time{}
		if c.want != "" {
			want = at(t, c.want)
		}
		if !got.Equal(want) {
			t.Errorf("%s: silent until %v, want %v", c.name, got, want)
		}
	}
}

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestQuietHoursByTheWall holds Until to what a clock on the wall shows, in zones with every kind of
// transition. Windows begin and end after 04:00, so that each of their times is there once a day.
func TestQuietHoursByTheWall(t *testing.T) {
	t.Parallel()
	days := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	const quarter = 15 * time.Minute
	clock := rapid.Custom(func(t *rapid.T) string {
		return time.Unix(0, 0).UTC().Add(4*time.Hour + time.Duration(rapid.IntRange(0, 79).Draw(t, "quarter"))*quarter).Format("15:04")
	})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{
			"Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "UTC",
		}).Draw(t, "zone")
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		windows := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) subscription.Window {
			return subscription.Window{
				Days: rapid.SliceOfNDistinct(rapid.SampledFrom(days), 0, 3, rapid.ID).Draw(t, "days"),
				From: clock.Draw(t, "from"), To: clock.Draw(t, "to"),
			}
		}), 1, 4).Draw(t, "windows")
		p := quiet(name, windows...)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		silent := func(at time.Time) bool {
			wall := at.In(loc)
			now, day := wall.Format("15:04"), int(wall.Weekday())
			begins := func(w subscription.Window, day int) bool {
				return len(w.Days) == 0 || slices.Contains(w.Days, days[(day+7)%7])
			}
			return slices.ContainsFunc(windows, func(w subscription.Window) bool {
				if w.From < w.To {
					return begins(w, day) && w.From <= now && now < w.To
				}
				return begins(w, day) && w.From <= now || begins(w, day-1) && now < w.To
			})
		}
		now := time.Unix(rapid.Int64Range(1767225600, 1798761600).Draw(t, "now"), 0) // in 2026
		end := p.Until(now)
		if end.IsZero() == silent(now) {
			t.Fatalf("at %s silent until %s, the wall says %v", now.In(loc), end, silent(now))
		}
		if end.IsZero() {
			return
		}
		if end.Sub(now) < 8*24*time.Hour && silent(end) {
			t.Fatalf("at %s silent until %s, which is silent too", now.In(loc), end.In(loc))
		}
		for at := now; at.Before(end); at = at.Add(quarter) {
			if !silent(at) {
				t.Fatalf("at %s silent until %s, but not at %s", now.In(loc), end.In(loc), at.In(loc))
			}
		}
	})
}

func TestPolicyRules(t *testing.T) {
	t.Parallel()
	p := subscription.Policy{
		Folders: []subscription.FolderRule{
			{"Lists/important*", subscription.Alert},
			{"Lists/*", subscription.Badge},
			{"inbox", subscription.Nothing},
			{"*/2026/*x", subscription.Alert},
		},
		Senders: []subscription.SenderRule{{"bot@example.org", subscription.Nothing}, {"@example.org", subscription.Badge}},
		VIPs:    []string{"Boss@Example.org", "@family.example"},
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string]subscription.Notify{
		"INBOX": subscription.Nothing, "Inbox2": "", "lists/x": "", "Lists": "", "Lists/": subscription.Badge,
		"Lists/go": subscription.Badge, "Lists/important/a": subscription.Alert, "a/2026/bx": subscription.Alert,
		"a/2026/x/b": "", "a/2025/b": "", "/2026/2026/xx": subscription.Alert,
	} {
		if got, ok := p.FolderNotify(folder); got != want || ok != (want != "") {
			t.Errorf("folder %s: %q, want %q", folder, got, want)
		}
	}
	for address, want := range map[string]subscription.Notify{
		"bot@example.org": subscription.Nothing, "BOT@Example.ORG": subscription.Nothing, "ann@example.org": subscription.Badge,
		"ann@sub.example.org": "", "ann@example.org.evil": "", `"a@b"@example.org`: subscription.Badge, "example.org": "", "": "",
	} {
		if got, ok := p.SenderNotify(address); got != want || ok != (want != "") {
			t.Errorf("sender %s: %q, want %q", address, got, want)
		}
	}
	for address, want := range map[string]bool{"boss@example.org": true, "x@family.example": true, "x@example.org": false, "": false} {
		if p.VIP(address) != want {
			t.Errorf("VIP %s: %v", address, !want)
		}
	}
}

// TestPolicyFields: a policy that is wrong is refused with the field that is.
func TestPolicyFields(t *testing.T) {
	t.Parallel()
	window := func(w subscription.Window) subscription.Policy { return quiet("UTC", w) }
	for field, p := range map[string]subscription.Policy{
		"quiet_hours.time_zone":          quiet("Europe/Berln", night),
		"quiet_hours.windows":            quiet("UTC"),
		"quiet_hours.windows[1].from":    quiet("UTC", night, subscription.Window{From: "24:00", To: "07:00"}),
		"quiet_hours.windows[0].from":    window(subscription.Window{From: "7:00", To: "09:00"}),
		"quiet_hours.windows[0].to":      window(subscription.Window{From: "07:00", To: "24:01"}),
		"quiet_hours.windows[0].days[1]": window(subscription.Window{Days: []string{"mon", "Tue"}, From: "07:00", To: "09:00"}),
		"quiet_hours.windows[0].days":    window(subscription.Window{Days: make([]string, 8), From: "07:00", To: "09:00"}),
		"quiet_hours.break_through": {Quiet: &subscription.QuietHours{
			TimeZone: "UTC", BreakThrough: "all", Windows: []subscription.Window{night},
		}},
		"folders[0].folder": {Folders: []subscription.FolderRule{{"", subscription.Badge}}},
		"folders[1].notify": {Folders: []subscription.FolderRule{{"a", subscription.Badge}, {"b", "loud"}}},
		"folders":           {Folders: make([]subscription.FolderRule, 101)},
		"senders[0].sender": {Senders: []subscription.SenderRule{{"Ann <ann@example.org>", subscription.Badge}}},
		"senders[0].notify": {Senders: []subscription.SenderRule{{"@example.org", ""}}},
		"vips[0]":           {VIPs: []string{"ann@"}},
		"vips[1]":           {VIPs: []string{"@example.org", "a\x00@example.org"}},
		"vips":              {VIPs: make([]string, 201)},
	} {
		var wrong *tenant.InvalidError
		if err := p.Check(); !errors.As(err, &wrong) || wrong.Field != "policy."+field || wrong.Problem == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, name := range []string{"", "Local", "../etc/passwd", "utc/", strings.Repeat("A/", 3000)} {
		if err := quiet(name, night).Check(); err == nil {
			t.Errorf("time zone %.20q is taken", name)
		}
	}
}

// TestPolicyIsKept: a renewal without a policy and keys leaves them, one with them replaces them; keys are
// sealed, and come with Load alone.
func TestPolicyIsKept(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		req := request("phone")
		sub := f.subscribe(t, session(1, "s"), req)
		if sub.Policy != nil || sub.HasKeys {
			t.Errorf("a plain subscription has %+v", sub)
		}
		p := quiet("Europe/Berlin", night)
		p.VIPs = []string{"boss@example.org"}
		req.Policy, req.Keys = &p, []byte("canary of the keys")
		f.subscribe(t, session(1, "s"), req)
		req.Policy, req.Keys = nil, nil
		sub = f.subscribe(t, session(1, "s"), req)
		if !reflect.DeepEqual(sub.Policy, &p) || !sub.HasKeys || sub.Keys != nil {
			t.Errorf("renewed: %+v", sub)
		}
		loaded, err := f.Load(t.Context(), sub.ID)
		if err != nil || string(loaded.Keys) != "canary of the keys" || !reflect.DeepEqual(loaded.Policy, &p) {
			t.Errorf("loaded: %+v, %v", loaded, err)
		}
		live, err := f.For(t.Context(), user(1), subscription.TopicNewMail)
		if err != nil || len(live) != 1 || !reflect.DeepEqual(live[0].Policy, &p) || live[0].Keys != nil {
			t.Errorf("found for an event: %+v, %v", live, err)
		}
		var stored string
		if err := f.db.QueryRow(t.Context(), `SELECT device_key FROM subscriptions`).Scan(&stored); err != nil || strings.Contains(stored, "canary") {
			t.Errorf("stored as %q, %v", stored, err)
		}

		changed := subscription.Policy{Folders: []subscription.FolderRule{{Folder: "Lists/*", Notify: "none"}}}
		if _, err := f.SetPolicy(t.Context(), user(2), sub.ID, changed); !errors.Is(err, subscription.ErrNotFound) {
			t.Errorf("somebody else changed it: %v", err)
		}
		if _, err := f.SetPolicy(t.Context(), user(1), "x", changed); !errors.Is(err, subscription.ErrNotFound) {
			t.Errorf("no id: %v", err)
		}
		if _, err := f.SetPolicy(t.Context(), user(1), sub.ID, quiet("Mars", night)); err == nil {
			t.Error("a policy that is wrong is kept")
		}
		if sub, err = f.SetPolicy(t.Context(), user(1), sub.ID, changed); err != nil || !reflect.DeepEqual(sub.Policy, &changed) {
			t.Errorf("changed: %+v, %v", sub, err)
		}
		if live, _ := f.For(t.Context(), user(1), subscription.TopicNewMail); !reflect.DeepEqual(live[0].Policy, &changed) {
			t.Errorf("not seen at once: %+v", live)
		}
		if sub, err = f.SetPolicy(t.Context(), user(1), sub.ID, subscription.Policy{}); err != nil || sub.Policy != nil {
			t.Errorf("taken away: %+v, %v", sub, err)
		}
		req.Policy = &subscription.Policy{VIPs: []string{"nobody"}}
		if _, err := f.Subscribe(t.Context(), session(1, "s"), req); err == nil {
			t.Error("subscribed with a policy that is wrong")
		}
	})
}

// FuzzPolicy: whatever an app sends is refused, or can be asked anything.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"quiet_hours":{"time_zone":"Europe/Berlin","windows":[{"days":["fri"],"from":"22:00","to":"07:00"}]},"vips":["@x"]}`), "Lists/a*b", "x@y", int64(1))
	f.Add([]byte(`{"folders":[{"folder":"**a*","notify":"badge"}],"senders":[{"sender":"@@","notify":"none"}]}`), "", "@", int64(-1))
	f.Fuzz(func(t *testing.T, raw []byte, folder, address string, seconds int64) {
		var p subscription.Policy
		if json.Unmarshal(raw, &p) != nil || p.Check() != nil {
			return
		}
		p.FolderNotify(folder)
		p.SenderNotify(address)
		p.VIP(address)
		now := time.Unix(seconds%(1<<35), 0)
		if end := p.Until(now); !end.IsZero() && (!end.After(now) || end.Sub(now) > 10*24*time.Hour) {
			t.Errorf("at %v quiet until %v: %s", now, end, raw)
		}
	})
}

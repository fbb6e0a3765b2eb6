package subscription_test

import (
	"testing"

	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// property sets one for a subject.
func (f *fixture) property(t *testing.T, scope cascade.Scope, subject, name, value string) {
	t.Helper()
	if err := f.tenants.SetProperty(t.Context(), tenant.Subject{Scope: scope, Name: subject}, name, value, "test"); err != nil {
		t.Fatal(err)
	}
}

// TestPrivacyOfProperties: the closest to the user has the last word, and an app's own level only before the first.
func TestPrivacyOfProperties(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		sub := f.subscribe(t, session(1, "s"), request("phone")) // by apns
		want := func(level string, fixed bool) {
			t.Helper()
			got, err := f.Load(t.Context(), sub.ID)
			if err != nil || got.Privacy != level || got.PrivacyFixed != fixed {
				t.Errorf("%q fixed %v, %v; want %q, %v", got.Privacy, got.PrivacyFixed, err, level, fixed)
			}
		}
		want("full", false)
		f.property(t, cascade.Server, "", "push.privacy", "sender")
		want("sender", false)
		f.property(t, cascade.Server, "", "push.privacy.apns", "none")
		f.property(t, cascade.Server, "", "push.privacy.fcm", "sealed")
		want("none", false)
		f.property(t, cascade.Context, "1", "push.privacy", "full")
		want("full", true)
		f.property(t, cascade.Context, "1", "push.privacy.apns", "sender")
		want("sender", true)
		f.property(t, cascade.User, "2@1", "push.privacy", "none")
		want("sender", true)
		f.property(t, cascade.User, "1@1", "push.privacy", "none")
		want("none", true)
	})
}

// TestOperatorsQuietHours are for devices that have none of their own, and take nothing else away.
func TestOperatorsQuietHours(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		own := request("own")
		own.Policy = &subscription.Policy{Quiet: &subscription.QuietHours{TimeZone: "UTC", Windows: []subscription.Window{{From: "01:00", To: "02:00"}}}}
		rules := request("rules")
		rules.Policy = &subscription.Policy{VIPs: []string{"boss@example.org"}}
		var ids []string
		for _, req := range []subscription.Request{request("bare"), own, rules} {
			ids = append(ids, f.subscribe(t, session(1, "s"), req).ID)
		}
		f.property(t, cascade.Context, "1", "push.quiet_hours", "Europe/Berlin mon,tue 22:00-07:00; sun 00:00-24:00")
		f.property(t, cascade.User, "1@1", "push.quiet_break_through", "none")
		for i, id := range ids {
			sub, err := f.Load(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			q := sub.Policy.Quiet
			switch {
			case i == 1:
				if q.TimeZone != "UTC" || len(q.Windows) != 1 {
					t.Errorf("the device's own are %+v", q)
				}
			case q == nil || q.TimeZone != "Europe/Berlin" || len(q.Windows) != 2 || q.Windows[0].To != "07:00" || sub.Policy.Breaks():
				t.Errorf("%d: %+v", i, q)
			}
			if i == 2 && len(sub.Policy.VIPs) != 1 {
				t.Error("the rules are gone")
			}
		}
		// What the device is shown, and what is stored, is its own.
		all, err := f.ByUser(t.Context(), user(1))
		if err != nil {
			t.Fatal(err)
		}
		quiet := 0
		for _, sub := range all {
			if sub.Policy != nil && sub.Policy.Quiet != nil {
				quiet++
			}
		}
		if quiet != 1 {
			t.Errorf("%d devices have quiet hours of their own, want 1", quiet)
		}
		subs, err := f.For(t.Context(), user(1), "mail:new")
		if err != nil || len(subs) != 3 {
			t.Fatalf("%d, %v", len(subs), err)
		}
		for _, sub := range subs {
			if sub.Policy == nil || sub.Policy.Quiet == nil {
				t.Errorf("an event finds %s without quiet hours", sub.Token.Target)
			}
		}
	})
}

// TestCapabilities: who may not be told, or may not use the app, is not told, and is again when he may.
func TestCapabilities(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.property(t, cascade.Server, "", "push.allowed_clients", "app, posthorn-app")
		app := request("tablet")
		app.Client = "posthorn-app"
		f.subscribe(t, session(1, "s"), request("phone"))
		f.subscribe(t, session(1, "s"), app)
		count := func(want int) {
			t.Helper()
			subs, err := f.For(t.Context(), user(1), "mail:new")
			if err != nil || len(subs) != want {
				t.Errorf("%d devices are told, %v; want %d", len(subs), err, want)
			}
		}
		count(1) // the app is off by default
		f.property(t, cascade.Context, "1", "capability.mobile_mail_app", "true")
		count(2)
		f.property(t, cascade.User, "1@1", "capability.mobile_mail_app", "false")
		count(1)
		f.property(t, cascade.Server, "", "capability.push", "false")
		count(0)
		f.wantOwners(t, "1@1 listens, 1@1 phone, 1@1 tablet")
		if err := f.Recheck(t.Context(), tenant.UserID{Context: 2}); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "1@1 listens, 1@1 phone, 1@1 tablet")
		if err := f.Recheck(t.Context(), tenant.UserID{Context: 1}); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "1@1 phone, 1@1 tablet")
		f.property(t, cascade.User, "1@1", "capability.push", "true")
		count(1)
		if err := f.Recheck(t.Context(), user(1)); err != nil {
			t.Fatal(err)
		}
		f.wantOwners(t, "1@1 listens, 1@1 phone, 1@1 tablet")
	})
}

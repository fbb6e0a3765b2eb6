package subscription

import (
	"context"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// Ruled is a subscription as the operator's properties leave it: how much it may be told, and with his quiet hours
// when the device has none of its own.
func (s *Store) Ruled(ctx context.Context, sub Subscription) (Subscription, error) {
	v, err := s.view(ctx, sub.User)
	if err != nil {
		return Subscription{}, err
	}
	sub.Policy = quieted(sub.Policy, v)
	sub.Privacy, sub.PrivacyFixed = privacyOf(v, sub.Token.Transport)
	return sub, nil
}

// quieted is a policy with the operator's quiet hours (push.quiet_hours), if there are any and the device has none
// of its own. Policies are shared: it is a copy then.
func quieted(p *Policy, v *cascade.View) *Policy {
	q := cascade.QuietHours.Of(v)
	if len(q.Windows) == 0 || p != nil && p.Quiet != nil {
		return p
	}
	with := Policy{}
	if p != nil {
		with = *p
	}
	with.Quiet = &QuietHours{TimeZone: q.TimeZone, BreakThrough: cascade.QuietBreak.Of(v), Windows: make([]Window, len(q.Windows))}
	for i, w := range q.Windows {
		with.Quiet.Windows[i] = Window(w)
	}
	return &with
}

var privacyBy = map[string]cascade.Property[string]{
	"apns": cascade.PushPrivacyAPNs, "fcm": cascade.PushPrivacyFCM, "webpush": cascade.PushPrivacyWebPush,
}

// privacyOf is how much notifications by a transport may tell, and whether somebody closer to the user than the
// installation has said so. What is said of the transport holds, unless somebody closer to the user said something of
// all of them.
func privacyOf(v *cascade.View, transport string) (level string, fixed bool) {
	level, scope := cascade.PushPrivacy.Of(v), cascade.PushPrivacy.Scope(v)
	if own, ok := privacyBy[transport]; ok && own.Of(v) != "inherit" && own.Scope(v) >= scope {
		level, scope = own.Of(v), own.Scope(v)
	}
	return level, scope > cascade.Server
}

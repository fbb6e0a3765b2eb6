package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/listen"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

// pushExplain walks every gate between a mail for a user and his devices, in the order that a notification
// passes them. Where one is closed the walk goes on as far as the next ones mean anything.
func (a *API) pushExplain(r *http.Request) (int, any, error) {
	id, err := tenant.ParseUserID(r.PathValue("user"))
	if err != nil {
		return 0, nil, err
	}
	e := PushExplanation{User: id.String(), Gates: []PushGate{}, Devices: []PushDeviceGates{}}
	u, err := a.user(r, id)
	if err != nil && !errors.Is(err, tenant.ErrNotFound) {
		return 0, nil, err
	}
	if err := a.explainUser(r.Context(), id, u, &e); err != nil {
		return 0, nil, err
	}
	e.Closed = firstClosed(e.Gates)
	for i := range e.Devices {
		d := &e.Devices[i]
		if d.Closed = firstClosed(d.Gates); d.Closed != "" && e.Closed == "" {
			e.Closed = d.Closed + " of device " + d.ID
		}
	}
	return http.StatusOK, e, nil
}

// explainUser walks the gates of the user, and then those of each device. u is zero for one who is not there.
func (a *API) explainUser(ctx context.Context, id tenant.UserID, u tenant.User, e *PushExplanation) error {
	pass := func(g push.Gate) { e.Gates = append(e.Gates, gateView(g)) }
	if u.ID != id {
		pass(push.Gate{
			Name: "user", State: push.GateClosed, Detail: "there is no user " + id.String(),
			Do: "posthorn user list shows the numbers; posthorn user add adds one",
		})
		return nil
	}
	e.Login, e.MailHost = u.Login, u.MailHost
	pass(push.Gate{Name: "user", State: push.GateOpen, Detail: u.Login})
	if _, err := a.Tenants.MailHost(ctx, u.MailHost); errors.Is(err, tenant.ErrNotFound) {
		pass(push.Gate{
			Name: "mailhost", State: push.GateClosed, Detail: "there is no mail host " + u.MailHost, Do: "add it with posthorn mailhost add",
		})
	} else if err != nil {
		return err
	} else {
		pass(push.Gate{Name: "mailhost", State: push.GateOpen, Detail: u.MailHost})
	}

	subs, err := a.Subscriptions.ByUser(ctx, id)
	if err != nil {
		return err
	}
	g, err := a.subscriptionGate(ctx, id, subs)
	if err != nil {
		return err
	}
	if pass(g); len(subs) == 0 {
		return nil
	}
	flow, err := a.flowGates(ctx, u)
	if err != nil {
		return err
	}
	for _, g := range flow {
		pass(g)
	}
	if g, err = a.listenerGate(ctx, id); err != nil {
		return err
	}
	pass(g)
	for _, sub := range subs {
		gates, err := a.deviceGates(ctx, sub)
		if err != nil {
			return err
		}
		d := PushDeviceGates{ID: sub.ID, Client: sub.Client, Transport: sub.Token.Transport, Target: sub.Token.Target, Gates: []PushGate{}}
		for _, g := range gates {
			d.Gates = append(d.Gates, gateView(g))
		}
		e.Devices = append(e.Devices, d)
	}
	return nil
}

func (a *API) subscriptionGate(ctx context.Context, id tenant.UserID, subs []subscription.Subscription) (push.Gate, error) {
	g := push.Gate{Name: "subscription", State: push.GateOpen, Detail: fmt.Sprintf("%d subscribed devices", len(subs))}
	if len(subs) == 1 {
		g.Detail = "1 subscribed device"
	}
	if len(subs) > 0 {
		return g, nil
	}
	sessions, err := a.Accounts.Sessions(ctx, id)
	g.State, g.Detail = push.GateClosed, "no device has subscribed, and none is signed in"
	g.Do = "sign in with the app, and let it notify"
	if len(sessions) > 0 {
		g.Detail = fmt.Sprintf("no device has subscribed, though there are sessions: %d", len(sessions))
		g.Do = "let the app notify, in its settings or the phone's: it subscribes then"
	}
	return g, err
}

// flowGates are the questions of the flow "is a permanent listener spawned?", as it was walked for the user. A no
// closes its gate, unless a session makes up for it.
func (a *API) flowGates(ctx context.Context, u tenant.User) ([]push.Gate, error) {
	flow, err := a.Listen.Flow(ctx, u)
	if err != nil {
		return nil, err
	}
	var gates []push.Gate
	for _, step := range flow.Steps {
		g := push.Gate{Name: "listener." + step.Question, State: push.GateOpen, Detail: step.Detail, Do: step.Do}
		switch {
		case step.Yes:
		case flow.Kind == listen.SessionBound:
			g.Detail += "; a session makes up for it"
		default:
			g.State = push.GateClosed
		}
		gates = append(gates, g)
	}
	return gates, nil
}

// listenerGate is what the mail server tells us of the user's mail.
func (a *API) listenerGate(ctx context.Context, id tenant.UserID) (push.Gate, error) {
	g := push.Gate{Name: "listener", State: push.GateClosed}
	l, ok, err := a.Subscriptions.Listener(ctx, id)
	switch {
	case err != nil:
		return g, err
	case !ok:
		g.Detail, g.Do = "there is none", "open the app: it subscribes again"
	case l.State == subscription.Registered:
		g.State, g.Detail = push.GateOpen, "registered: the mail server reports this user's new mail"
	case l.State == subscription.Listening:
		g.State, g.Detail = push.GateOpen, "listening: a connection to the mail server tells of this user's new mail"
	case l.State == subscription.WaitingForSignIn:
		g.Detail, g.Do = l.Reason, "let the user sign in with the app"
		if l.Rejected > 0 {
			g.Detail += fmt.Sprintf("; rejected logins in a row: %d", l.Rejected)
		}
	case l.State == subscription.Pending:
		g.Detail, g.Until = "pending: "+l.Reason, l.NotBefore
		if l.Reason == "" {
			g.Detail = "pending: the mail server has not answered yet"
		}
		g.Do = "it is tried again then; the log has the mail server's error"
	default:
		g.Detail = l.State + ": " + l.Reason
		g.Do = "mend that at the mail server; it is looked at again by the audit (listen.audit), and when the app is opened"
	}
	return g, nil
}

// deviceGates walks the gates of one device.
func (a *API) deviceGates(ctx context.Context, sub subscription.Subscription) ([]push.Gate, error) {
	client, err := a.clientGate(ctx, sub)
	if err != nil {
		return nil, err
	}
	expiry := push.Gate{Name: "expiry", State: push.GateOpen, Detail: "the device set no end"}
	if !sub.Expires.IsZero() {
		expiry.Detail, expiry.Until = "the subscription lives", sub.Expires
		if !sub.Expires.After(a.Now()) {
			expiry.State, expiry.Detail, expiry.Do = push.GateClosed, "the subscription is over", "open the app: it subscribes again"
		}
	}
	own := sub.Policy != nil && sub.Policy.Quiet != nil
	if sub, err = a.Subscriptions.Ruled(ctx, sub); err != nil {
		return nil, err
	}
	quiet := a.quietGate(sub)
	if !own && sub.Policy != nil && sub.Policy.Quiet != nil {
		quiet.Detail += " (the operator's quiet hours, push.quiet_hours: the device has none of its own)"
	}
	gates := []push.Gate{client, expiry, rulesGate(sub), quiet}
	sending, err := a.Push.Explain(ctx, sub)
	return append(gates, sending...), err
}

// clientGate is the properties that say whether a user may have pushes by a client. It is the first of them that says
// no.
func (a *API) clientGate(ctx context.Context, sub subscription.Subscription) (push.Gate, error) {
	v, err := a.Tenants.View(ctx, sub.User)
	if err != nil {
		return push.Gate{}, err
	}
	app := cascade.MatchClient(cascade.AppClients.Of(v), sub.Client)
	for _, c := range []struct {
		closed    bool
		name, why string
	}{
		{!cascade.CapabilityPush.Of(v), cascade.CapabilityPush.Name(), "the user is not told of mail"},
		{app && !cascade.MobileMailApp.Of(v), cascade.MobileMailApp.Name(), sub.Client + " is the app, which the user may not use"},
		{!cascade.MatchClient(cascade.AllowedClients.Of(v), sub.Client), cascade.AllowedClients.Name(), sub.Client + " is not allowed"},
	} {
		if !c.closed {
			continue
		}
		e, err := a.Tenants.Explain(ctx, c.name, sub.User)
		if err != nil {
			return push.Gate{}, err
		}
		return push.Gate{
			Name: "client", State: push.GateClosed, Detail: fmt.Sprintf("%s: %s is %q (%s)", c.why, c.name, e.Value, whence(stepView(e.Winner, actorIn(ctx).Role == RoleOperator))),
			Do: fmt.Sprintf("posthorn config explain %s --user %s shows where to change it", c.name, sub.User),
		}, nil
	}
	return push.Gate{Name: "client", State: push.GateOpen, Detail: sub.Client + " is allowed"}, nil
}

// whence says where a value is set.
func whence(s PropertyStep) string {
	if s.Scope == cascade.Default.String() {
		return "the default"
	}
	where := "set for " + strings.TrimSpace(s.Scope+" "+s.Subject)
	if s.Origin != "" {
		where += ", " + s.Origin
	}
	return where
}

// rulesGate is what the device's topics and rules make of new mail in the INBOX, from nobody in particular.
func rulesGate(sub subscription.Subscription) push.Gate {
	g := push.Gate{Name: "rules", State: push.GateOpen, Detail: "new mail of the INBOX alerts"}
	switch d := dispatch.Decide(sub, event.Event{Folder: event.Inbox}); {
	case d.Reason == dispatch.ByOtherFolder:
		g.State, g.Detail = push.GateClosed, "the device asks for no news of the INBOX, but for other folders"
		g.Do = "choose the folders in the app"
	case d.Notify != subscription.Alert:
		g.State, g.Detail = push.GateClosed, fmt.Sprintf("a rule of the device says %q for the INBOX", d.Notify)
		g.Do = "change the rules in the app"
	case sub.Policy != nil && len(sub.Policy.Senders) > 0:
		g.Detail += fmt.Sprintf(", but rules may say otherwise for some senders: %d", len(sub.Policy.Senders))
	}
	return g
}

// quietGate is the device's quiet hours.
func (a *API) quietGate(sub subscription.Subscription) push.Gate {
	until := sub.Policy.Until(a.Now())
	switch {
	case !until.IsZero() && sub.Policy.Breaks():
		return push.Gate{
			Name: "quiet_hours", State: push.GateClosed, Until: until, Detail: "it is quiet on the device, but for its VIPs",
			Do: "wait, or change them in the app",
		}
	case !until.IsZero():
		return push.Gate{Name: "quiet_hours", State: push.GateClosed, Until: until, Detail: "it is quiet on the device", Do: "wait, or change them in the app"}
	case sub.Policy != nil && sub.Policy.Quiet != nil:
		return push.Gate{Name: "quiet_hours", State: push.GateOpen, Detail: "it is not quiet on the device now"}
	}
	return push.Gate{Name: "quiet_hours", State: push.GateOpen, Detail: "the device has none"}
}

func gateView(g push.Gate) PushGate {
	return PushGate{Gate: g.Name, State: g.State, Detail: g.Detail, Do: g.Do, Until: stamp(g.Until)}
}

// firstClosed names the first gate that is closed, or is "".
func firstClosed(gates []PushGate) string {
	for _, g := range gates {
		if g.State == push.GateClosed {
			return g.Gate
		}
	}
	return ""
}

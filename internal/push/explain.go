package push

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// The states of a gate.
const (
	GateOpen   = "open"
	GateClosed = "closed"
	// GateUnknown: it cannot be seen from here.
	GateUnknown = "unknown"
)

// Gate is one condition on the way of a notification to a device.
type Gate struct {
	Name  string
	State string
	// Detail is what is known, as a sentence without its full stop.
	Detail string
	// Do is what a closed gate asks for.
	Do string
	// Until is when the gate opens again, or, of one that is open, when it closes; zero when that is not known.
	Until time.Time
}

// position is what the slot, the trace and the scheduler know of a subscription.
type position struct {
	sub  subscription.Subscription
	now  time.Time
	slot slot
	// known: something was put into the slot since the device subscribed.
	known   bool
	until   time.Time // that it is held
	held    string
	last    Outcome // the zero Outcome: none yet
	flying  bool
	breaker breaker
	rests   time.Time
	node    string
	frozen  bool
}

// Explain walks the gates between a state and the device of a subscription, in the order that a notification
// passes them, and says of each whether it is open.
func (s *Service) Explain(ctx context.Context, sub subscription.Subscription) ([]Gate, error) {
	p := position{sub: sub, now: s.Now(), node: s.Node}
	trace, err := s.Trace(ctx, sub.ID)
	if err != nil {
		return nil, fmt.Errorf("read trace: %w", err)
	}
	if len(trace) > 0 && !trace[0].Answered.Before(sub.Created) { // else it is what ended the subscription before this
		p.last = trace[0]
	}
	id := slotID{sub.ID, collapseKeyMail}
	p.slot, err = s.loadSlot(ctx, id)
	if p.known = err == nil; err != nil && !errors.Is(err, subscription.ErrNotFound) {
		return nil, err
	}
	p.until, p.held = s.hold(p.slot, sub, p.now)
	p.breaker, p.rests, p.flying = s.sched.position(s.due(id, sub, time.Time{}))
	if p.frozen, err = s.pruning.isFrozen(ctx, s.labels(sub)); err != nil {
		return nil, err
	}

	t := s.transport(sub.Token.Transport)
	if t == nil {
		return []Gate{{
			Name: "transport", State: GateClosed, Detail: sub.Token.Transport + " is switched off",
			Do: "switch it on under transports in the configuration",
		}, p.slotGate()}, nil
	}
	lane, ok := t.Lane(sub)
	if !ok {
		return []Gate{{
			Name: "transport", State: GateClosed, Detail: fmt.Sprintf("no entry of %s is for the client %q", sub.Token.Transport, sub.Client),
			Do: fmt.Sprintf("add the client to transports.%s.apps in the configuration", sub.Token.Transport),
		}, p.slotGate()}, nil
	}
	return []Gate{
		{Name: "transport", State: GateOpen, Detail: sub.Token.Transport + " is configured for this client"},
		p.credentialGate(t.Credential(lane)), p.laneGate(), p.tokenGate(), p.slotGate(), p.answerGate(),
	}, nil
}

func (p position) credentialGate(c Credential) Gate {
	g := Gate{Name: "credential", State: GateOpen, Detail: c.Name, Until: c.Expires}
	if !c.Expires.IsZero() && !c.Expires.After(p.now) {
		g.State, g.Detail, g.Do = GateClosed, c.Name+" has expired", "put a new certificate in its place, and run \"posthorn reload\""
	}
	return g
}

func (p position) laneGate() Gate {
	g := Gate{Name: "lane", State: GateOpen, Detail: "the provider answers, and takes our credential"}
	switch {
	case p.rests.After(p.now):
		g.State, g.Until = GateClosed, p.rests
		g.Detail = "rests: the provider fails, or refuses our credential" + p.lastWords()
		g.Do = "see what the reason means; the slots are kept and sent then"
	case p.breaker != breakerClosed:
		g.Detail = "opens again: the provider is tried with a few" + p.lastWords()
	}
	return g
}

func (p position) tokenGate() Gate {
	g := Gate{Name: "token", State: GateOpen, Detail: "nothing is held against it"}
	switch {
	case p.slot.suspicion.strikes > 0:
		g.State = GateClosed
		g.Detail = fmt.Sprintf("the provider does not know it: %d of %d strikes", p.slot.suspicion.strikes, maxStrikes) + p.lastWords()
		g.Do = "compare environment, topic or project in the configuration with the app's build; if one device alone has this, open its app"
	case p.last.Outcome == outcome.Gone.String() && p.frozen:
		g.State, g.Detail = GateClosed, "the provider calls it gone; it is kept, since too many would go at once"
		g.Do = "compare the credential's configuration with the app's build"
	case p.last.Outcome == outcome.Gone.String():
		g.State, g.Detail = GateClosed, "the provider called it gone; it is kept, since the device renewed it later"
		g.Do = "wait for the next answer"
	}
	return g
}

// heldWords say why a state waits that could be sent.
var heldWords = map[string]string{
	HeldCoalesce:  "waits a moment for more news, since something was told just before (push.coalesce)",
	HeldBadge:     "waits a moment: the count alone has changed (push.badge_delay)",
	HeldQuiet:     "waits for the end of the device's quiet hours",
	HeldAllowance: "waits: the device has had what FCM allows, 20 at once and then one in 3 minutes",
}

func (p position) slotGate() Gate {
	g := Gate{Name: "slot", State: GateOpen}
	switch {
	case !p.known:
		g.State, g.Detail = GateUnknown, "no mail was reported since the device subscribed"
		g.Do = "deliver one: if nothing changes here, the mail server does not report it"
	case p.slot.version <= p.slot.sent:
		g.Detail = "nothing waits: the newest state is dealt with"
	case p.slot.owner != p.node:
		g.State, g.Detail = GateUnknown, "the newest state is with another server on this database: its node-id is "+p.slot.owner
		g.Do = "ask that server"
	case p.flying:
		g.Detail = "the newest state is on its way to the provider"
	case !p.slot.expires.After(p.now):
		g.State, g.Detail = GateClosed, "the newest state is too old to be sent"
		g.Do = "raise push.new_mail_ttl, if it should have been"
	case p.held == HeldBackoff:
		g.State, g.Until = GateClosed, p.until
		g.Detail = fmt.Sprintf("waits after %d failed tries", p.slot.attempt) + p.lastWords()
		g.Do = "see what the reason means; it is tried again then"
	case p.held != "":
		g.State, g.Until, g.Detail = GateClosed, p.until, heldWords[p.held]
		g.Do = "wait: it is sent then"
	default:
		g.Detail = "the newest state waits for its turn"
	}
	return g
}

func (p position) answerGate() Gate {
	g := Gate{Name: "answer", State: GateOpen, Detail: "the provider took the last notification over"}
	switch p.last.Outcome {
	case "":
		g.State, g.Detail, g.Do = GateUnknown, "nothing was sent to the device yet", "send it a test notification"
	case outcome.Delivered.String():
	case outcome.Refused.String(), outcome.Suspect.String(), outcome.Gone.String():
		g.State, g.Detail = GateClosed, "the last notification was dropped"+p.lastWords()
		g.Do = "see what the reason means"
	default: // a state that is tried again; the gates before this one say when
		g.Detail = "the last notification is tried again" + p.lastWords()
	}
	return g
}

// lastWords are the provider's in the last answer that was not a delivery.
func (p position) lastWords() string {
	switch {
	case p.last.Outcome == "" || p.last.Outcome == outcome.Delivered.String():
		return ""
	case p.last.Status == 0:
		return ": " + p.last.Outcome + ", " + p.last.Reason
	}
	return fmt.Sprintf(": %s, %d %s", p.last.Outcome, p.last.Status, p.last.Reason)
}

// position tells how the lane of a slot stands, and whether the slot is in flight.
func (s *scheduler) position(d Due) (b breaker, rests time.Time, inFlight bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[d.lane]
	var slot entry
	if !s.entries.name(&slot, d.id, d.device) {
		return breakerClosed, time.Time{}, false
	}
	if e := s.entries.find(&slot); e != nil {
		l, inFlight = e.app.tenant.lane, e.state == flying // it may be one that many share
	}
	if l == nil {
		return breakerClosed, time.Time{}, false
	}
	return l.breaker, l.rests, inFlight
}

func (g *pruneGuard) isFrozen(ctx context.Context, labels laneLabels) (bool, error) {
	if err := g.lock(ctx); err != nil {
		return false, err
	}
	defer g.unlock()
	p := g.apps[labels]
	return p != nil && p.frozen, nil
}

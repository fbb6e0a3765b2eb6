package listen

import (
	"context"
	"fmt"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Kind says how long a user's listener lives.
type Kind string

// The kinds.
const (
	// None: there is no listener.
	None Kind = "none"
	// SessionBound: it lives as long as a session is in use.
	SessionBound Kind = "session"
	// Permanent: it lives with the subscription.
	Permanent Kind = "permanent"
)

// The questions of the flow, in their order.
const (
	// AskSubscription: does a subscription of an allowed client live?
	AskSubscription = "subscription"
	// AskNode: does a live node take permanent listeners?
	AskNode = "node"
	// AskCredential: can we sign in without the user?
	AskCredential = "credential"
	// AskSession: was a session of an allowed client used lately?
	AskSession = "session"
)

// Step is the answer to one question of the flow.
type Step struct {
	Question string
	Yes      bool
	// Detail is the answer in a sentence; Do is how to change a no.
	Detail, Do string
}

// Flow is the walk through "is a permanent listener spawned?", as docs/operating.md draws it: each step is a
// question that was asked.
type Flow struct {
	Kind  Kind
	Steps []Step
}

// facts are what the questions ask for.
type facts struct {
	subscribed, node, credential bool
	session                      time.Time // until when one wants a listener
}

// walk asks one question after the other. The first three must all be answered with yes for a permanent
// listener; after a no, only a session makes one.
func walk(f facts, now time.Time) Flow {
	var w Flow
	ask := func(question string, yes bool, detail, no, do string) bool {
		s := Step{Question: question, Yes: yes, Detail: detail}
		if !yes {
			s.Detail, s.Do = no, do
		}
		w.Steps = append(w.Steps, s)
		return yes
	}
	if ask(AskSubscription, f.subscribed, "a subscription of an allowed client lives",
		"no subscription of an allowed client lives", "subscribe with the app; its client must be in push.allowed_clients") &&
		ask(AskNode, f.node, "a live node takes permanent listeners",
			"no live node takes permanent listeners", "set listen.allow_permanent_push on one, or see posthorn cluster nodes") &&
		ask(AskCredential, f.credential, "there is something to sign in with at the mail server",
			"there is nothing to sign in with at the mail server", "let the user sign in, or give the mail host a master user or the doveadm API") {
		w.Kind = Permanent
		return w
	}
	w.Kind = None
	if ask(AskSession, f.session.After(now), fmt.Sprintf("a session wants it until %s", f.session.UTC().Format(time.TimeOnly)),
		"no session was used in the last 15 minutes", "open the app") {
		w.Kind = SessionBound
	}
	return w
}

// Flow walks the flow for a user.
func (s *Service) Flow(ctx context.Context, u tenant.User) (Flow, error) {
	l, _, err := s.Subscriptions.Listener(ctx, u.ID)
	if err != nil {
		return Flow{}, err
	}
	can, err := s.canSignIn(ctx, u)
	if err != nil {
		return Flow{}, err
	}
	_, willing := s.Cluster.Owner(u.ID.String())
	return walk(facts{l.Wanted, willing, can, l.SessionUntil}, s.Now()), nil
}

// canSignIn reports whether a listener of the user can be made without him.
func (s *Service) canSignIn(ctx context.Context, u tenant.User) (bool, error) {
	h, err := s.Tenants.MailHost(ctx, u.MailHost)
	if err != nil {
		return false, err
	}
	if h.DoveadmURL != "" && h.Source != tenant.SourceIdle {
		return true, nil
	}
	return s.Accounts.CanDial(ctx, u)
}

// owner is the node that has a user's listener; "" is none. What is to be removed has an owner too.
func (s *Service) owner(l subscription.Listener, now time.Time) (node string, permanent bool) {
	key := l.User.String()
	if node, ok := s.Cluster.Owner(key); ok {
		return node, l.Wanted
	}
	if l.InSession(now) || !l.Wanted {
		return s.Cluster.OwnerAny(key), false
	}
	return "", false
}

// stateOf is a listener's state after an error of signing in.
func stateOf(err error) (state, reason string) {
	if isSignIn(err) {
		return subscription.WaitingForSignIn, account.Reason(err)
	}
	return subscription.Pending, account.Reason(err)
}

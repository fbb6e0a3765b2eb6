package listen

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Nodes tell each other: "took" to all, which users' connections a node has now, for whoever still holds
// one; and to one node each: "look" at a user, "await" a user, answered with his listener, "list" a page of
// what the node holds.
func tookSubject() bus.Subject             { return bus.NewSubject("listen", "took") }
func lookSubject(node string) bus.Subject  { return bus.NewSubject("listen", "look", node) }
func awaitSubject(node string) bus.Subject { return bus.NewSubject("listen", "await", node) }
func listSubject(node string) bus.Subject  { return bus.NewSubject("listen", "list", node) }

// join hears the other nodes until the returned function is called.
func (s *Service) join(ctx context.Context) (leave func(), err error) {
	self := s.Cluster.Self()
	var subs []*bus.Subscription
	leave = func() {
		for _, sub := range subs {
			sub.Close()
		}
	}
	for _, one := range []struct {
		subject bus.Subject
		handle  func(context.Context, bus.Message)
		missed  func(context.Context)
	}{
		{tookSubject(), s.heardTook, nil},
		{lookSubject(self), s.heardLook, func(context.Context) { signal(s.rescan) }},
		{awaitSubject(self), s.heardAwait, nil},
		{listSubject(self), s.heardList, nil},
	} {
		sub, err := s.Bus.Subscribe(ctx, one.subject, one.handle, one.missed)
		if err != nil {
			leave()
			return nil, fmt.Errorf("listen: %w", err)
		}
		subs = append(subs, sub)
	}
	return leave, nil
}

// took tells the others that a connection for a user is ours now.
func (s *Service) took(u tenant.UserID) {
	if len(s.Cluster.Members()) > 1 {
		_ = s.Bus.Publish(tookSubject(), []byte(s.Cluster.Self()+" "+u.String())) // unsent, they let go by time
	}
}

func (s *Service) heardTook(_ context.Context, m bus.Message) {
	node, name, _ := strings.Cut(string(m.Data), " ")
	u, err := tenant.ParseUserID(name)
	if err != nil || node == s.Cluster.Self() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[u]
	if e == nil {
		return
	}
	if owner, _ := s.owner(e.Listener, s.Now()); !e.leaving.IsZero() || s.stopped || owner != s.Cluster.Self() {
		s.forget(e)
	}
}

// handOver leaves the cluster and holds what this node has until the others have it, but not for long.
func (s *Service) handOver() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.Cluster.Drain()
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for s.holding() > 0 && s.others() {
		select {
		case <-look.C:
			continue
		case <-deadline.C:
		}
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, e := range s.entries {
		if e.conn != nil {
			e.conn.Close()
		}
	}
}

func (s *Service) holding() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if e.conn != nil {
			n++
		}
	}
	return n
}

// others reports whether another node takes permanent listeners.
func (s *Service) others() bool {
	_, ok := s.Cluster.Owner("")
	return ok
}

// Look has a user's listener looked at soon, due or not: after a sign-in, which may have brought the
// password that it waits for, or when something happened in his mailbox.
func (s *Service) Look(u tenant.UserID) {
	node, ok := s.Cluster.Owner(u.String())
	if !ok {
		node = s.Cluster.OwnerAny(u.String())
	}
	if node == s.Cluster.Self() {
		s.lookHere(u)
		return
	}
	_ = s.Bus.Publish(lookSubject(node), []byte(u.String())) // unsent, it is found by the audit
}

func (s *Service) lookHere(u tenant.UserID) {
	s.mu.Lock()
	if e := s.entries[u]; e != nil && e.conn != nil {
		e.conn.Wake()
	} else {
		s.look[u] = true
	}
	s.mu.Unlock()
	signal(s.wake)
}

// Kept tells that another node has kept a password for a user: if that is what his listener waits for, it need
// not wait.
func (s *Service) Kept(u tenant.UserID) {
	s.mu.Lock()
	e := s.entries[u]
	waits := e != nil && (e.State == subscription.WaitingForSignIn || e.running)
	if waits {
		s.look[u] = true
	}
	s.mu.Unlock()
	if waits {
		signal(s.wake)
	}
}

func (s *Service) heardLook(ctx context.Context, m bus.Message) {
	u, err := tenant.ParseUserID(string(m.Data))
	if err != nil {
		s.Log.WarnContext(ctx, "bus message names no user to look at", slog.Any("err", err))
		return
	}
	s.lookHere(u)
}

// Await waits until the user's listener has been looked at since the call, or ctx ends, and returns
// what is known then. A user without a listener has none that is wanted.
func (s *Service) Await(ctx context.Context, u tenant.UserID) (subscription.Listener, bool, error) {
	l, ok, err := s.Subscriptions.Listener(ctx, u)
	if err != nil || !ok {
		return l, ok, err
	}
	node, _ := s.owner(l, s.Now())
	switch node {
	case "":
		return l, true, nil
	case s.Cluster.Self():
		return s.awaitHere(ctx, l)
	}
	answer, err := s.Bus.Request(ctx, awaitSubject(node), []byte(u.String()))
	if err == nil {
		var found *subscription.Listener
		if err = json.Unmarshal(answer, &found); err == nil {
			if found == nil {
				return subscription.Listener{}, false, nil
			}
			return *found, true, nil
		}
	}
	// That node has just gone, or is slow: what is recorded is true enough.
	s.Log.DebugContext(ctx, "node did not say how a listener is", slog.String("node", node), slog.Any("err", err))
	return s.Subscriptions.Listener(context.WithoutCancel(ctx), u)
}

func (s *Service) awaitHere(ctx context.Context, l subscription.Listener) (subscription.Listener, bool, error) {
	done := make(chan struct{})
	s.mu.Lock()
	e := s.adopt(l, s.Now())
	if e != nil {
		if e.running { // it may have begun before what the caller did
			e.later = append(e.later, done)
		} else {
			e.waiting = append(e.waiting, done)
		}
		s.schedule(e, s.Now(), true)
	}
	s.mu.Unlock()
	if e == nil {
		return l, true, nil
	}
	signal(s.wake)
	select {
	case <-done:
	case <-ctx.Done():
	}
	s.mu.Lock()
	known, dropped := e.Listener, e.dropped
	s.mu.Unlock()
	if dropped {
		// The caller's time may be over; what is known costs none.
		return s.Subscriptions.Listener(context.WithoutCancel(ctx), l.User)
	}
	return known, true, nil
}

// heardAwait answers later: the handler itself must not wait.
func (s *Service) heardAwait(ctx context.Context, m bus.Message) {
	u, err := tenant.ParseUserID(string(m.Data))
	if err != nil {
		return
	}
	select {
	case s.answering <- struct{}{}:
	default:
		return // they look at what is recorded
	}
	s.holders.Go(func() {
		defer func() { <-s.answering }()
		waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
		defer cancel()
		var found *subscription.Listener
		l, ok, err := s.Subscriptions.Listener(waiting, u)
		if err == nil && ok {
			l, ok, err = s.awaitHere(waiting, l)
		}
		if err != nil {
			return
		}
		if ok {
			found = &l
		}
		raw, err := json.Marshal(found)
		if err == nil {
			_ = m.Reply(raw)
		}
	})
}

// Held is a user's listener as its owner sees it.
type Held struct {
	User      tenant.UserID
	Node      string
	Permanent bool
	Source    string
	State     string
	Reason    string
	Since     time.Time
	// LastEvent is when the listener last heard of something; for those that report to us, see Dispatcher.
	LastEvent time.Time
	LastError string
}

// page bounds the listeners of one answer: some 200 KiB of the megabyte that the bus takes.
const page = 1000

// listPage asks for the listeners of a node behind a user.
type listPage struct{ Context, User int64 }

func (s *Service) heardList(_ context.Context, m bus.Message) {
	var after listPage
	if json.Unmarshal(m.Data, &after) != nil {
		return
	}
	raw, err := json.Marshal(s.held(after))
	if err == nil {
		_ = m.Reply(raw)
	}
}

// held is a page of what this node has.
func (s *Service) held(after listPage) []Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	var users []tenant.UserID
	for u, e := range s.entries {
		if e.leaving.IsZero() && compareUsers(u, tenant.UserID{Context: after.Context, ID: after.User}) > 0 {
			users = append(users, u)
		}
	}
	slices.SortFunc(users, compareUsers)
	users = users[:min(len(users), page)]
	all := make([]Held, len(users))
	for i, u := range users {
		e := s.entries[u]
		all[i] = Held{
			User: u, Node: s.Cluster.Self(), Permanent: e.permanent, Source: e.source, State: e.State, Reason: e.Reason,
			Since: e.Since, LastError: e.fault,
		}
		if e.conn != nil {
			all[i].LastEvent = e.conn.LastEvent()
		}
	}
	return all
}

func compareUsers(a, b tenant.UserID) int {
	return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.ID, b.ID))
}

// List tells which listeners the nodes of the cluster have, in no order. A node that does not answer is in the
// error; what the others said is returned nevertheless.
func (s *Service) List(ctx context.Context) (all []Held, err error) {
	for _, m := range s.Cluster.Members() {
		var after listPage
		for {
			var some []Held
			if m.ID == s.Cluster.Self() {
				some = s.held(after)
			} else {
				ask, _ := json.Marshal(after)
				raw, failed := s.Bus.Request(ctx, listSubject(m.ID), ask)
				if failed == nil {
					failed = json.Unmarshal(raw, &some)
				}
				if failed != nil {
					err = errors.Join(err, fmt.Errorf("node %s: %w", m.Name, failed))
					break
				}
			}
			all = append(all, some...)
			if len(some) < page {
				break
			}
			last := some[len(some)-1].User
			after = listPage{last.Context, last.ID}
		}
	}
	return all, err
}

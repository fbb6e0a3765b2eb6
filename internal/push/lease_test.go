package push

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/outcome"
	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// node is a service with a database handle of its own, as another process has it.
func (r *rig) node(name string, lease time.Duration, transports ...Transport) *Service {
	r.tb.Helper()
	d, err := db.Open(r.tb.Context(), r.url, db.Options{})
	must(r.tb, err)
	r.tb.Cleanup(func() { _ = d.Close() })
	return r.service(func(c *Config) {
		c.DB, c.Subscriptions = d, subscription.New(d, r.keys, r.tenants.View, time.Now)
		c.Node, c.Lease = name, lease
	}, transports...)
}

// accept commits a new state of a user's devices at a node.
func (r *rig) accept(s *Service, id int64) {
	r.tb.Helper()
	own := r.db
	r.db = s.DB
	defer func() { r.db = own }()
	s.Wake(r.mail(s, id, Input{}, false))
}

// within waits in real time.
func within(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// joined waits until n nodes are in the table.
func (r *rig) joined(t *testing.T, n int) {
	t.Helper()
	within(t, 10*time.Second, "the nodes have joined", func() bool {
		var nodes int
		must(t, r.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM nodes").Scan(&nodes))
		return nodes == n
	})
}

func (t *script) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sends)
}

// storm has users get mails at nodes of chance. A node that fails is not asked again.
func (r *rig) storm(t *testing.T, users, mails int64, nodes []*Service, each func(version int64)) {
	t.Helper()
	var all sync.WaitGroup
	var failed atomic.Value
	accept := func(s *Service, id, version int64) error {
		subs, err := r.subs.For(t.Context(), user(id), subscription.TopicNewMail)
		if err != nil {
			return err
		}
		var due []Due
		err = s.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			var err error
			due, err = s.Enqueue(ctx, tx, subs, version, Input{Topic: subscription.TopicNewMail, UID: 1}, false)
			return err
		})
		s.Wake(due)
		return err
	}
	for id := range users {
		all.Go(func() {
			for version := range mails {
				err := errors.New("no node")
				for try := 0; err != nil && try < 50; try++ {
					err = accept(nodes[rand.N(len(nodes))], id+1, version+1) //nolint:gosec // a test
				}
				if err != nil {
					failed.Store(err)
				}
				each(version + 1)
				<-time.After(rand.N(8 * time.Millisecond)) //nolint:gosec // a test
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(err)
	}
}

// TestNodesShareTheWork: whichever node accepts a state, it is sent by one of them, once, and a device has one
// at a time.
func TestNodesShareTheWork(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) { testNodes(t, url, time.Minute, false) })
}

// TestNodeDiesInAStorm: no newest state is lost, nor is an older one sent after it.
func TestNodeDiesInAStorm(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) { testNodes(t, url, 2*time.Second, true) })
}

func testNodes(t *testing.T, url string, lease time.Duration, dies bool) {
	t.Parallel()
	const users, mails = 6, 15
	r := newRig(t, url, users)
	provider := newScript("apns", func(_ context.Context, n Notification, _ int) outcome.Outcome {
		<-time.After(time.Duration(n.ID[0]) * 20 * time.Microsecond)
		return accepted
	})
	nodes := []*Service{r.node("a", lease, provider), r.node("b", lease, provider), r.node("c", lease, provider)}
	for _, s := range nodes {
		r.start(s)
	}
	r.joined(t, len(nodes))
	for id := range int64(users) {
		r.subscribe(id+1, "apns", "x", fmt.Sprint("phone", id+1))
	}
	r.storm(t, users, mails, nodes, func(version int64) {
		if dies && version == mails-3 {
			_ = nodes[2].DB.Close() // it can say no more
		}
	})
	within(t, 20*time.Second, "nothing is dirty", func() bool {
		var n int
		must(t, r.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM slots WHERE version > sent_version").Scan(&n))
		return n == 0
	})
	for id := range users {
		sent := provider.sent(fmt.Sprint("phone", id+1))
		want(t, "newest", sent[len(sent)-1], int64(mails))
		for i := 1; i < len(sent); i++ {
			if sent[i] < sent[i-1] || sent[i] == sent[i-1] && !dies {
				t.Errorf("user %d: %d after %d", id+1, sent[i], sent[i-1])
			}
		}
	}
	if !dies {
		want(t, "two at once of one device", provider.double, false)
	}
}

// TestDeadNode: what a killed node leaves is sent by another one when its lease has ended, and not before.
func TestDeadNode(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		t.Parallel()
		const users, lease = 5, 4 * time.Second
		r := newRig(t, url, users)
		never := newScript("apns", func(ctx context.Context, _ Notification, _ int) outcome.Outcome {
			<-ctx.Done()
			return later(0)
		})
		provider := newScript("apns", nil)
		a, b := r.node("a", lease, never), r.node("b", lease, provider)
		stopA := r.start(a)
		r.start(b)
		r.joined(t, 2)
		for id := range int64(users) {
			r.subscribe(id+1, "apns", "x", fmt.Sprint("phone", id+1))
			r.accept(a, id+1)
		}
		within(t, 10*time.Second, "the first node sends", func() bool { return never.count() == users })
		<-time.After(lease + lease/2)
		want(t, "sent by the other while the first lives", provider.count(), 0)

		killed := time.Now()
		must(t, a.DB.Close()) // it can say no more
		r.accept(b, 1)        // the owner is dead, and nobody knows
		within(t, 10*lease, "the other node sends", func() bool { return provider.count() == users })
		// It may have beaten just before. How much later than a lease it is, the machine decides.
		if took := time.Since(killed); took < lease/2 {
			t.Errorf("taken over after %v", took)
		}
		want(t, "sent", provider.sent("phone1"), []int64{2})
		want(t, "sent", provider.sent("phone2"), []int64{1})
		stopA()
		var left int
		must(t, b.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM nodes").Scan(&left))
		want(t, "nodes", left, 1)
	})
}

// TestNodeLeaves: a node that stops leaves what it has not sent to the others at once. One that comes back
// finds it itself, also after a crash.
func TestNodeLeaves(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		t.Parallel()
		const lease = 4 * time.Second
		r := newRig(t, url, 2)
		sub := r.subscribe(1, "apns", "x", "phone")
		providerA, providerB := newScript("apns", nil), newScript("apns", nil)
		a, b := r.node("a", lease, providerA), r.node("b", lease, providerB)
		stopA := r.start(a)
		stopB := r.start(b)
		within(t, 5*lease, "they see each other", func() bool {
			var beats int
			must(t, r.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM nodes WHERE beat > 0").Scan(&beats))
			return beats == 2
		})
		_ = r.mail(a, 1, Input{}, false) // committed, and never woken
		stopA()
		var left int
		must(t, r.db.QueryRow(t.Context(), "SELECT COUNT(*) FROM nodes WHERE id = 'a'").Scan(&left))
		want(t, "rows of a node that has left, for whose end others would wait", left, 0)
		within(t, 5*lease, "the other node sends", func() bool { return providerB.count() == 1 })
		within(t, 5*lease, "settled", func() bool { return !r.pending(b, sub) })
		stopB()

		_ = r.mail(a, 1, Input{}, false)
		_ = a.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { // as a crash leaves it
			_, err := tx.Exec(ctx, sqlJoin, "a", "crashed")
			return err
		})
		const long = 5 * time.Minute // nobody waits for its end here
		r.start(r.node("a", long, providerA))
		within(t, long/10, "it sends its own after a crash", func() bool { return providerA.count() == 1 })
	})
}

// TestNewerStateAtAnotherNode: a state that comes to another node than the one that is trying an older one
// is sent by the latter, at the time that it has anyway.
func TestNewerStateAtAnotherNode(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url, 1)
		r.subscribe(1, "apns", "x", "phone")
		hold := make(chan struct{})
		providerA := newScript("apns", func(_ context.Context, _ Notification, try int) outcome.Outcome {
			if try == 1 {
				<-hold
				return later(0)
			}
			return accepted
		})
		providerB := newScript("apns", nil)
		a, b := r.node("a", time.Minute, providerA), r.node("b", time.Minute, providerB)
		r.start(a)
		r.start(b)
		r.joined(t, 2)
		r.accept(a, 1)
		within(t, 10*time.Second, "the first state is on its way", func() bool { return providerA.count() == 1 })
		r.accept(b, 1)
		within(t, 10*time.Second, "the other node lets it be", func() bool { return b.sched.dirty() == 0 })
		close(hold)
		within(t, 10*time.Second, "sent", func() bool { return a.sched.dirty() == 0 })
		want(t, "sent", providerA.sent("phone"), []int64{1, 2})
		r.accept(b, 1) // now that it is clean it is whose it comes to
		within(t, 10*time.Second, "sent", func() bool { return providerB.count() == 1 })
		want(t, "sent by the first node", providerA.count(), 2)
	})
}

// TestTwoOfOneName: a copied state directory must not have everything sent twice without a word.
func TestTwoOfOneName(t *testing.T) {
	onEachEngine(t, func(t *testing.T, url string) {
		r := newRig(t, url, 1)
		first := r.node("a", 400*time.Millisecond)
		ended := make(chan error, 1)
		go func() { ended <- first.Run(t.Context()) }()
		r.joined(t, 1)
		r.start(r.node("a", time.Minute))
		if err := <-ended; !errors.Is(err, errSuperseded) {
			t.Errorf("ended with %v", err)
		}
		var process string
		must(t, r.db.QueryRow(t.Context(), "SELECT process FROM nodes").Scan(&process))
		if process == first.lease.process {
			t.Error("the row is still the first one's")
		}
	})
}

// TestNodeThatWasAway: a process that stood still for longer than its lease looks before it sends.
func TestNodeThatWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sqliteURL(t), 2)
		var away atomic.Int64
		provider := newScript("apns", nil)
		s := r.service(func(c *Config) {
			c.Lease = 8 * time.Second
			c.Now = func() time.Time { return time.Now().Add(time.Duration(away.Load())) }
		}, provider)
		r.start(s)
		synctest.Wait()
		r.subscribe(1, "apns", "x", "one")
		r.subscribe(2, "apns", "x", "two")
		one, two := r.mail(s, 1, Input{}, false), r.mail(s, 2, Input{}, false)
		must(t, r.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error { // another one took over, and joined
			_, err1 := tx.Exec(ctx, "DELETE FROM nodes")
			_, err2 := tx.Exec(ctx, sqlJoin, "other", "p")
			_, err3 := tx.Exec(ctx, "UPDATE slots SET owner = 'other' WHERE subscription_id = ?", one[0].id.subscription)
			return errors.Join(err1, err2, err3)
		}))
		away.Store(int64(7 * time.Second))
		s.Wake(one)
		s.Wake(two)
		synctest.Wait()
		want(t, "sent before the look", provider.count(), 0)
		advance(2*time.Second + time.Millisecond)
		advance(2 * time.Second)
		want(t, "sent of the other's", len(provider.sent("one")), 0)
		want(t, "sent of its own", provider.sent("two"), []int64{1})
		advance(7 * time.Second)
		want(t, "sent when the other is dead", provider.sent("one"), []int64{1})
	})
}

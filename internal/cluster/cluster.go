// Package cluster knows which nodes are alive, and which of them owns a key: a user's listener, say.
//
// Every node tells all others over the bus, once a second, that it is there. Who is silent for 4 s is dead to
// those who did not hear it. There is no leader and no vote: each node computes the owners from what it hears
// itself, by rendezvous hashing, and nodes that hear the same agree.
//
// They need not agree at every moment, and whoever asks for an owner must bear it: for a second or so, and
// for as long as a partition of the bus lasts, a key may have two owners, each half owning everything. It has
// none for at most the time that it takes to notice a death. So what an owner does must be harmless when
// done twice, and must not undo what another owner does.
//
// Clocks are never compared: a silence is measured by the monotonic clock of the one who listens, and a
// time that a node tells is only shown.
//
// Concurrency: all methods may be called from any goroutine. Join, then Run once, or Leave.
package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
)

var (
	// ErrKeyDiffers means that the credentials of this node are sealed with another key than the cluster's.
	ErrKeyDiffers = errors.New("another key seals the credentials of this cluster")
	// ErrIDTaken means that another running process has this node's id.
	ErrIDTaken = errors.New("another running node has the same id")
)

const (
	// joinWait is how long a node that joins listens for others: a little over one heartbeat. It asks
	// every askEvery meanwhile, because a route may take a moment to carry its first message.
	joinWait = beatEvery + beatEvery/4
	askEvery = beatEvery / 4
)

// subject is that of all heartbeats.
var subject = bus.NewSubject("cluster", "beat")

// Config is what Join needs. Bus, ID, Log and Metrics must be set.
type Config struct {
	Bus *bus.Bus
	// ID is this node's own, and stays the same when it is started anew.
	ID string
	// Name and Version are shown in listings.
	Name, Version string
	// Willing nodes own keys.
	Willing bool
	// KeyCheck is what seal.Keyring.KeyCheck says: a value for the key that seals here and, after commas, for those
	// that open. Nodes of a cluster open what each other seals.
	KeyCheck string
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Now tells the time that others are shown; nil is time.Now.
	Now func() time.Time
}

// Cluster is this node's part in the cluster.
type Cluster struct {
	bus     *bus.Bus
	log     *slog.Logger
	metrics *metrics
	sub     *bus.Subscription
	changed chan struct{}
	current atomic.Pointer[snapshot]

	mu      sync.Mutex // guards view and its order with what is published of it
	view    *view
	refused chan error // while joining
}

// Join hears who is there, and makes this node a member. Without others, or without a connection, it is
// alone. The error wraps ErrKeyDiffers or ErrIDTaken when a running node is in the way, or the context's.
func Join(ctx context.Context, c Config) (*Cluster, error) {
	now := c.Now
	if now == nil {
		now = time.Now
	}
	self := beat{
		ID: c.ID, Process: rand.Text(), Name: c.Name, Version: c.Version, Key: c.KeyCheck,
		Since: now().UnixMilli(), Willing: c.Willing, Joining: true,
	}
	if _, err := parseBeat(self.encode()); err != nil {
		return nil, fmt.Errorf("join the cluster: this node's own id, name or version: %w", err)
	}
	cl := &Cluster{
		bus: c.Bus, log: c.Log, changed: make(chan struct{}, 1), view: newView(self), refused: make(chan error, 1),
	}
	var err error
	if cl.metrics, err = newMetrics(c.Metrics, cl); err != nil {
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	cl.current.Store(cl.view.snapshot())
	if cl.sub, err = c.Bus.Subscribe(ctx, subject, cl.hear, cl.missed); err != nil {
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	if !c.Bus.Alone() {
		if err := cl.wait(ctx); err != nil {
			cl.sub.Close()
			return nil, fmt.Errorf("join the cluster: %w", err)
		}
	}
	cl.update(ctx, func(v *view) []news {
		v.self.Joining = false
		v.due = time.Now() // our own joining waits for nobody
		return nil
	})
	return cl, nil
}

// wait asks who is there, until everybody had the time to answer.
func (c *Cluster) wait(ctx context.Context) error {
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	enough := time.NewTimer(joinWait)
	defer enough.Stop()
	for {
		c.mu.Lock()
		c.say(ctx, c.view.self)
		c.mu.Unlock()
		select {
		case <-ask.C:
		case err := <-c.refused:
			return err
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run keeps this node a member until ctx ends, and then says good-bye.
func (c *Cluster) Run(ctx context.Context) error {
	beats := time.NewTicker(beatEvery)
	defer beats.Stop()
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	for {
		select {
		case <-beats.C:
			c.mu.Lock()
			c.say(ctx, c.view.self)
			c.mu.Unlock()
		case <-looks.C:
			c.take(ctx, func(v *view) []news { return v.look(time.Now()) })
		case <-ctx.Done():
			c.Leave(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// Leave says good-bye. Run does it at its end; who does not call Run after Join calls Leave.
func (c *Cluster) Leave(ctx context.Context) {
	c.update(ctx, func(v *view) []news {
		v.self.Bye = true
		v.due = time.Now()
		return nil
	})
	c.sub.Close()
}

// Self is this node's id.
func (c *Cluster) Self() string { return c.view.self.ID } // never written after Join

// Owner is the node that owns a key, among those that are alive and willing; false when there is none.
func (c *Cluster) Owner(key string) (nodeID string, ok bool) {
	id := owner(c.current.Load().willing, key)
	return id, id != ""
}

// OwnerAny is the node that owns a key among all that are alive, this one at least.
func (c *Cluster) OwnerAny(key string) string {
	return owner(c.current.Load().live, key)
}

// Members lists the nodes that are alive, by name; this node is one of them until Run has ended.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.members(time.Now())
}

// Ignored lists the processes that are heard and are no members, by name: see Member.Ignored.
func (c *Cluster) Ignored() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.view.ignored(time.Now())
}

// Watch returns a channel that holds a value when owners may have changed since it was last received from.
// It has room for one, and is for one watcher.
func (c *Cluster) Watch() <-chan struct{} { return c.changed }

// Drain makes this node own nothing from now on, and tells the others at once.
func (c *Cluster) Drain() { c.drain(true) }

// Undrain takes Drain back.
func (c *Cluster) Undrain() { c.drain(false) }

func (c *Cluster) drain(draining bool) {
	c.update(context.Background(), func(v *view) []news {
		if v.self.Draining != draining {
			v.self.Draining, v.due = draining, time.Now()
		}
		return nil
	})
}

// update changes what this node says of itself, and says it.
func (c *Cluster) update(ctx context.Context, change func(*view) []news) {
	c.take(ctx, func(v *view) []news {
		if v.self.Bye {
			return nil // the last word was spoken
		}
		all := change(v)
		c.say(ctx, v.self)
		return all
	})
}

// take changes the view, tells what came of it, and lets keys move when it is time.
func (c *Cluster) take(ctx context.Context, change func(*view) []news) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range change(c.view) {
		c.tell(ctx, n)
	}
	if c.view.settled(time.Now()) {
		c.current.Store(c.view.snapshot())
		select {
		case c.changed <- struct{}{}:
		default: // is to be seen already
		}
	}
}

// say publishes a heartbeat. The caller holds mu, so that none follows a good-bye. One that is lost is
// made up for by the next; the bus has counted it.
func (c *Cluster) say(ctx context.Context, b beat) {
	if err := c.bus.Publish(subject, b.encode()); err != nil {
		c.log.DebugContext(ctx, "heartbeat not sent", slog.Any("err", err))
	}
}

// hear handles a heartbeat from the bus.
func (c *Cluster) hear(ctx context.Context, m bus.Message) {
	b, err := parseBeat(m.Data)
	if err != nil {
		c.log.DebugContext(ctx, "heartbeat ignored", slog.Any("err", err))
		return
	}
	c.take(ctx, func(v *view) []news {
		if b.Process == v.self.Process || v.self.Bye {
			return nil
		}
		if v.self.Joining {
			if err := refusal(v.self, b); err != nil {
				select {
				case c.refused <- err:
				default: // one reason is enough
				}
			}
		} else if b.Joining || b.Asks {
			answer := v.self
			answer.Answers = b.Process
			c.say(ctx, answer)
		}
		all := v.hear(time.Now(), b)
		if v.self.Joining {
			v.due = time.Time{} // Join shows them all at its end
		}
		return all
	})
}

// refusal is why a node that joins must not, when it hears b. Of two that join at the same time, the one
// with the greater process gives way.
func refusal(self, b beat) error {
	first := !b.Joining || b.Process < self.Process
	switch {
	case b.Bye || !first:
		return nil
	case b.ID == self.ID && (b.Joining || b.Answers == self.Process): // not the last words of our own former process
		return fmt.Errorf("%w: %s (%s) runs with this id: the file node-id was copied with a state directory; remove it here, to have a new one made",
			ErrIDTaken, b.Name, b.ID)
	case !fits(b.Key, self.Key):
		return fmt.Errorf("%w: node %s (%s) could not read what this node seals: make credentials.passphrase and the file seal.key in the state directory the same on all nodes",
			ErrKeyDiffers, b.Name, b.ID)
	}
	return nil
}

// missed asks who is there: after a new connection, or when heartbeats were dropped.
func (c *Cluster) missed(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.view.self.Bye {
		return
	}
	b := c.view.self
	b.Asks = true
	c.say(ctx, b)
}

// tell logs and counts.
func (c *Cluster) tell(ctx context.Context, n news) {
	who := slog.Group("node", slog.String("id", n.peer.ID), slog.String("name", n.peer.Name))
	switch n.kind {
	case OtherKey:
		c.log.ErrorContext(ctx, "node ignored, its credentials are sealed with another key: make credentials.passphrase and seal.key the same on all nodes", who)
		return
	case SameID:
		c.log.ErrorContext(ctx, "node ignored, it has this node's id: the file node-id was copied; remove it on one of them and restart that", who)
		return
	}
	c.metrics.changes.WithLabelValues(n.kind).Inc()
	level := slog.LevelInfo
	if n.kind == died {
		level = slog.LevelWarn
	}
	c.log.LogAttrs(ctx, level, "cluster changed", slog.String("change", n.kind), who,
		slog.Bool("willing", n.peer.Willing), slog.Bool("draining", n.peer.Draining))
}

package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxMemoryKey   = 512      // bytes of a key or a node's name
	maxMemoryValue = 64 << 10 // bytes of a value
	maxVersion     = 1 << 62
	// answerSize is when an answer is full; what it ends with may take it over by one record.
	answerSize = 512 << 10
	// tombstoneLife is how long it is known that a key was deleted. A node that was apart from the others for
	// longer can bring the entry back.
	tombstoneLife = 24 * time.Hour
	// maxTombstones bounds them; when there are more, the oldest go earlier.
	maxTombstones = 200_000
	// digestEvery is how often each node says what it has: what was lost is repaired within about that.
	digestEvery = 5 * time.Second
	// joinTimeout bounds the copy from a peer in OpenMemory. What is missing then is copied later.
	joinTimeout = 30 * time.Second
	// helloTimeout is how long a peer may take to answer that it is there.
	helloTimeout = 2 * time.Second
	// defaultMost is how many entries a Memory takes when it is not told.
	defaultMost = 2_000_000
)

// Errors of Put.
var (
	ErrMemoryFull  = errors.New("the cluster memory is full")
	ErrMemoryEntry = errors.New("the cluster memory takes keys of at most 512 bytes and values of at most 64 KiB")
)

// Memory is a map of texts that the nodes on a bus keep together, in their memory only: nothing of it is
// written to a disk. It lives as long as one of them does. Each node holds all of it, so reading asks nobody.
//
// Of two writes to a key the one with the higher version wins, everywhere, and on a tie the one of the higher
// node name. A version is the writer's clock in microseconds, or one more than the highest version it has
// seen, if that is more: whoever has seen a write wins over it however wrong the clocks are. What is deleted
// leaves a tombstone for a day.
//
// A write is told to all at once. What the bus loses is repaired: each node says every 5 s what it has, as a
// hash, and who has something else copies the difference. The same brings a joining node up to date, and both
// sides of a partition. So a write can be unknown to another node for some 5 s, and no longer once they reach
// each other.
//
// It is meant for secrets that are sealed already; it trusts whoever is on the bus.
//
// A Memory is safe for concurrent use.
type Memory struct {
	o                  MemoryOptions
	news, talk, ask    Subject
	subs               []*Subscription
	stop               context.CancelFunc
	stopped            chan struct{}
	differ             chan string // names of nodes that hold something else; room for one
	copied, refused    prometheus.Counter
	entries, forgotten prometheus.Gauge
	closing            sync.Once

	mu sync.RWMutex // guards all below
	memoryState
	arrived func(key string)
}

// MemoryOptions are what OpenMemory needs. Most may be left.
type MemoryOptions struct {
	Bus *Bus
	// Name tells several maps on one bus apart; Node is this node's, and no other's.
	Name, Node string
	// Most bounds the entries; 0 is 2,000,000. An entry of 300 bytes takes about 470 bytes.
	Most    int
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
}

// OpenMemory joins, or begins, a map, and copies what the others hold; it waits at most 30 s for that. Close
// must follow, before that of the Bus.
func OpenMemory(ctx context.Context, o MemoryOptions) (*Memory, error) {
	if o.Most == 0 {
		o.Most = defaultMost
	}
	m := &Memory{
		o: o, news: NewSubject("memory", o.Name, "news"), talk: NewSubject("memory", o.Name, "talk"),
		stopped: make(chan struct{}), differ: make(chan string, 1), memoryState: newMemoryState(),
	}
	m.ask = m.askOf(o.Node)
	if err := m.register(); err != nil {
		return nil, fmt.Errorf("open the cluster memory: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = stop
	err := m.join(ctx)
	go m.run(running)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("open the cluster memory: %w", err)
	}
	return m, nil
}

func (m *Memory) askOf(node string) Subject { return NewSubject("memory", m.o.Name, "ask", node) }

func (m *Memory) register() error {
	m.entries = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "posthorn_memory_entries", Help: "Entries of the cluster memory: sealed passwords and tokens.",
	})
	m.forgotten = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "posthorn_memory_tombstones", Help: "Entries that were deleted from the cluster memory within a day.",
	})
	m.copied = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "posthorn_memory_copied_total", Help: "Entries copied from another node, when joining or because the bus had lost them.",
	})
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "posthorn_memory_refused_total", Help: "Entries of other nodes that found the cluster memory full.",
	})
	for _, c := range []prometheus.Collector{m.entries, m.forgotten, m.copied, m.refused} {
		if err := m.o.Metrics.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// join subscribes, and copies what a peer holds.
func (m *Memory) join(ctx context.Context) error {
	subscribe := func(s Subject, handle func(context.Context, Message), missed func(context.Context)) error {
		sub, err := m.o.Bus.Subscribe(ctx, s, handle, missed)
		if err == nil {
			m.subs = append(m.subs, sub)
		}
		return err
	}
	hello := func(context.Context) { m.say([]byte{wireHello}) }
	if err := subscribe(m.news, m.hear, hello); err != nil {
		return err
	}
	// Asked before we are among those who answer.
	asking, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	reply, err := m.o.Bus.Request(asking, m.talk, []byte{wireHello})
	if err == nil {
		var d digest
		if d, err = parseDigest(reply); err == nil {
			copying, cancel := context.WithTimeout(ctx, joinTimeout)
			defer cancel()
			_, err = m.copy(copying, d.node, everything())
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, ErrNoResponder):
		m.o.Log.WarnContext(ctx, "the cluster memory could not be copied from another node yet", slog.Any("err", err))
	case err == nil:
		m.o.Log.InfoContext(ctx, "cluster memory copied from another node", slog.Int("entries", m.Len()))
	}
	if err := subscribe(m.ask, m.tell, nil); err != nil {
		return err
	}
	return subscribe(m.talk, m.listen, hello)
}

// WhenPut has f called with each key that another node has put, once its value is here. Two goroutines may call
// f at once; it must not wait for anything.
func (m *Memory) WhenPut(f func(key string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrived = f
}

// Close ends the membership; what the map holds here is gone.
func (m *Memory) Close() {
	m.closing.Do(func() {
		m.stop()
		<-m.stopped
		for _, s := range m.subs {
			s.Close()
		}
		for _, c := range []prometheus.Collector{m.entries, m.forgotten, m.copied, m.refused} {
			m.o.Metrics.Unregister(c)
		}
	})
}

// Put sets a key. The error wraps ErrMemoryEntry or ErrMemoryFull; that others cannot be told now is none.
func (m *Memory) Put(key, value string) error {
	return m.put(record{key: key, value: value}, func(*record) bool { return true })
}

// PutAt sets a key as if it had been set at a time: whatever was put or deleted later stands.
func (m *Memory) PutAt(key, value string, at time.Time) error {
	return m.put(record{key: key, value: value}, func(r *record) bool {
		r.version = max(1, at.UnixMicro())
		return true
	})
}

// Replace puts another form of a value in its place: it is nobody's later write, so any write wins over it that
// anybody makes meanwhile. It reports whether the value was still there.
func (m *Memory) Replace(key, value, by string) (replaced bool, err error) {
	err = m.put(record{key: key, value: by}, func(r *record) bool {
		e, ok := m.get(key)
		replaced = ok && e.value == value
		r.version = e.version + 1
		return replaced
	})
	return replaced, err
}

// Delete removes a key that is here, here and everywhere. What another node puts meanwhile stands, whatever the
// clocks say: only what was seen is deleted.
func (m *Memory) Delete(key string) {
	// Nothing that is there is too large, and no room is needed.
	_ = m.put(record{key: key, dead: true}, func(r *record) bool {
		e, ok := m.get(key)
		r.version = e.version + 1
		return ok
	})
}

// put makes a write here and tells it to the others. sure is called with the lock held.
func (m *Memory) put(r record, sure func(*record) bool) error {
	if r.key == "" || len(r.key) > maxMemoryKey || len(r.value) > maxMemoryValue {
		return ErrMemoryEntry
	}
	r.node = m.o.Node
	m.mu.Lock()
	r.version = max(m.clock+1, m.o.Now().UnixMicro())
	if !sure(&r) {
		m.mu.Unlock()
		return nil
	}
	done := m.apply(r, m.o.Now(), m.o.Most)
	m.mu.Unlock()
	switch done {
	case refused:
		return ErrMemoryFull
	case taken:
		// What is not heard is copied when it is missed; the error is counted.
		_ = m.o.Bus.Publish(m.news, appendRecord([]byte{wireNews}, r))
	case stale:
	}
	return nil
}

// Get returns the value of a key.
func (m *Memory) Get(key string) (string, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.get(key)
	return e.value, ok
}

// Len is the number of entries.
func (m *Memory) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.count
}

// MemoryParts is into how many parts a Memory is divided.
const MemoryParts = shards

// Part returns what one part of the map holds.
func (m *Memory) Part(i int) map[string]string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	part := make(map[string]string, len(m.shards[i].live))
	for key, e := range m.shards[i].live {
		part[key] = e.value
	}
	return part
}

// run says what we hold, now and then, and copies from those who hold something else.
func (m *Memory) run(ctx context.Context) {
	defer close(m.stopped)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(digestEvery/2 + rand.N(digestEvery)) //nolint:gosec // jitter, not a secret
			m.sweep()
			m.say(m.digest().append(nil))
		case node := <-m.differ:
			if n, err := m.pull(ctx, node); err != nil && ctx.Err() == nil {
				m.o.Log.DebugContext(ctx, "cannot copy cluster memory", slog.String("node", node), slog.Any("err", err))
			} else if n > 0 {
				m.o.Log.DebugContext(ctx, "cluster memory repaired", slog.String("node", node), slog.Int("entries", n))
			}
		}
	}
}

func (m *Memory) say(message []byte) {
	_ = m.o.Bus.Publish(m.talk, message) // what is not heard is said again
}

func (m *Memory) digest() digest {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return digest{node: m.o.Node, count: int64(m.count), hash: m.hash()}
}

func (m *Memory) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bury(m.o.Now())
	m.entries.Set(float64(m.count))
	m.forgotten.Set(float64(m.dead))
}

// hear takes over what another node has just put or deleted.
func (m *Memory) hear(_ context.Context, msg Message) {
	r := reader{b: msg.Data}
	if r.byte() != wireNews {
		return
	}
	if all, err := r.records(); err == nil {
		m.take(all)
	}
}

// take takes over records of others, and returns how many were news.
func (m *Memory) take(all []record) int {
	var fresh []string
	n, full := 0, 0
	m.mu.Lock()
	now := m.o.Now()
	for _, r := range all {
		switch m.apply(r, now, m.o.Most) {
		case taken:
			n++
			if !r.dead && r.node != m.o.Node {
				fresh = append(fresh, r.key)
			}
		case refused:
			full++
		case stale:
		}
	}
	arrived := m.arrived
	m.mu.Unlock()
	m.refused.Add(float64(full))
	if arrived != nil {
		for _, key := range fresh {
			arrived(key)
		}
	}
	return n
}

// listen hears what others hold.
func (m *Memory) listen(ctx context.Context, msg Message) {
	if len(msg.Data) == 1 && msg.Data[0] == wireHello {
		mine := m.digest().append(nil)
		if msg.reply == "" {
			m.say(mine)
		} else if err := msg.Reply(mine); err != nil {
			m.o.Log.DebugContext(ctx, "cannot answer a node that joins", slog.Any("err", err))
		}
		return
	}
	d, err := parseDigest(msg.Data)
	if err != nil || d.node == m.o.Node {
		return
	}
	if mine := m.digest(); mine.hash == d.hash && mine.count == d.count {
		return
	}
	select {
	case m.differ <- d.node:
	default: // we are copying; this one will say it again
	}
}

// tell answers who asks for our entries.
func (m *Memory) tell(ctx context.Context, msg Message) {
	r := reader{b: msg.Data}
	var reply []byte
	switch r.byte() {
	case wireShards:
		m.mu.RLock()
		for _, s := range m.shards {
			reply = binary.BigEndian.AppendUint64(reply, s.hash)
		}
		m.mu.RUnlock()
	case wireEntries:
		from := r.place()
		wanted, err := r.wanted()
		if err != nil {
			return
		}
		m.mu.RLock()
		reply = m.collect(from, wanted, m.o.Now())
		m.mu.RUnlock()
	default:
		return
	}
	if err := msg.Reply(reply); err != nil {
		m.o.Log.DebugContext(ctx, "cannot hand over cluster memory", slog.Any("err", err))
	}
}

// pull copies from a node what it has otherwise than we do, and returns how many entries were news.
func (m *Memory) pull(ctx context.Context, node string) (int, error) {
	reply, err := m.o.Bus.Request(ctx, m.askOf(node), []byte{wireShards})
	if err != nil {
		return 0, err
	}
	theirs, err := parseShards(reply)
	if err != nil {
		return 0, err
	}
	var wanted []int
	m.mu.RLock()
	for i, s := range m.shards {
		if s.hash != theirs[i] {
			wanted = append(wanted, i)
		}
	}
	m.mu.RUnlock()
	return m.copy(ctx, node, wanted)
}

// everything is all shards, tombstones in those that seem alike too: the node copied from may be the last that
// knows of them.
func everything() []int {
	all := make([]int, shards)
	for i := range all {
		all[i] = i
	}
	return all
}

// copy copies shards from a node.
func (m *Memory) copy(ctx context.Context, node string, wanted []int) (copied int, err error) {
	defer func() { m.copied.Add(float64(copied)) }()
	var from place
	for len(wanted) > 0 {
		request := appendPlace([]byte{wireEntries}, from)
		for _, n := range wanted {
			request = appendNumber(request, int64(n))
		}
		reply, err := m.o.Bus.Request(ctx, m.askOf(node), request)
		if err != nil {
			return copied, err
		}
		a, err := parseAnswer(reply)
		if err != nil {
			return copied, err
		}
		copied += m.take(a.records)
		if !a.more {
			break
		}
		if a.next.shard < from.shard || a.next.shard == from.shard && a.next.key <= from.key {
			return copied, errWire // it would never end
		}
		from = a.next
		for len(wanted) > 0 && wanted[0] < from.shard {
			wanted = wanted[1:]
		}
	}
	return copied, nil
}

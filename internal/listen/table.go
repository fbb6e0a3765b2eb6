package listen

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"time"

	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// entry is a user whose listener is this node's business. It belongs to the table's lock.
type entry struct {
	subscription.Listener // as it is recorded, or was found out since

	permanent bool
	source    string
	conn      *idle.Conn
	// leaving is when a listener that another node owns now is let go at the latest; zero: it is ours.
	leaving time.Time
	// unwritten is since when what was found out is not in the database; zero: it is. well is the state there, when
	// nothing is wrong with it.
	unwritten time.Time
	well      string
	fault     string // the last error, for listings
	// waiting wait for the work that is under way or due, later for the one after it.
	waiting, later []chan struct{}
	scan           uint64 // the last scan that found its row

	at      time.Time // when to work on it next; zero: not before it is asked for
	index   int       // in one of the queues, or -1
	ready   bool      // it is in its host's queue
	plain   bool      // no subscription names another folder than the INBOX
	changes uint32    // of the user's subscriptions, since the entry was made
	asked   bool      // somebody waits, or knows that there is something to find
	running bool
	again   bool // asked for while running
	dropped bool // not in the table any more: what its work finds is of no use
}

// desired reports whether the entry is to listen; otherwise it is to be removed.
func (e *entry) desired(now time.Time) bool { return e.Wanted || e.InSession(now) }

// wellState is the state of a listener that stands; "" is of one with which something is wrong.
func wellState(l subscription.Listener) string {
	if l.Attempt != 0 || l.Rejected != 0 || l.Reason != "" || l.State != subscription.Listening && l.State != subscription.Registered {
		return ""
	}
	return l.State
}

// queue is a heap of entries.
type queue struct {
	entries []*entry
	before  func(a, b *entry) bool
}

func (q *queue) Len() int           { return len(q.entries) }
func (q *queue) Less(i, j int) bool { return q.before(q.entries[i], q.entries[j]) }
func (q *queue) Swap(i, j int) {
	q.entries[i], q.entries[j] = q.entries[j], q.entries[i]
	q.entries[i].index, q.entries[j].index = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // ours alone
	e.index = len(q.entries)
	q.entries = append(q.entries, e)
}

func (q *queue) Pop() any {
	last := len(q.entries) - 1
	e := q.entries[last]
	q.entries[last], q.entries = nil, q.entries[:last]
	e.index = -1
	return e
}

// sooner is the order of those that wait for their time.
func sooner(a, b *entry) bool { return a.at.Before(b.at) }

// first is the order of those whose time has come: who is waited for, then who was active last, then who
// waits longest.
func first(a, b *entry) bool {
	if a.asked != b.asked {
		return a.asked
	}
	if c := b.Active.Compare(a.Active); c != 0 {
		return c < 0
	}
	return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.User.ID, b.User.ID)) < 0
}

// host is what is known of a mail host, and the entries whose time has come there.
type host struct {
	ready   queue
	running int
	pace    pace
	// failures counts the times in a row that the host could not be asked, probe is when to try it again.
	failures int
	probe    time.Time
	// pushes: it turned out whether the host offers METADATA to us; for hosts whose source is auto.
	pushes, known bool
}

const (
	// downFrom failures in a row mean that the host is down, and not one user's mailbox.
	downFrom = 5
	// firstProbe and lastProbe bound the time between two tries of a host that is down.
	firstProbe, lastProbe = 500 * time.Millisecond, 15 * time.Second
)

func (h *host) down() bool { return h.failures >= downFrom }

// failed notes that the host could not be asked, and reports whether that makes it one that is down.
func (h *host) failed(now time.Time) bool {
	h.failures++
	if h.down() {
		h.probe = now.Add(jitter(min(lastProbe, firstProbe<<min(h.failures-downFrom, 10))))
	}
	return h.failures == downFrom
}

// answered notes that the host could be asked, and reports whether it was down before.
func (h *host) answered() bool {
	was := h.down()
	h.failures = 0
	return was
}

// together is how long those gather who wait for their pace: to wake for each of them costs more than its work.
const together = 50 * time.Millisecond

// pace spreads what may happen so many times a second, a tenth of them at once.
type pace struct {
	perSecond int
	free      time.Time // when all of the allowance is there again
}

// wait is how long until the next may happen.
func (p *pace) wait(now time.Time) time.Duration {
	return max(0, p.free.Add(-time.Second/10).Sub(now))
}

func (p *pace) take(now time.Time) {
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Second / time.Duration(p.perSecond))
}

// table is the entries of a node and when to work on which. The Service's lock guards it.
type table struct {
	entries map[tenant.UserID]*entry
	due     queue
	hosts   map[string]*host
	turn    []string // the hosts, in the order of their turns
	running int
	pace    pace
	most    int // may be worked on at once
	perHost int // logins a second
}

func newTable(most, perSecond, perHost int) table {
	return table{
		entries: map[tenant.UserID]*entry{}, due: queue{before: sooner}, hosts: map[string]*host{},
		pace: pace{perSecond: perSecond}, most: most, perHost: perHost,
	}
}

func (t *table) host(name string) *host {
	h := t.hosts[name]
	if h == nil {
		h = &host{ready: queue{before: first}, pace: pace{perSecond: t.perHost}}
		t.hosts[name] = h
		t.turn = append(t.turn, name)
	}
	return h
}

// schedule has an entry worked on at a time, or at once when asked for.
func (t *table) schedule(e *entry, at time.Time, asked bool) {
	if e.running {
		e.again = e.again || asked
		return
	}
	t.unschedule(e)
	e.at, e.asked = at, asked
	heap.Push(&t.due, e)
}

func (t *table) unschedule(e *entry) {
	if e.index < 0 {
		return
	}
	if e.ready {
		heap.Remove(&t.host(e.MailHost).ready, e.index)
	} else {
		heap.Remove(&t.due, e.index)
	}
	e.ready = false
}

// drop forgets an entry, whatever becomes of its work.
func (t *table) drop(e *entry) {
	t.unschedule(e)
	delete(t.entries, e.User)
	e.dropped = true
	for _, done := range append(e.waiting, e.later...) {
		close(done)
	}
	e.waiting, e.later = nil, nil
}

// begin picks the next entry to work on, or says how long there is none: mail hosts take turns.
func (t *table) begin(now time.Time) (*entry, time.Duration) {
	for t.due.Len() > 0 && !t.due.entries[0].at.After(now) {
		e := heap.Pop(&t.due).(*entry) //nolint:forcetypeassert // ours alone
		e.ready = true
		heap.Push(&t.host(e.MailHost).ready, e)
	}
	wait := time.Minute
	if t.due.Len() > 0 {
		wait = min(wait, t.due.entries[0].at.Sub(now))
	}
	if t.running >= t.most {
		return nil, wait // one that ends wakes us
	}
	rest := t.pace.wait(now)
	for i, name := range t.turn {
		h := t.hosts[name]
		if h.ready.Len() == 0 || h.running >= max(1, t.most*3/4) { // a host that hangs leaves room for others
			continue
		}
		if h.down() && h.running > 0 { // one at a time finds out whether it is up again
			continue
		}
		later := max(rest, h.pace.wait(now))
		if h.down() {
			later = max(later, h.probe.Sub(now))
		}
		if later > 0 {
			wait = min(wait, max(later, together))
			continue
		}
		e := heap.Pop(&h.ready).(*entry) //nolint:forcetypeassert // ours alone
		e.ready, e.running = false, true
		t.running++
		h.running++
		t.pace.take(now)
		h.pace.take(now)
		t.turn = append(append(t.turn[:i:i], t.turn[i+1:]...), name)
		return e, 0
	}
	return nil, wait
}

// end takes an entry back that was worked on.
func (t *table) end(e *entry, mailHost string) {
	e.running = false
	t.running--
	t.host(mailHost).running--
}

// jitter is from half to the whole of d, so that what broke at once does not come back at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // G404: no secret
}

// around is d give or take half of it, so that those of one start part.
func around(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // G404: no secret
}

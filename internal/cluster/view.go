package cluster

import (
	"cmp"
	"slices"
	"time"
)

const (
	// beatEvery is the time between two heartbeats.
	beatEvery = time.Second
	// deadAfter is how long a silent node is taken for alive.
	deadAfter = 4 * time.Second
	// settle is how long a death or a join waits for more of them before keys move. Whoever says good-bye or
	// drains is followed at once.
	settle = time.Second
	// lookEvery is the time between two looks for the dead.
	lookEvery = 250 * time.Millisecond
	// maxPeers bounds what one node remembers of others.
	maxPeers = 500
)

// news is something that a node learned and that is logged or counted.
type news struct {
	kind string
	peer beat
}

// The kinds of news. The first five are label values of a metric.
const (
	joined    = "joined"
	restarted = "restarted"
	died      = "died"
	left      = "left"
	turned    = "turned" // willing or not, draining or not
)

// Why a process that is heard is no member.
const (
	OtherKey = "other_key" // its credentials are sealed with another key
	SameID   = "same_id"   // it says that it is this node
)

// peer is another node, by its last heartbeat.
type peer struct {
	beat
	heard time.Time
	// why is the kind of news that a stranger was.
	why string
	// replaced is the process that this one has taken the place of, and that no longer counts.
	replaced string
}

// view is what one node knows of the others. It has no clock of its own: each call brings the time, which
// must be monotonic. Its owner serializes the calls.
type view struct {
	self      beat
	peers     map[string]*peer // by id; members
	strangers map[string]*peer // by process; alive, and not to be counted
	looked    time.Time        // the last look
	due       time.Time        // when what has changed moves keys; zero: nothing has
}

func newView(self beat) *view {
	return &view{self: self, peers: map[string]*peer{}, strangers: map[string]*peer{}}
}

// hear takes in a heartbeat of another process. What it returns is to be told.
func (v *view) hear(now time.Time, b beat) []news {
	switch {
	case b.Process == v.self.Process:
		return nil // our own echo
	case !fits(b.Key, v.self.Key):
		return v.strange(now, b, OtherKey)
	case b.ID == v.self.ID:
		return v.strange(now, b, SameID)
	}
	p := v.peers[b.ID]
	switch {
	case p != nil && b.Process == p.replaced:
		return nil
	case b.Joining:
		return nil
	case b.Bye:
		if p == nil || p.Process != b.Process {
			return nil
		}
		delete(v.peers, b.ID)
		v.due = now
		return []news{{left, p.beat}}
	case p == nil:
		if len(v.peers) >= maxPeers {
			return nil
		}
		v.peers[b.ID] = &peer{beat: b, heard: now}
		v.dueIn(now, settle)
		return []news{{joined, b}}
	}
	was := p.beat
	p.beat, p.heard = b, now
	if was.Process != b.Process {
		p.replaced = was.Process
		v.due = now
		return []news{{restarted, b}}
	}
	if was.Willing != b.Willing || was.Draining != b.Draining {
		v.due = now
		return []news{{turned, b}}
	}
	return nil
}

// strange remembers a process that is no member, for the time that it can be heard.
func (v *view) strange(now time.Time, b beat, why string) []news {
	if b.Bye {
		delete(v.strangers, b.Process)
		return nil
	}
	if p := v.strangers[b.Process]; p != nil {
		p.heard = now
		return nil
	}
	if len(v.strangers) >= maxPeers {
		return nil
	}
	v.strangers[b.Process] = &peer{beat: b, heard: now, why: why}
	return []news{{why, b}}
}

// look finds the dead. When it comes much later than it should, this process was stopped for a while, and
// the others' heartbeats of that time are still waiting to be read: it is not they who were silent.
func (v *view) look(now time.Time) (all []news) {
	if late := now.Sub(v.looked) - lookEvery; !v.looked.IsZero() && late > beatEvery {
		for _, p := range v.peers {
			p.heard = p.heard.Add(late)
		}
	}
	v.looked = now
	for id, p := range v.peers {
		if now.Sub(p.heard) >= deadAfter {
			delete(v.peers, id)
			v.dueIn(now, settle)
			all = append(all, news{died, p.beat})
		}
	}
	for process, p := range v.strangers {
		if now.Sub(p.heard) >= deadAfter {
			delete(v.strangers, process)
		}
	}
	return all
}

func (v *view) dueIn(now time.Time, d time.Duration) {
	if at := now.Add(d); v.due.IsZero() || at.Before(v.due) {
		v.due = at
	}
}

// settled reports whether keys are to move now, once for each change.
func (v *view) settled(now time.Time) bool {
	if v.due.IsZero() || now.Before(v.due) {
		return false
	}
	v.due = time.Time{}
	return true
}

// snapshot is who may own keys.
func (v *view) snapshot() *snapshot {
	var willing, live []string
	for b := range v.all() {
		live = append(live, b.ID)
		if b.Willing && !b.Draining {
			willing = append(willing, b.ID)
		}
	}
	return &snapshot{willing: places(willing), live: places(live)}
}

// all yields the last word of each member, this node included.
func (v *view) all() func(yield func(beat, time.Time) bool) {
	return func(yield func(beat, time.Time) bool) {
		if !v.self.Bye && !yield(v.self, time.Time{}) {
			return
		}
		for _, p := range v.peers {
			if !yield(p.beat, p.heard) {
				return
			}
		}
	}
}

// members lists who is there, by name.
func (v *view) members(now time.Time) []Member {
	var all []Member
	for b, heard := range v.all() {
		m := b.member()
		if m.Self = b.Process == v.self.Process; !m.Self {
			m.Silent = now.Sub(heard)
		}
		all = append(all, m)
	}
	sortMembers(all)
	return all
}

// ignored lists who is there and does not count, by name.
func (v *view) ignored(now time.Time) []Member {
	var all []Member
	for _, p := range v.strangers {
		m := p.member()
		m.Silent, m.Ignored = now.Sub(p.heard), p.why
		all = append(all, m)
	}
	sortMembers(all)
	return all
}

func sortMembers(all []Member) {
	slices.SortFunc(all, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Process, b.Process))
	})
}

// snapshot is what Owner looks at. It is never changed.
type snapshot struct {
	willing, live []place
}

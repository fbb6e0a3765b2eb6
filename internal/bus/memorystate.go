package bus

import (
	"slices"
	"strings"
	"time"
)

// shards is into how many parts the map is divided, by a hash of the key. Each has a hash of what it holds, so
// that nodes find the parts in which they differ: of a million entries, 244 are in each.
const shards = 4096

// memoryState is the map without the bus. It knows no lock.
type memoryState struct {
	clock  int64 // the highest version seen
	count  int   // live entries
	dead   int   // tombstones
	shards [shards]*shard
	names  map[string]uint32 // nodes, which are few, by their name
	nodes  []string
}

type shard struct {
	// hash is the exclusive or of the hashes of the live entries. Tombstones are not in it, since nodes forget
	// them at different moments; who lacks one shows by having the entry.
	hash uint64
	live map[string]entry
	dead map[string]tombstone
}

type entry struct {
	value   string
	version int64
	node    uint32
}

type tombstone struct {
	version int64
	node    uint32
	died    time.Time
}

func newMemoryState() memoryState {
	s := memoryState{names: map[string]uint32{}}
	for i := range s.shards {
		s.shards[i] = &shard{}
	}
	return s
}

// hashText is FNV-1a, going on from h.
func hashText(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return (h ^ 0xff) * 1099511628211 // ends the text
}

// mix spreads a hash over all its bits: the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

const hashSeed = 14695981039346656037

func shardOf(key string) int { return int(mix(hashText(hashSeed, key)) % shards) }

func (s *memoryState) hashEntry(key string, e entry) uint64 {
	h := hashText(hashText(hashText(hashSeed, key), s.nodes[e.node]), e.value)
	return mix(h ^ mix(uint64(e.version))) //nolint:gosec // any bits do
}

// hash is that of all live entries.
func (s *memoryState) hash() uint64 {
	var all uint64
	for i, p := range s.shards {
		all ^= mix(p.hash + uint64(i)*0x9e3779b97f4a7c15)
	}
	return all
}

func (s *memoryState) get(key string) (entry, bool) {
	e, ok := s.shards[shardOf(key)].live[key]
	return e, ok
}

// node returns the number of a node's name.
func (s *memoryState) node(name string) uint32 {
	n, ok := s.names[name]
	if !ok {
		n = uint32(len(s.nodes)) //nolint:gosec // nodes are few
		s.nodes = append(s.nodes, name)
		s.names[name] = n
	}
	return n
}

// applied is what became of a record.
type applied int

const (
	stale   applied = iota // what we hold is newer, or the same
	taken                  // it is what we hold now
	refused                // there is no room
)

// apply takes a record over unless what is there wins.
func (s *memoryState) apply(r record, now time.Time, most int) applied {
	s.clock = max(s.clock, r.version)
	p := s.shards[shardOf(r.key)]
	e, live := p.live[r.key]
	t, dead := p.dead[r.key]
	switch {
	case live && !wins(r, record{version: e.version, node: s.nodes[e.node], value: e.value}),
		dead && !wins(r, record{version: t.version, node: s.nodes[t.node], dead: true}):
		return stale
	case !r.dead && !live && s.count >= most:
		return refused
	}
	if live {
		p.hash ^= s.hashEntry(r.key, e)
		delete(p.live, r.key)
		s.count--
	}
	if dead {
		delete(p.dead, r.key)
		s.dead--
	}
	if r.dead {
		if p.dead == nil {
			p.dead = map[string]tombstone{}
		}
		p.dead[r.key] = tombstone{version: r.version, node: s.node(r.node), died: now.Add(-r.age)}
		s.dead++
		return taken
	}
	if p.live == nil {
		p.live = map[string]entry{}
	}
	e = entry{value: r.value, version: r.version, node: s.node(r.node)}
	p.live[r.key] = e
	p.hash ^= s.hashEntry(r.key, e)
	s.count++
	return taken
}

// wins reports whether a goes over b. It is a total order, the same on every node.
func wins(a, b record) bool {
	switch {
	case a.version != b.version:
		return a.version > b.version
	case a.node != b.node:
		return a.node > b.node
	case a.dead != b.dead: // the rest is of one node that lost its memory and its clock
		return a.dead
	}
	return a.value > b.value
}

// bury forgets tombstones whose time is over, and the oldest when there are too many.
func (s *memoryState) bury(now time.Time) {
	before := now.Add(-tombstoneLife)
	if s.dead > maxTombstones {
		died := make([]time.Time, 0, s.dead)
		for _, p := range s.shards {
			for _, t := range p.dead {
				died = append(died, t.died)
			}
		}
		slices.SortFunc(died, time.Time.Compare)
		if d := died[len(died)-maxTombstones*3/4]; d.After(before) {
			before = d
		}
	}
	for _, p := range s.shards {
		for key, t := range p.dead {
			if t.died.Before(before) {
				delete(p.dead, key)
				s.dead--
			}
		}
	}
}

// records lists a shard, tombstones too, by key.
func (s *memoryState) records(i int, now time.Time) []record {
	p := s.shards[i]
	all := make([]record, 0, len(p.live)+len(p.dead))
	for key, e := range p.live {
		all = append(all, record{key: key, value: e.value, version: e.version, node: s.nodes[e.node]})
	}
	for key, t := range p.dead {
		if age := now.Sub(t.died); age < tombstoneLife {
			all = append(all, record{key: key, dead: true, version: t.version, node: s.nodes[t.node], age: age})
		}
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.key, b.key) })
	return all
}

// collect makes the answer to a request for entries of the wanted shards, from a place on.
func (s *memoryState) collect(from place, wanted []int, now time.Time) []byte {
	var list []byte
	for _, i := range wanted {
		if i < from.shard {
			continue
		}
		for _, r := range s.records(i, now) {
			if i == from.shard && r.key <= from.key {
				continue
			}
			if list = appendRecord(list, r); len(list) >= answerSize {
				return append(appendPlace([]byte{1}, place{i, r.key}), list...)
			}
		}
	}
	return append([]byte{0}, list...)
}

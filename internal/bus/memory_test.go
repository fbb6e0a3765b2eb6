package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

// member opens a Memory on a Bus of its own.
func member(t testing.TB, url, node string, change func(*MemoryOptions)) *Memory {
	t.Helper()
	return memberOn(t, open(t, url).Bus, node, change)
}

func memberOn(t testing.TB, b *Bus, node string, change func(*MemoryOptions)) *Memory {
	t.Helper()
	o := MemoryOptions{Bus: b, Name: "test", Node: node, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry(), Now: time.Now}
	if change != nil {
		change(&o)
	}
	m, err := OpenMemory(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func put(t testing.TB, m *Memory, key, value string) {
	t.Helper()
	if err := m.Put(key, value); err != nil {
		t.Fatal(err)
	}
}

// content is all that a member holds.
func content(m *Memory) map[string]string {
	all := map[string]string{}
	for i := range MemoryParts {
		maps.Copy(all, m.Part(i))
	}
	return all
}

// alike waits until all members hold the same.
func alike(t testing.TB, want map[string]string, members ...*Memory) {
	t.Helper()
	for _, m := range members {
		eventually(t, m.o.Node+" holds what the others do", func() bool { return maps.Equal(content(m), want) && m.Len() == len(want) })
	}
	for _, m := range members[1:] {
		if m.digest().hash != members[0].digest().hash {
			t.Error("the same entries have different hashes")
		}
	}
}

func TestMemory(t *testing.T) {
	onEachKind(t, func(t *testing.T, one, other opened) {
		var mu sync.Mutex
		var heard []string
		a := memberOn(t, one.Bus, "a", nil)
		b := memberOn(t, other.Bus, "b", nil)
		b.WhenPut(func(key string) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, key)
		})
		put(t, a, "k", "1")
		put(t, a, "l", "2")
		alike(t, map[string]string{"k": "1", "l": "2"}, a, b)
		put(t, b, "k", "3") // he has seen the other's write, and wins
		alike(t, map[string]string{"k": "3", "l": "2"}, a, b)
		b.Delete("l")
		b.Delete("never there")
		alike(t, map[string]string{"k": "3"}, a, b)
		put(t, a, "l", "4")
		alike(t, map[string]string{"k": "3", "l": "4"}, a, b)
		if v, ok := b.Get("l"); v != "4" || !ok {
			t.Errorf("%q, %v", v, ok)
		}
		if v, ok := b.Get("m"); v != "" || ok {
			t.Errorf("%q, %v", v, ok)
		}
		mu.Lock()
		defer mu.Unlock()
		if fmt.Sprint(heard) != "[k l l]" {
			t.Errorf("b was told of %v", heard)
		}
	})
}

// The map lives as long as one member does, however many have come and gone.
func TestMemoryOutlivesItsMembers(t *testing.T) {
	url := startServerAt(t, external{}).url
	want := map[string]string{}
	m := member(t, url, "0", nil)
	for i := range 5000 { // several answers' worth
		key := fmt.Sprintf("credential/%d@1", i)
		want[key] = strings.Repeat(fmt.Sprint(i), 100)
		put(t, m, key, want[key])
	}
	put(t, m, "gone", "x")
	m.Delete("gone")
	for i := range 3 {
		next := member(t, url, fmt.Sprint(i+1), nil)
		if next.Len() != len(want) { // at once, not some time
			t.Errorf("the joining node holds %d of %d", next.Len(), len(want))
		}
		m.Close()
		m = next
	}
	alike(t, want, m)
	if m.sweep(); m.dead != 1 {
		t.Errorf("%d tombstones: one that joins could bring back what was deleted", m.dead)
	}
}

// What the bus did not carry is copied, in both directions.
func TestMemoryRepairs(t *testing.T) {
	url := startServerAt(t, external{}).url
	a, b := member(t, url, "a", nil), member(t, url, "b", nil)
	put(t, a, "both", "x")
	put(t, a, "deleted", "x")
	alike(t, map[string]string{"both": "x", "deleted": "x"}, a, b)
	lost := func(m *Memory, r record) {
		m.mu.Lock()
		defer m.mu.Unlock()
		r.version = m.clock + 1
		m.apply(r, time.Now(), 100)
	}
	lost(a, record{node: "a", key: "of a", value: "1"})
	lost(b, record{node: "b", key: "of b", value: "2"})
	lost(b, record{node: "b", key: "deleted", dead: true})
	lost(a, record{node: "a", key: "both", value: "old"})
	lost(b, record{node: "b", key: "both", value: "tie that b wins"})
	alike(t, map[string]string{"of a": "1", "of b": "2", "both": "tie that b wins"}, a, b)
}

// A partition heals: both sides go on, and hold the same afterwards.
func TestMemoryPartition(t *testing.T) {
	server := startServerAt(t, external{})
	b1, b2 := open(t, server.url), open(t, server.url)
	a, b := memberOn(t, b1.Bus, "a", nil), memberOn(t, b2.Bus, "b", nil)
	put(t, a, "old", "x")
	put(t, a, "deleted", "x")
	alike(t, map[string]string{"old": "x", "deleted": "x"}, a, b)
	server.stop()
	eventually(t, "no connection", func() bool { return b1.Ready() != nil && b2.Ready() != nil })
	put(t, a, "of a", "1")
	put(t, b, "of b", "2")
	put(t, a, "both", "first")
	put(t, b, "both", "second")
	b.Delete("deleted")
	startServerAt(t, external{address: server.address})
	want := map[string]string{"old": "x", "of a": "1", "of b": "2", "both": "second"}
	alike(t, want, a, b)
}

func TestMemoryIsBounded(t *testing.T) {
	url := startServerAt(t, external{}).url
	a := member(t, url, "a", nil)
	b := member(t, url, "b", func(o *MemoryOptions) { o.Most = 2 })
	put(t, b, "1", "x")
	put(t, b, "2", "x")
	if err := b.Put("3", "x"); !errors.Is(err, ErrMemoryFull) {
		t.Error(err)
	}
	put(t, b, "2", "y") // no new one
	put(t, a, "3", "x")
	put(t, a, "4", "x")
	b.Delete("2")
	alike(t, map[string]string{"1": "x", "3": "x", "4": "x"}, a)
	eventually(t, "room for one", func() bool { return b.Len() == 2 })
	b.Close() // who joins may ask him
	for name, err := range map[string]error{
		"no key": a.Put("", "x"), "long key": a.Put(strings.Repeat("k", maxMemoryKey+1), "x"), "long value": a.Put("k", strings.Repeat("v", maxMemoryValue+1)),
	} {
		if !errors.Is(err, ErrMemoryEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	largest := strings.Repeat("v", maxMemoryValue)
	put(t, a, strings.Repeat("k", maxMemoryKey), largest)
	for i := range 30 { // several answers of large ones
		put(t, a, fmt.Sprint("large", i), largest)
	}
	if c := member(t, url, "c", nil); c.Len() != a.Len() {
		t.Errorf("%d of %d entries copied", c.Len(), a.Len())
	}
}

// A value can be sealed anew, and loaded from elsewhere, without undoing what happens meanwhile.
func TestMemoryOldNews(t *testing.T) {
	url := startServerAt(t, external{}).url
	a, b := member(t, url, "a", nil), member(t, url, "b", nil)
	put(t, a, "k", "old")
	e, _ := a.get("k")
	put(t, b, "k", "new") // may arrive before or after
	if _, err := a.Replace("k", "old", "old, sealed anew"); err != nil {
		t.Fatal(err)
	}
	alike(t, map[string]string{"k": "new"}, a, b)
	if ok, err := a.Replace("k", "new", "newer"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	alike(t, map[string]string{"k": "newer"}, a, b)
	if ok, err := a.Replace("none", "", "x"); ok || err != nil {
		t.Error("replaced what is not there", err)
	}

	if err := a.PutAt("k", "from the database", time.UnixMicro(e.version-1)); err != nil {
		t.Fatal(err)
	}
	if err := a.PutAt("l", "from the database", time.UnixMicro(1)); err != nil {
		t.Fatal(err)
	}
	alike(t, map[string]string{"k": "newer", "l": "from the database"}, a, b)
	a.Delete("l")
	if err := b.PutAt("l", "from the database", time.UnixMicro(1)); err != nil {
		t.Fatal(err)
	}
	alike(t, map[string]string{"k": "newer"}, a, b)
}

func TestTombstonesEnd(t *testing.T) {
	s := newMemoryState()
	now := time.Unix(1_000_000, 0)
	for i := range maxTombstones {
		s.apply(record{key: fmt.Sprint(i), node: "a", version: int64(i + 1), dead: true, age: tombstoneLife - time.Duration(i)*time.Millisecond}, now, 0)
	}
	if s.bury(now); s.dead != maxTombstones {
		t.Errorf("%d tombstones", s.dead)
	}
	s.apply(record{key: "one more", node: "a", version: 1, dead: true}, now, 0)
	if s.bury(now); s.dead != maxTombstones*3/4 {
		t.Errorf("too many, and %d are left", s.dead)
	}
	if got := s.apply(record{key: "one more", node: "z", version: 1, value: "x"}, now, 10); got != taken {
		t.Error("a higher node does not win")
	}
	if s.bury(now.Add(tombstoneLife + time.Second)); s.dead != 0 || s.count != 1 {
		t.Errorf("%d tombstones, %d entries", s.dead, s.count)
	}
}

// TestMemoryModel lets nodes with wrong clocks write while messages are lost, doubled and late, and has
// them copy from each other. Then all hold, of each key, the write that the rule says.
func TestMemoryModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const most = 1000
		now := time.Unix(1_000_000, 0)
		n := rapid.IntRange(2, 4).Draw(t, "nodes")
		states := make([]memoryState, n)
		skew := make([]int64, n)
		for i := range states {
			states[i] = newMemoryState()
			skew[i] = rapid.Int64Range(-1000, 1000).Draw(t, "skew")
		}
		winners := map[string]record{}
		var flying []struct {
			to   int
			data []byte
		}
		pull := func(to, from int) {
			wanted := []int{}
			for i, s := range states[to].shards {
				if s.hash != states[from].shards[i].hash {
					wanted = append(wanted, i)
				}
			}
			a, err := parseAnswer(states[from].collect(place{}, wanted, now))
			if err != nil || a.more {
				t.Fatal(err, a.more)
			}
			for _, r := range a.records {
				states[to].apply(r, now, most)
			}
		}
		node := rapid.IntRange(0, n-1)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				i := node.Draw(t, "at")
				s := &states[i]
				r := record{key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), node: fmt.Sprint(i), dead: rapid.Bool().Draw(t, "delete")}
				if !r.dead {
					r.value = rapid.StringN(0, 3, 8).Draw(t, "value")
				}
				now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "later")) * time.Microsecond)
				r.version = max(s.clock+1, now.UnixMicro()+skew[i])
				if s.apply(r, now, most) != taken {
					t.Fatal("a node does not take its own write")
				}
				if before, ok := winners[r.key]; !ok || wins(r, before) {
					winners[r.key] = r
				}
				for to := range states {
					for range rapid.IntRange(0, 2).Draw(t, "copies") { // 0: lost
						flying = append(flying, struct {
							to   int
							data []byte
						}{to, appendRecord(nil, r)})
					}
				}
			},
			"arrive": func(t *rapid.T) {
				if len(flying) == 0 {
					t.Skip("nothing on its way")
				}
				i := rapid.IntRange(0, len(flying)-1).Draw(t, "which")
				f := flying[i]
				flying = append(flying[:i], flying[i+1:]...)
				all, err := (&reader{b: f.data}).records()
				if err != nil {
					t.Fatal(err)
				}
				states[f.to].apply(all[0], now, most)
			},
			"copy": func(t *rapid.T) { pull(node.Draw(t, "to"), node.Draw(t, "from")) },
			"": func(t *rapid.T) {
				for _, s := range states {
					count, dead := 0, 0
					for _, p := range s.shards {
						count += len(p.live)
						dead += len(p.dead)
					}
					if count != s.count || dead != s.dead {
						t.Fatalf("%d and %d are counted as %d and %d", count, dead, s.count, s.dead)
					}
				}
			},
		})
		// Who knows the winner of a key may be anybody: two rounds over all pairs bring it to all.
		for range 2 {
			for to := range states {
				for from := range states {
					pull(to, from)
				}
			}
		}
		for i := range states {
			for key, want := range winners {
				e, ok := states[i].get(key)
				if ok == want.dead || ok && (e.value != want.value || e.version != want.version) {
					t.Fatalf("node %d holds %q = %+v, the last write is %+v", i, key, e, want)
				}
			}
			if states[i].hash() != states[0].hash() {
				t.Fatal("hashes differ")
			}
		}
	})
}

func FuzzMemoryMessages(f *testing.F) {
	s := newMemoryState()
	now := time.Unix(1_000_000, 0)
	s.apply(record{key: "k", node: "a", version: 7, value: "v"}, now, 10)
	s.apply(record{key: "d", node: "a", version: 8, dead: true, age: time.Second}, now, 10)
	f.Add(s.collect(place{}, []int{shardOf("k"), shardOf("d")}, now))
	f.Add(appendRecord([]byte{wireNews}, record{key: "k", node: "a", version: 7, value: "v"}))
	f.Add(digest{node: "a", count: 1, hash: 2}.append(nil))
	f.Add(append(appendPlace([]byte{wireEntries}, place{3, "k"}), 1, 2, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseAnswer(data); err == nil {
			again := append([]byte{0}, appendPlace(nil, a.next)...)
			again = again[:1]
			if a.more {
				again = appendPlace([]byte{1}, a.next)
			}
			for _, r := range a.records {
				again = appendRecord(again, r)
			}
			b, err := parseAnswer(again)
			if err != nil || fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%v and %v, %v", a, b, err)
			}
		}
		if d, err := parseDigest(data); err == nil {
			if again, err := parseDigest(d.append(nil)); err != nil || again != d {
				t.Errorf("%v, %v", again, err)
			}
		}
		r := reader{b: data}
		r.byte()
		r.place()
		_, _ = r.wanted()
	})
}

// Messages that are none are no trouble to a member.
func TestMemoryForeignMessages(t *testing.T) {
	url := startServerAt(t, external{}).url
	a := member(t, url, "a", nil)
	other := open(t, url)
	put(t, a, "k", "v")
	for _, s := range []Subject{a.news, a.talk, a.ask} {
		for _, data := range []string{"", "\x00", "\x01\xff", "\x02", "\x05\xff\xff\xff", "\x05\x00\x00\x07\x07", "\x01" + strings.Repeat("\xff", 100)} {
			publish(t, other, s, data)
		}
	}
	ctx := t.Context()
	if reply, err := other.Request(ctx, a.ask, []byte{wireShards}); err != nil || len(reply) != 8*shards {
		t.Errorf("%d bytes, %v", len(reply), err)
	}
	alike(t, map[string]string{"k": "v"}, a)
}

// BenchmarkMemoryEntry says what an entry of 300 bytes costs, and how fast a joining node copies.
func BenchmarkMemoryEntry(b *testing.B) {
	url := startServerAt(b, external{}).url
	m := member(b, url, "a", nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	value := strings.Repeat("v", 300)
	n := 0
	for b.Loop() {
		m.mu.Lock()
		m.apply(record{key: fmt.Sprintf("credential/%d@1", n), value: strings.Clone(value), node: "a", version: m.clock + 1}, time.Now(), defaultMost)
		m.mu.Unlock()
		n++
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "bytes/entry")
	start := time.Now()
	if c := member(b, url, "b", nil); c.Len() != n {
		b.Fatalf("%d of %d", c.Len(), n)
	}
	b.ReportMetric(float64(n)/time.Since(start).Seconds(), "copied/s")
	b.ReportMetric(0, "ns/op")
}

package listen

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// add puts an entry into a table, due at once.
func (t *table) add(id int64, mailHost string, active time.Duration) *entry {
	e := &entry{Listener: subscription.Listener{User: tenant.UserID{Context: 1, ID: id}, MailHost: mailHost, Active: noon.Add(active)}, index: -1}
	t.entries[e.User] = e
	t.schedule(e, noon, false)
	return e
}

// TestOrder: mail hosts take turns, and at each, who is waited for comes first, then who was active last.
func TestOrder(t *testing.T) {
	t.Parallel()
	tab := newTable(100, 1000, 1000)
	for id := range int64(4) {
		tab.add(id+1, "big", time.Duration(id)*time.Hour)
	}
	tab.add(11, "small", 0)
	tab.schedule(tab.entries[tenant.UserID{Context: 1, ID: 1}], noon, true)
	var got []int64
	for {
		e, _ := tab.begin(noon)
		if e == nil {
			break
		}
		got = append(got, e.User.ID)
	}
	turn := slices.Index(got, 11)
	if turn != 0 && turn != 1 {
		t.Fatalf("order %v: the host with one entry has to wait", got)
	}
	if big := slices.Delete(got, turn, turn+1); !slices.Equal(big, []int64{1, 4, 3, 2}) {
		t.Errorf("order %v at the other", big)
	}
}

// TestPace begins no more in a second than it may, of the node and of each mail host, and a host that hangs
// leaves places for the others.
func TestPace(t *testing.T) {
	t.Parallel()
	tab := newTable(1000, 100, 20)
	for id := range int64(500) {
		tab.add(id+1, "one", 0)
	}
	for id := range int64(500) {
		tab.add(id+1001, "two", 0)
	}
	const seconds = 5
	begun := map[string]int{}
	for now := noon; now.Before(noon.Add(seconds * time.Second)); now = now.Add(time.Millisecond) {
		for {
			e, _ := tab.begin(now)
			if e == nil {
				break
			}
			begun[e.MailHost]++
			tab.end(e, e.MailHost)
		}
	}
	for name, n := range begun {
		if n < 20*seconds-2 || n > 20*seconds+4 {
			t.Errorf("%d begun at %s in %d s, want 20 each", n, name, seconds)
		}
	}

	tab = newTable(8, 1000, 1000)
	for id := range int64(20) {
		tab.add(id+1, "hangs", 0)
	}
	begunThere := 0
	for now := noon; ; now = now.Add(10 * time.Millisecond) {
		e, wait := tab.begin(now)
		if e == nil && wait >= time.Minute {
			break
		}
		if e != nil {
			begunThere++
		}
	}
	if begunThere != 6 {
		t.Errorf("a host that hangs has %d of 8 places", begunThere)
	}
	tab.add(99, "well", 0)
	if e, _ := tab.begin(noon.Add(time.Minute)); e == nil || e.MailHost != "well" {
		t.Errorf("the host that is well has no place: %+v", e)
	}
}

// TestDown tries a mail host that is down with one user at a time, ever more seldom, and with everybody when it
// is up again.
func TestDown(t *testing.T) {
	t.Parallel()
	tab := newTable(100, 10_000, 10_000)
	for id := range int64(50) {
		tab.add(id+1, "dead", 0)
	}
	tries := 0
	now := noon
	for ; now.Before(noon.Add(time.Minute)); now = now.Add(10 * time.Millisecond) {
		for {
			e, _ := tab.begin(now)
			if e == nil {
				break
			}
			if tries++; tries > downFrom && tab.host("dead").running > 1 {
				t.Fatalf("%d at once at a host that is down", tab.host("dead").running)
			}
			tab.end(e, "dead")
			tab.host("dead").failed(now)
			tab.schedule(e, now.Add(time.Second), false)
		}
	}
	if tries < downFrom+5 || tries > downFrom+15 {
		t.Errorf("%d tries in a minute", tries)
	}
	now = now.Add(lastProbe)
	e, _ := tab.begin(now)
	tab.end(e, "dead")
	if !tab.host("dead").answered() || tab.host("dead").answered() {
		t.Error("it is not noticed, or twice, that the host is up again")
	}
	for n := 0; ; n++ {
		if e, _ := tab.begin(now); e == nil {
			if n < 40 {
				t.Errorf("%d users at once when it is up again", n)
			}
			return
		}
	}
}

// TestTable schedules, asks, moves and drops at random: what is in the table is in one queue or being worked on,
// nobody is worked on twice at a time, and everybody has his turn in the end.
func TestTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable(4, 10_000, 10_000)
		now := noon
		running := map[*entry]bool{}
		hosts := rapid.SampledFrom([]string{"a", "b", "c"})
		ids := rapid.Int64Range(1, 8)
		of := func() *entry { return tab.entries[tenant.UserID{Context: 1, ID: ids.Draw(t, "id")}] }
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if tab.entries[tenant.UserID{Context: 1, ID: id}] == nil {
					tab.add(id, hosts.Draw(t, "host"), 0)
				}
			},
			"schedule": func(t *rapid.T) {
				if e := of(); e != nil {
					tab.schedule(e, now.Add(time.Duration(rapid.IntRange(-1, 3).Draw(t, "in"))*time.Second), rapid.Bool().Draw(t, "asked"))
				}
			},
			"drop": func(*rapid.T) {
				if e := of(); e != nil {
					tab.drop(e)
				}
			},
			"begin": func(t *rapid.T) {
				now = now.Add(time.Second)
				e, _ := tab.begin(now)
				if e == nil {
					return
				}
				if running[e] || e.at.After(now) {
					t.Fatalf("%v is begun twice, or before its time", e.User)
				}
				running[e] = true
			},
			"end": func(*rapid.T) {
				for e := range running {
					delete(running, e)
					tab.end(e, e.MailHost)
					if !e.dropped {
						tab.schedule(e, now.Add(time.Second), false)
					}
					return
				}
			},
			"": func(t *rapid.T) {
				queued := tab.due.Len()
				busy := 0
				for _, h := range tab.hosts {
					queued += h.ready.Len()
					busy += h.running
				}
				kept := 0
				for _, e := range tab.entries {
					if e.running == (e.index >= 0) {
						t.Fatalf("%v: running is %t, index %d", e.User, e.running, e.index)
					}
					if !e.running {
						kept++
					}
				}
				if queued != kept || tab.running != len(running) || busy != len(running) {
					t.Fatalf("%d queued of %d, %d and %d running of %d", queued, kept, tab.running, busy, len(running))
				}
			},
		})
	})
}

package cluster

import (
	"strings"
	"testing"
	"testing/quick"
	"time"
)

// seen is a view with a clock that the test moves.
type seen struct {
	*view
	t   *testing.T
	now time.Time
}

func look(t *testing.T) *seen {
	return &seen{view: newView(beat{ID: "self", Process: "p", Key: "k", Willing: true}), t: t, now: time.Now()}
}

// pass lets time pass, looking as often as Run does, and returns what was found.
func (s *seen) pass(d time.Duration) string {
	var kinds []string
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(lookEvery)
		for _, n := range s.look(s.now) {
			kinds = append(kinds, n.kind+" "+n.peer.ID)
		}
	}
	return strings.Join(kinds, ", ")
}

// hears reports what comes of a beat.
func (s *seen) hears(b beat) string {
	var kinds []string
	for _, n := range s.hear(s.now, b) {
		kinds = append(kinds, n.kind)
	}
	return strings.Join(kinds, ", ")
}

func (s *seen) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func (s *seen) wantSettled(what string, want bool) {
	s.t.Helper()
	if got := s.settled(s.now); got != want {
		s.t.Errorf("%s: settled is %t", what, got)
	}
}

func (s *seen) owners() string {
	var all []string
	for _, p := range s.snapshot().willing {
		all = append(all, p.id)
	}
	return strings.Join(all, " ")
}

func other(id string) beat { return beat{ID: id, Process: id + "1", Key: "k", Willing: true} }

func TestViewLife(t *testing.T) {
	s := look(t)
	s.want("first beat", s.hears(other("a")), joined)
	s.wantSettled("a join waits for more", false)
	s.want("nobody dies", s.pass(settle), "")
	s.wantSettled("the join", true)
	s.wantSettled("the join, again", false)
	s.want("next beat", s.hears(other("a")), "")
	s.want("not dead yet", s.pass(deadAfter-lookEvery), "")
	s.want("death", s.pass(lookEvery), "died a")
	s.wantSettled("a death waits for more", false)
	s.want("owners without it", s.owners(), "self")
	s.pass(settle)
	s.wantSettled("the death", true)
	s.want("back", s.hears(other("a")), joined)
}

func TestViewCleanChangesWaitForNobody(t *testing.T) {
	s := look(t)
	s.hears(other("a"))
	s.pass(settle)
	s.settled(s.now)
	draining := other("a")
	draining.Draining = true
	s.want("drain", s.hears(draining), turned)
	s.wantSettled("drain", true)
	s.want("owners", s.owners(), "self")
	s.want("drained back", s.hears(other("a")), turned)
	s.wantSettled("undrain", true)
	unwilling := other("a")
	unwilling.Willing = false
	s.want("unwilling", s.hears(unwilling), turned)
	s.want("owners", s.owners(), "self")
	if n := len(s.snapshot().live); n != 2 {
		t.Errorf("%d alive", n)
	}
	bye := other("a")
	bye.Bye = true
	s.want("good-bye", s.hears(bye), left)
	s.wantSettled("good-bye", true)
	s.want("good-bye, again", s.hears(bye), "")
	s.want("no death follows", s.pass(2*deadAfter), "")
}

func TestViewDeathsAreTakenTogether(t *testing.T) {
	s := look(t)
	s.hears(other("a"))
	s.pass(beatEvery / 2)
	s.hears(other("b"))
	s.pass(settle)
	s.settled(s.now)
	s.want("one", s.pass(deadAfter-settle-beatEvery/2), "died a")
	s.wantSettled("one", false)
	s.want("two", s.pass(beatEvery/2), "died b")
	s.wantSettled("two", false)
	s.pass(settle / 2)
	s.wantSettled("both", true)
	s.pass(deadAfter)
	s.wantSettled("nothing more", false)
}

// TestViewRestart: the same node is another process; what is left of the former one changes nothing.
func TestViewRestart(t *testing.T) {
	s := look(t)
	old, young := other("a"), other("a")
	young.Process = "a2"
	joining := young
	joining.Joining = true
	s.hears(old)
	s.want("it asks who is there", s.hears(joining), "")
	s.want("new process", s.hears(young), restarted)
	s.wantSettled("restart", true)
	bye := old
	bye.Bye = true
	s.want("old beat", s.hears(old), "")
	s.want("old good-bye", s.hears(bye), "")
	if m := s.members(s.now); len(m) != 2 || m[1].Process+m[0].Process != "pa2" && m[0].Process+m[1].Process != "pa2" {
		t.Errorf("%+v", m)
	}
	s.want("both are silent", s.pass(deadAfter), "died a")
	s.want("a process that comes back after its death", s.hears(old), joined)
}

func TestViewIgnoresStrangers(t *testing.T) {
	s := look(t)
	foreign, twin := other("a"), other("self")
	foreign.Key = "other"
	s.want("other key", s.hears(foreign), OtherKey)
	s.want("once", s.hears(foreign), "")
	s.want("same id", s.hears(twin), SameID)
	s.want("owners", s.owners(), "self")
	if n := len(s.strangers); n != 2 || len(s.members(s.now)) != 1 {
		t.Errorf("%d strangers, %d members", n, len(s.members(s.now)))
	}
	s.want("no death is told", s.pass(deadAfter), "")
	if len(s.strangers) != 0 {
		t.Error("a silent stranger stays")
	}
	s.want("it is told anew", s.hears(foreign), OtherKey)
	for i := range 2 * maxPeers {
		b := other(strings.Repeat("x", i+1))
		s.hears(b)
		b.Key = "other"
		s.hears(b)
	}
	if len(s.strangers) > maxPeers || len(s.peers) > maxPeers {
		t.Error("no bound")
	}
}

// TestViewStopped: this process was stopped for a minute. It was not the others who were silent.
func TestViewStopped(t *testing.T) {
	s := look(t)
	s.hears(other("a"))
	s.pass(beatEvery)
	s.now = s.now.Add(time.Minute)
	s.want("the first look after that", s.pass(lookEvery), "")
	s.want("it is silent indeed", s.pass(deadAfter), "died a")
}

// TestViewHoldsAnything: whatever is heard, in any order, this node is in its own view and keys have owners.
func TestViewHoldsAnything(t *testing.T) {
	check := func(beats []beat, pauses []uint16) bool {
		s := look(t)
		for i, b := range beats {
			s.hear(s.now, b)
			if i < len(pauses) {
				s.pass(time.Duration(pauses[i]) * time.Millisecond / 8)
			}
			if owner(s.snapshot().willing, "key") == "" || len(s.members(s.now)) != len(s.peers)+1 {
				return false
			}
		}
		s.pass(deadAfter + lookEvery)
		return s.owners() == "self" && len(s.strangers) == 0
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

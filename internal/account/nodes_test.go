package account

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

// startNATS starts the server that several nodes share.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the bus does not start")
	}
	return "nats://" + s.Addr().String()
}

// node opens one more node of a service on its database. leave ends it.
func (s *Service) node(t *testing.T, busURL, name string) (n *Service, leave func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := bus.Open(t.Context(), bus.Options{URL: busURL, Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	m, err := bus.OpenMemory(t.Context(), bus.MemoryOptions{Bus: b, Name: "credentials", Node: name, Log: log, Metrics: prometheus.NewRegistry(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	leave = func() {
		m.Close()
		if err := b.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	c := s.Config
	c.Store, c.Memory = StoreMemory, m
	return New(c), leave
}

// TestNodes: what one node learns, all know at once; what it forgets, none knows; and who comes later is told.
func TestNodes(t *testing.T) {
	t.Parallel()
	s := newService(t, testpeer.SQLiteURL(t), nil)
	addHost(t, s, accepting(t))
	alice := addUser(t, s, "alice", "dove")
	url := startNATS(t)
	one, leaveOne := s.node(t, url, "one")
	two, leaveTwo := s.node(t, url, "two")
	told := make(chan tenant.UserID, 10)
	two.WhenKept(func(id tenant.UserID) { told <- id })
	knows := func(n *Service, want Password) {
		t.Helper()
		select {
		case id := <-told:
			if id != alice.ID {
				t.Errorf("told of %s", id)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("not told")
		}
		n.mustKeep(t, alice, want)
	}
	sess, _, err := one.SignIn(t.Context(), request("alice", "old"))
	if err != nil {
		t.Fatal(err)
	}
	knows(two, "old")
	if _, _, err := one.SignIn(t.Context(), request("alice", "changed at the mail server")); err != nil {
		t.Fatal(err)
	}
	knows(two, "changed at the mail server")
	leaveOne()
	three, leaveThree := s.node(t, url, "three")
	three.mustKeep(t, alice, "changed at the mail server")

	sessions, err := two.Sessions(t.Context(), alice.ID)
	if err != nil || len(sessions) != 2 || sessions[0].ID != sess.ID && sessions[1].ID != sess.ID {
		t.Fatalf("%+v, %v", sessions, err)
	}
	for _, sess := range sessions {
		if _, _, err := two.Revoke(t.Context(), alice.ID, sess.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.ForgetCredential(t.Context(), alice.ID); err != nil {
		t.Fatal(err)
	}
	two.mustHaveNone(t, alice)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, err := three.secret(t.Context(), passwords, alice.ID); errors.Is(err, ErrNoCredential) {
			break
		} else if err != nil || time.Now().After(deadline) {
			t.Fatal("another node still has it", err)
		}
	}
	leaveTwo()
	if _, _, err := three.SignIn(t.Context(), request("alice", "again")); err != nil {
		t.Fatal(err)
	}
	leaveThree()
	four, leaveFour := s.node(t, url, "four")
	four.mustHaveNone(t, alice) // the last one has taken it along
	leaveFour()
}

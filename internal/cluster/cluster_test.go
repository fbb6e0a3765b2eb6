package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/bus"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// startNATS starts a server that several nodes share.
func startNATS(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return "nats://" + s.Addr().String()
}

// node is a member, with what it said.
type node struct {
	*Cluster
	t    *testing.T
	bus  *bus.Bus
	reg  *prometheus.Registry
	log  *logBuffer
	stop func() // cleanly; waits
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// try opens a bus, joins and runs. A nil change leaves the Config as it is.
func try(t *testing.T, url, id string, change func(*Config)) (*node, error) {
	t.Helper()
	n := &node{t: t, reg: prometheus.NewRegistry(), log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(n.log, nil))
	var err error
	if n.bus, err = bus.Open(t.Context(), bus.Options{URL: url, Log: log, Metrics: n.reg}); err != nil {
		t.Fatal(err)
	}
	closing := context.WithoutCancel(t.Context())
	closeBus := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(closing, patience)
		defer cancel()
		if err := n.bus.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(closeBus)
	c := Config{Bus: n.bus, ID: id, Name: "name of " + id, Willing: true, KeyCheck: "key", Log: log, Metrics: n.reg}
	if change != nil {
		change(&c)
	}
	if n.Cluster, err = Join(t.Context(), c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closeBus()
	})
	t.Cleanup(n.stop)
	return n, nil
}

func join(t *testing.T, url, id string) *node {
	t.Helper()
	n, err := try(t, url, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// owners lists, in the view of n, who owns how many of 1000 keys; 0 is not listed.
func (n *node) owners() map[string]int {
	all := map[string]int{}
	for _, u := range users(1000) {
		id, ok := n.Owner(u)
		if !ok {
			id = "nobody"
		}
		all[id]++
	}
	return all
}

// eventuallyOwn waits until all nodes see exactly these as owners.
func eventuallyOwn(t *testing.T, nodes []*node, within time.Duration, want ...string) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok := true
		for _, n := range nodes {
			got := n.owners()
			ok = ok && len(got) == len(want)
			for _, id := range want {
				ok = ok && got[id] > 0
			}
		}
		if ok {
			return
		}
		if time.Since(start) > within {
			for _, n := range nodes {
				t.Errorf("%s sees %v", n.Self(), n.owners())
			}
			t.Fatalf("not within %s: the owners are %v", within, want)
		}
		<-tick.C
	}
}

func TestAlone(t *testing.T) {
	t.Parallel()
	start := time.Now()
	n := join(t, "", "a")
	if d := time.Since(start); d > joinWait {
		t.Errorf("waited %s for nobody", d)
	}
	<-n.Watch()
	if id, ok := n.Owner("3@1"); !ok || id != "a" || n.OwnerAny("3@1") != "a" {
		t.Errorf("owner %s", id)
	}
	if m := n.Members(); len(m) != 1 || !m[0].Self || m[0].Name != "name of a" || m[0].Since.IsZero() {
		t.Errorf("%+v", m)
	}
	n.Drain()
	<-n.Watch()
	if id, ok := n.Owner("3@1"); ok || n.OwnerAny("3@1") != "a" {
		t.Errorf("owner while draining: %s", id)
	}
	n.Undrain()
	<-n.Watch()
	if _, ok := n.Owner("3@1"); !ok {
		t.Error("no owner")
	}
	n.stop()
	<-n.Watch()
	if m := n.Members(); len(m) != 0 {
		t.Errorf("after Run: %+v", m)
	}
}

// TestThree: all see the same, one drains, one leaves, one falls silent, one comes back.
func TestThree(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	a, b := join(t, url, "a"), join(t, url, "b")
	if got := b.owners(); len(got) != 2 {
		t.Errorf("when Join returns, b sees %v", got)
	}
	c := join(t, url, "c")
	all := []*node{a, b, c}
	eventuallyOwn(t, all, patience, "a", "b", "c")
	for _, u := range users(1000) {
		ao, _ := a.Owner(u)
		bo, _ := b.Owner(u)
		co, _ := c.Owner(u)
		if ao != bo || bo != co {
			t.Fatalf("%s: %s, %s, %s", u, ao, bo, co)
		}
	}
	if m := b.Members(); len(m) != 3 || m[0].ID != "a" || m[0].Silent > deadAfter || !m[1].Self {
		t.Errorf("%+v", m)
	}

	b.Drain()
	eventuallyOwn(t, all, settle, "a", "c")
	if m := a.Members(); len(m) != 3 || !m[1].Draining {
		t.Errorf("%+v", m)
	}
	b.Undrain()
	eventuallyOwn(t, all, settle, "a", "b", "c")

	c.stop()
	eventuallyOwn(t, all[:2], settle, "a", "b")

	if err := b.bus.Close(t.Context()); err != nil { // b runs, but nobody hears it
		t.Fatal(err)
	}
	fell := time.Now()
	eventuallyOwn(t, all[:1], deadAfter+2*settle, "a")
	if d := time.Since(fell); d < deadAfter-beatEvery-settle {
		t.Errorf("a silent node was dead after %s", d)
	}
	eventuallyOwn(t, all[1:2], deadAfter+2*settle, "b")

	again := join(t, url, "b")
	eventuallyOwn(t, []*node{a, again}, patience, "a", "b")
	if !strings.Contains(a.log.String(), "change="+died) || !strings.Contains(a.log.String(), "change="+left) {
		t.Errorf("log: %s", a.log)
	}
}

func TestUnwilling(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	a := join(t, url, "a")
	b, err := try(t, url, "b", func(c *Config) { c.Willing = false })
	if err != nil {
		t.Fatal(err)
	}
	eventuallyOwn(t, []*node{a, b}, patience, "a")
	own := 0
	for _, u := range users(100) {
		if b.OwnerAny(u) == "b" {
			own++
		}
	}
	if own == 0 {
		t.Error("OwnerAny knows the willing only")
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	a := join(t, url, "a")
	for _, tc := range []struct {
		id, key string
		want    error
		says    string
	}{
		{"b", "other", ErrKeyDiffers, "credentials.passphrase"},
		{"a", "key", ErrIDTaken, "node-id"},
	} {
		_, err := try(t, url, tc.id, func(c *Config) { c.KeyCheck = tc.key })
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "name of a") {
			t.Errorf("%s: %v", tc.id, err)
		}
	}
	if m := a.Members(); len(m) != 1 {
		t.Errorf("%+v", m)
	}
	if l := a.log.String(); strings.Count(l, "node ignored") != 2 {
		t.Errorf("log: %s", l)
	}
}

// TestRefusedTogether: of two that start at the same time and cannot be together, one runs.
func TestRefusedTogether(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() { _, errs[i] = try(t, url, "same", nil) })
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		if errors.Is(err, ErrIDTaken) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if refused != 2 {
		t.Errorf("%d of 3 refused: %v", refused, errs)
	}
}

// TestRestart: a node whose process was killed can be back before anybody has noticed.
func TestRestart(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	a, b := join(t, url, "a"), join(t, url, "b")
	eventuallyOwn(t, []*node{a, b}, patience, "a", "b")
	if err := b.bus.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := join(t, url, "b")
	for tick := time.NewTicker(5 * time.Millisecond); !strings.Contains(a.log.String(), "change="+restarted); <-tick.C {
		if strings.Contains(a.log.String(), "change="+died) {
			t.Fatalf("log: %s", a.log)
		}
	}
	eventuallyOwn(t, []*node{a, again}, 0, "a", "b")
}

// TestJunk: what cannot be read changes nothing.
func TestJunk(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	a, b := join(t, url, "a"), join(t, url, "b")
	for i := range 100 {
		if err := b.bus.Publish(subject, fmt.Appendf(nil, "%d junk", i)); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyOwn(t, []*node{a, b}, patience, "a", "b")
	if m := a.Members(); len(m) != 2 {
		t.Errorf("%+v", m)
	}
}

func TestJoinEnds(t *testing.T) {
	t.Parallel()
	url := startNATS(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	b, err := bus.Open(t.Context(), bus.Options{URL: url, Log: log, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close(context.WithoutCancel(t.Context())) }()
	if _, err := Join(ctx, Config{Bus: b, ID: "a", Log: log, Metrics: reg}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := Join(t.Context(), Config{Bus: b, Log: log, Metrics: prometheus.NewRegistry()}); err == nil {
		t.Error("joined without an id")
	}
}

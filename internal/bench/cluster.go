package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// ownedWithin is when every user must have an owner again.
const ownedWithin = 10 * time.Second

// cluster runs three servers, has a fourth join, and kills two of them.
func (r *runner) cluster(ctx context.Context) (err error) {
	users, remembered := pick(r, 1000, 200), pick(r, 1000, 100)
	m, err := r.imapServer(ctx, mailserverConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.kill()) }()
	f, err := r.newFleet(ctx, fleetConfig{
		Nodes: 4, Users: users, Host: seedHost{Source: "dovecot", DoveadmKey: doveadmKey}, Extra: clusterSettings,
		More: []seedGroup{{Host: seedHost{Name: "held", Port: m.port(), Source: "idle"}, Users: remembered, Listen: true}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	start := time.Now()
	if err := f.start(ctx, f.nodes[:3]...); err != nil {
		return err
	}
	if err := f.signIn(ctx, users, remembered); err != nil {
		return err
	}
	v, err := f.settled(ctx, 5*time.Minute, users+remembered, listeningStates...)
	if err != nil {
		return err
	}
	r.say("cluster: three nodes listen to %d users after %.0f s: %v", users+remembered, time.Since(start).Seconds(), v.share)
	if r.wants("spread") {
		most := 0
		for _, n := range v.share {
			most = max(most, n)
		}
		r.put("spread.max_over_mean", "times", float64(most)*3/float64(users+remembered))
	}
	if r.wants("join") {
		if err := f.join(ctx, v); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	if r.wants("failover") {
		return f.failover(ctx, users, remembered)
	}
	return nil
}

// signIn signs in users over the API, at one node after the other: that is how passwords come into the
// memory of the cluster.
func (f *fleet) signIn(ctx context.Context, from, n int) error {
	const atOnce = 8
	errs := make([]error, atOnce)
	var all sync.WaitGroup
	for w := range atOnce {
		all.Go(func() {
			for i := from + w; i < from+n && errs[w] == nil; i += atOnce {
				errs[w] = f.nodes[i%3].signIn(ctx, login(i))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func (n *node) signIn(ctx context.Context, login string) error {
	body, err := json.Marshal(map[string]string{"login": login, "password": userPassword, "client": "bench"})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address(n.public)+"/api/v1/sessions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if raw, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusCreated {
		return errors.Join(err, fmt.Errorf("sign in %s: %s: %s", login, res.Status, raw))
	}
	return nil
}

// mail is a message that nothing else depends on.
func mail(subject string) []byte {
	return []byte("From: Erika Mustermann <erika.mustermann@example.org>\r\nTo: <somebody@bench.example>\r\nSubject: " + subject +
		"\r\nMessage-ID: <" + strconv.FormatInt(time.Now().UnixNano(), 36) + "@bench.example>\r\n\r\nDear all, please find the minutes below.\r\n")
}

// join starts a fourth node while mails come in, from before until its share stands, each for another user:
// so each must become one push.
func (f *fleet) join(ctx context.Context, before view) error {
	if err := f.apns.reset(ctx); err != nil {
		return err
	}
	var after view
	joined := make(chan error, 1)
	go func() {
		var err error
		if pause(ctx, time.Second) {
			err = f.start(ctx, f.nodes[3])
		}
		if err == nil {
			after, err = f.stands(ctx, len(before.owner))
		}
		joined <- err
	}()
	var all sync.WaitGroup
	var broken atomic.Pointer[error]
	var err error
	count, done := 0, false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for _, user := range rand.Perm(f.users) { //nolint:gosec // no secret
		select {
		case err = <-joined:
			done = true
		case <-tick.C:
		}
		if done && count >= f.users/4 {
			break
		}
		count++
		all.Go(func() {
			if err := f.dovecot.deliver(ctx, []string{login(user)}, mail("join")); err != nil {
				broken.Store(&err)
			}
		})
	}
	if !done { // every user has one
		err = <-joined
	}
	all.Wait()
	if failed := broken.Load(); failed != nil {
		err = errors.Join(err, fmt.Errorf("deliver: %w", *failed))
	}
	if err != nil {
		return err
	}
	moved := 0
	for user, owner := range before.owner {
		if after.owner[user] != owner {
			moved++
		}
	}
	s, err := f.pushed(ctx, count, 1, 15*time.Second)
	if err != nil {
		return err
	}
	f.r.say("join: %d users moved to have %v, %d sends for %d mails", moved, after.share, s.Sends, count)
	f.r.put("join.moved_pct", "%", 100*float64(moved)/float64(len(before.owner)))
	f.r.put("join.mails", "mails", float64(count))
	f.r.put("join.lost", "pushes", float64(count-s.Newest))
	f.r.put("join.doubled", "pushes", float64(s.Sends-s.Devices))
	return nil
}

// stands waits until the fourth node has a share and nobody's owner changed for a while.
func (f *fleet) stands(ctx context.Context, users int) (v view, err error) {
	const still = 3 * time.Second
	changed := time.Now()
	err = seldom(ctx, time.Minute, lookEvery, "the fourth node's share stands", func() (bool, error) {
		next, err := f.view(ctx, f.nodes[0])
		if !maps.Equal(next.owner, v.owner) {
			v, changed = next, time.Now()
		}
		return v.share[f.nodes[3].name] > 0 && len(v.owner) >= users && time.Since(changed) >= still, err
	})
	if err != nil {
		err = fmt.Errorf("%w: owners %v", err, v.share)
	}
	return v, err
}

// pushed waits until so many devices have the state of this uid, or the limit, and then for what nobody
// should send any more.
func (f *fleet) pushed(ctx context.Context, devices, uid int, limit time.Duration) (s providerStats, err error) {
	query := fmt.Sprintf("newest=%d", uid)
	for end := time.Now().Add(limit); time.Now().Before(end) && s.Newest < devices && err == nil; {
		pause(ctx, 50*time.Millisecond)
		s, err = f.apns.stats(ctx, query)
	}
	if err != nil {
		return s, err
	}
	pause(ctx, lateness)
	return f.apns.stats(ctx, query)
}

// lateness is how long after everything has arrived a second notification is waited for.
const lateness = 4 * time.Second

// failover kills one of three nodes, then one of the two that are left.
func (f *fleet) failover(ctx context.Context, users, remembered int) error {
	all := users + remembered
	if f.nodes[3].serve != nil {
		if err := f.nodes[3].stop(); err != nil {
			return fmt.Errorf("stop the fourth node: %w", err)
		}
		if _, err := f.settled(ctx, time.Minute, all, listeningStates...); err != nil {
			return err
		}
	}
	var seconds []float64
	unowned, unregistered := 0, 0
	for _, victim := range []int{2, 1} {
		s, without, missing, err := f.killed(ctx, victim, all)
		if err != nil {
			return fmt.Errorf("node %d killed: %w", victim+1, err)
		}
		seconds = append(seconds, s)
		unowned, unregistered = max(unowned, without), max(unregistered, missing)
		f.r.say("failover: %d nodes left, everybody has an owner after %.1f s", victim, s)
		if _, err := f.settled(ctx, time.Minute, all, listeningStates...); err != nil {
			f.r.say("failover: %v", err) // the lines say how bad it is
		}
	}
	v, err := f.view(ctx, f.nodes[0])
	if err != nil {
		return err
	}
	lost := 0
	for i := users; i < all; i++ {
		if v.in[login(i)] != stateListening {
			lost++
		}
	}
	f.r.put("failover.seconds_3", "s", seconds[0])
	f.r.put("failover.seconds_2", "s", seconds[1])
	f.r.put("failover.unowned", "users", float64(unowned))
	f.r.put("failover.unregistered", "users", float64(unregistered))
	f.r.put("failover.memory_lost", "users", float64(lost))
	return nil
}

// killed kills a node and looks until every user has an owner that lives. It returns how long that took,
// how many had none after ownedWithin, and how many had no entry at Dovecot at any look.
func (f *fleet) killed(ctx context.Context, victim, users int) (seconds float64, unowned, unregistered int, err error) {
	start := time.Now()
	if err := f.nodes[victim].down(); err != nil {
		return 0, 0, 0, err
	}
	looked := make(chan error, 1)
	go func() {
		pause(ctx, time.Second) // while they have none
		n, err := f.dovecot.unregistered(ctx, f.users)
		unregistered = n
		looked <- err
	}()
	judged := false
	for seconds < 6*ownedWithin.Seconds() {
		v, err := f.view(ctx, f.nodes[0])
		if err != nil {
			return 0, 0, 0, errors.Join(err, <-looked)
		}
		now := time.Since(start)
		if seconds = now.Seconds(); len(v.owner) >= users {
			break
		}
		if !judged && now >= ownedWithin {
			judged, unowned = true, users-len(v.owner)
		}
		pause(ctx, 100*time.Millisecond)
	}
	if err := <-looked; err != nil {
		return 0, 0, 0, err
	}
	after, err := f.dovecot.unregistered(ctx, f.users)
	return seconds, unowned, max(unregistered, after), err
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// notify measures what a notification costs from PUT to commit while nothing can be sent, beside its two
// baselines; then it lets the backlog go, which gives push.cpu_us.
func (r *runner) notify(ctx context.Context) error {
	var ours, commits, bare, rates, sends []float64
	measure := pick(r, 6*time.Second, 2*time.Second)
	for n := range r.repeats() {
		cpu, rate, send, err := r.notifyOnce(ctx, measure)
		if err != nil {
			return err
		}
		commit, err := r.handlerOnce(ctx, filepath.Join(r.dir, fmt.Sprintf("baseline-%d.db", n)), measure)
		if err != nil {
			return err
		}
		handler, err := r.handlerOnce(ctx, "", measure)
		if err != nil {
			return err
		}
		ours, commits, bare = append(ours, cpu), append(commits, commit), append(bare, handler)
		rates, sends = append(rates, rate), append(sends, send)
		r.say("notify: %.0f us, committing handler %.0f us, bare handler %.0f us, send %.0f us", cpu, commit, handler, send)
	}
	r.put("notify.cpu_us", "us", ours...)
	r.put("notify.baseline_commit_cpu_us", "us", commits...)
	r.put("notify.baseline_handler_cpu_us", "us", bare...)
	r.put("notify.rate", "1/s", rates...)
	r.put("push.cpu_us", "us", sends...)
	return nil
}

// users is how many devices the lines have that do not say it.
const users = 10_000

func (r *runner) notifyOnce(ctx context.Context, measure time.Duration) (cpu, rate, send float64, err error) {
	g, err := r.newRig(ctx, rigConfig{APNs: users})
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return 0, 0, 0, err
	}
	// The provider takes requests and does not answer: soon every permit of the lane is out, and it rests.
	if err := g.apns.mode(ctx, modeStall, 0); err != nil {
		return 0, 0, 0, err
	}
	if _, err := g.load(ctx, loadConfig{Users: users, FirstUID: 1, Events: users}); err != nil {
		return 0, 0, 0, err
	}
	cpu, rate, err = r.loaded(ctx, g.serve, g.notify, measure)
	if err != nil {
		return 0, 0, 0, err
	}
	waiting, err := g.dirty(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	before, err := g.serve.cpu()
	if err == nil {
		err = g.apns.mode(ctx, modeOK, 0)
	}
	if err == nil {
		err = g.drained(ctx, time.Minute)
	}
	if err != nil {
		return 0, 0, 0, err
	}
	after, err := g.serve.cpu()
	return cpu, rate, micros(after-before) / waiting, err
}

// loaded is the CPU that a process takes for one notification, and how many it takes a second.
func (r *runner) loaded(ctx context.Context, p *process, address string, measure time.Duration) (cpu, rate float64, err error) {
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	var res loadResult
	c := loadConfig{URL: address, Connections: connections, Users: users, FirstUID: 2, Time: measure}
	if err := r.run(ctx, "load", c, &res); err != nil {
		return 0, 0, err
	}
	if res.Failed > 0 || res.Retried > 0 || res.Done == 0 {
		return 0, 0, fmt.Errorf("of %d notifications %d failed and %d were sent away: %s", res.Done, res.Failed, res.Retried, res.Problem)
	}
	after, err := p.cpu()
	return micros(after-before) / float64(res.Done), float64(res.Done) / res.Seconds, err
}

// handlerOnce measures a baseline in the same way.
func (r *runner) handlerOnce(ctx context.Context, database string, measure time.Duration) (cpu float64, err error) {
	var ready handlerReady
	p, err := r.child(ctx, "handler", handlerConfig{database}, &ready)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.kill()) }()
	if _, _, err := r.loaded(ctx, p, ready.URL, measure/4); err != nil { // so that every row is there
		return 0, err
	}
	cpu, _, err = r.loaded(ctx, p, ready.URL, measure)
	return cpu, err
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// latency measures from the moment before the PUT is written to the arrival of the notification at the
// provider, at 1,000 events a second, each for another device: nothing of it is coalescing.
func (r *runner) latency(ctx context.Context) (err error) {
	const rate = 1000
	seconds := pick(r, 10, 3)
	var p50, p99, disk []float64
	g, err := r.newRig(ctx, rigConfig{APNs: rate * seconds * r.repeats()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return err
	}
	for n := range r.repeats() {
		fsync := fsyncConfig{File: filepath.Join(g.dir, "fsync"), Count: pick(r, 1000, 200)}
		var before, after fsyncResult
		if err := r.run(ctx, "fsync", fsync, &before); err != nil {
			return err
		}
		c := loadConfig{First: n * rate * seconds, Users: rate * seconds, FirstUID: 1, Events: rate * seconds, Rate: rate, Stamp: true}
		ms, err := g.stamped(ctx, c)
		if err != nil {
			return err
		}
		if err := r.run(ctx, "fsync", fsync, &after); err != nil {
			return err
		}
		p50, p99 = append(p50, percentile(ms, .5)), append(p99, percentile(ms, .99))
		disk = append(disk, max(percentile(before.MS, .99), percentile(after.MS, .99)))
		r.say("latency: p50 %.2f ms, p99 %.2f ms, fsync p99 %.2f ms before and %.2f ms after", percentile(ms, .5), percentile(ms, .99),
			percentile(before.MS, .99), percentile(after.MS, .99))
	}
	r.put("latency.accept_to_write_p99_ms", "ms", p99...)
	r.put("latency.accept_to_write_p50_ms", "ms", p50...)
	r.put("latency.baseline_fsync_p99_ms", "ms", disk...)
	return nil
}

// stamped sends events with the time in them and returns how long each took to the Apple fake, sorted.
func (g *rig) stamped(ctx context.Context, c loadConfig) ([]float64, error) {
	if err := g.apns.reset(ctx); err != nil {
		return nil, err
	}
	res, err := g.load(ctx, c)
	if err != nil {
		return nil, err
	}
	want := 0
	err = until(ctx, 30*time.Second, "every stamped event arrived", func() (bool, error) {
		s, err := g.apns.stats(ctx, "")
		want = s.Sends
		return err == nil && s.Sends >= res.Done, err
	})
	if err != nil {
		return nil, fmt.Errorf("%w (%d of %d)", err, want, res.Done)
	}
	s, err := g.apns.stats(ctx, "latency=1")
	return s.LatencyMS, err
}

// isolation compares the latency at one provider while the other answers (A) and while it hangs (B), in
// turns. Both get 1,000 and 100 events a second all the time.
func (r *runner) isolation(ctx context.Context) (err error) {
	const rate, other = 1000, 100
	seconds := pick(r, 6, 2)
	perRun := rate * seconds
	apple, android := perRun*2*r.repeats(), other*seconds*2*r.repeats()
	g, err := r.newRig(ctx, rigConfig{APNs: apple, FCM: android})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return err
	}
	run := 0
	once := func(mode string) (float64, error) {
		if err := g.fcm.mode(ctx, mode, 0); err != nil {
			return 0, err
		}
		if err := g.drained(ctx, time.Minute); err != nil { // what hung before is not to be in this turn
			return 0, err
		}
		beside := make(chan error, 1)
		go func() {
			_, err := g.load(ctx, loadConfig{First: apple + run*other*seconds, Users: other * seconds, FirstUID: 1, Events: other * seconds, Rate: other})
			beside <- err
		}()
		ms, err := g.stamped(ctx, loadConfig{First: run * perRun, Users: perRun, FirstUID: 1, Events: perRun, Rate: rate, Stamp: true})
		err = errors.Join(err, <-beside)
		run++
		return percentile(ms, .99), err
	}
	var a, b, change []float64
	for range r.repeats() {
		good, err := once(modeOK)
		if err != nil {
			return err
		}
		bad, err := once(modeStall)
		if err != nil {
			return err
		}
		pct := 0.0
		if bad-good >= 3 || good-bad >= 3 { // the kernel's scheduler alone makes 3 ms
			pct = (bad - good) / good * 100
		}
		a, b, change = append(a, good), append(b, bad), append(change, pct)
		r.say("isolation: p99 %.2f ms, with the other provider hanging %.2f ms", good, bad)
	}
	r.put("isolation.p99_change_pct", "%", change...)
	r.put("isolation.p99_ms", "ms", a...)
	r.put("isolation.p99_hanging_ms", "ms", b...)
	return nil
}

// memory is the sender's high-water mark from its start through ingest to drain.
func (r *runner) memory(ctx context.Context) (err error) {
	devices := pick(r, 100_000, 5_000)
	g, err := r.newRig(ctx, rigConfig{APNs: devices})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return err
	}
	start, err := g.serve.peakMB()
	if err == nil {
		err = g.apns.mode(ctx, modeStall, 0)
	}
	if err == nil {
		_, err = g.load(ctx, loadConfig{Users: devices, FirstUID: 1, Events: devices})
	}
	if err != nil {
		return err
	}
	slots, err := g.dirty(ctx)
	if err != nil {
		return err
	}
	full, err := g.serve.peakMB()
	if err != nil {
		return err
	}
	r.say("memory: %.0f MB after the start, %.0f MB with %.0f dirty slots", start, full, slots)
	if err := g.apns.mode(ctx, modeOK, 0); err != nil {
		return err
	}
	if err := g.drained(ctx, 5*time.Minute); err != nil {
		return err
	}
	peak, err := g.serve.peakMB()
	r.put("memory.rss_mb", "MB", peak)
	r.put("memory.devices", "devices", float64(devices))
	r.put("memory.slots", "slots", slots)
	return err
}

// crash kills the sender when half of a backlog has arrived, starts it again, and asks the provider what
// every device has in the end.
func (r *runner) crash(ctx context.Context) (err error) {
	const backlog = 4000
	rounds := pick(r, 20, 2)
	g, err := r.newRig(ctx, rigConfig{APNs: backlog})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return err
	}
	lost, worst := 0, 0
	for n := range rounds {
		gone, repeated, err := g.crashRound(ctx, backlog, n+1)
		if err != nil {
			return fmt.Errorf("round %d: %w", n+1, err)
		}
		lost, worst = lost+gone, max(worst, repeated)
		r.say("crash: round %d: %d lost, %d twice", n+1, gone, repeated)
	}
	cfg, _, err := config.Load(g.config, func(string) (string, bool) { return "", false })
	if err != nil {
		return err
	}
	r.put("crash.rounds", "rounds", float64(rounds))
	r.put("crash.lost", "devices", float64(lost))
	r.put("crash.duplicates", "sends", float64(worst))
	r.put("crash.streams", "sends", float64(cfg.Push.MaxInFlight))
	return nil
}

func (g *rig) crashRound(ctx context.Context, backlog, uid int) (lost, repeated int, err error) {
	if err := g.apns.reset(ctx); err != nil {
		return 0, 0, err
	}
	if err := g.apns.mode(ctx, modeStall, 0); err != nil {
		return 0, 0, err
	}
	if _, err := g.load(ctx, loadConfig{Users: backlog, FirstUID: uid, Events: backlog}); err != nil {
		return 0, 0, err
	}
	if err := g.apns.mode(ctx, modeOK, 20*time.Millisecond); err != nil {
		return 0, 0, err
	}
	err = until(ctx, time.Minute, "half of the backlog arrived", func() (bool, error) {
		s, err := g.apns.stats(ctx, "")
		return s.Sends >= backlog/2, err
	})
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(g.down(), g.up(ctx)); err != nil {
		return 0, 0, err
	}
	// Not by the gauge alone: a sender that has just started has not read its table yet.
	var s providerStats
	began := time.Now()
	err = until(ctx, 2*time.Minute, "the backlog is sent", func() (bool, error) {
		if s, err = g.apns.stats(ctx, fmt.Sprintf("newest=%d", uid)); err != nil {
			return false, err
		}
		waiting, err := g.dirty(ctx)
		return waiting == 0 && (s.Newest == backlog || time.Since(began) > time.Minute), err
	})
	return backlog - s.Newest, s.Repeated, err
}

// outage sends events for a hundred times fewer devices while nobody listens at the provider's address.
func (r *runner) outage(ctx context.Context) (err error) {
	events, devices := pick(r, 1_000_000, 20_000), pick(r, 10_000, 1_000)
	g, err := r.newRig(ctx, rigConfig{APNs: devices})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := g.up(ctx); err != nil {
		return err
	}
	if err := g.apns.mode(ctx, modeDown, 0); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	most := make(chan float64, 1)
	go func() { most <- g.mostDirty(watching) }()
	res, err := g.load(ctx, loadConfig{Users: devices, FirstUID: 1, Events: events})
	stop()
	slots := <-most
	if err != nil {
		return err
	}
	r.say("outage: %d events accepted in %.0f s", res.Done, res.Seconds)
	if err := g.apns.reset(ctx); err != nil {
		return err
	}
	begin := time.Now()
	if err := g.apns.mode(ctx, modeOK, 0); err != nil {
		return err
	}
	if err := g.drained(ctx, 15*time.Minute); err != nil {
		return err
	}
	recovery := time.Since(begin).Seconds()
	s, err := g.apns.stats(ctx, fmt.Sprintf("newest=%d", events/devices))
	r.put("outage.events", "events", float64(res.Done))
	r.put("outage.devices", "devices", float64(devices))
	r.put("outage.sends", "sends", float64(s.Sends))
	r.put("outage.slots_max", "slots", slots)
	r.put("outage.lost", "devices", float64(devices-s.Newest))
	r.put("outage.rate", "1/s", float64(res.Done)/res.Seconds)
	r.put("outage.recovery_s", "s", recovery)
	return err
}

// mostDirty is the highest number of dirty slots until ctx ends.
func (g *rig) mostDirty(ctx context.Context) float64 {
	most := 0.0
	for pause(ctx, 500*time.Millisecond) {
		if n, err := g.dirty(ctx); err == nil {
			most = max(most, n)
		}
	}
	return most
}

package apns

import (
	"time"

	"golang.org/x/net/http2"
)

const (
	// sweepEvery is how often deadlines and silence are looked at while requests are under way. So a
	// request may live that much longer than sendTimeout; the caller's own deadline is kept exactly.
	sweepEvery = 500 * time.Millisecond
	// silenceAllowed is how long the peer may send nothing at all while requests are under way before
	// it is pinged, and pongAllowed how long it may then still send nothing before it counts as gone.
	silenceAllowed = 5 * time.Second
	pongAllowed    = 5 * time.Second
	// idlePing is how often an idle connection is pinged: Apple's hint is hourly. Nothing else ends an
	// idle connection: Apple wants them kept, and takes many new ones for an attack.
	idlePing = time.Hour
	// doubtAfter is the idleness after which a connection may have been forgotten by something on the
	// way (a NAT, a firewall), so that its next request is accompanied by a ping.
	doubtAfter = time.Minute
	// lingerAllowed bounds a stream of which everything worth knowing has come.
	lingerAllowed = 5 * time.Second
)

// keep does everything that happens because time passed: deadlines, pings, the next attempt to dial.
// One goroutine serves all connections, and sleeps while there is nothing to wait for.
func (p *pool) keep() {
	timer := time.NewTimer(idlePing)
	defer timer.Stop()
	for {
		timer.Reset(p.sweep(time.Now()))
		select {
		case <-p.ctx.Done():
			return
		case <-p.kick:
		case <-timer.C:
		}
	}
}

// wakeKeeper makes the keeper look again at what it waits for. p.mu is held.
func (p *pool) wakeKeeper() {
	p.asleep, p.wakesAt = false, time.Time{}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// sweep returns how long nothing will be due.
func (p *pool) sweep(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for st := p.queue.first; st != nil; {
		next := st.next
		if now.Sub(st.began) >= sendTimeout {
			p.giveUp(st, errTimeout, true, now)
		}
		st = next
	}
	p.wakesAt = now
	p.want()
	wait := idlePing
	p.asleep = true
	if p.queue.n > 0 {
		p.asleep = false
		wait = sweepEvery
		if until := p.dialAt.Sub(now); !p.dialing && until > 0 {
			wait = min(wait, until)
		}
	}
	for _, c := range p.conns {
		wait = min(wait, c.sweep(now))
		if len(c.streams) > 0 || c.pinged {
			p.asleep = false
		}
	}
	p.wakesAt = now.Add(wait)
	return wait
}

// sweep looks after one connection and returns when to come again.
func (c *conn) sweep(now time.Time) time.Duration {
	for _, st := range c.streams {
		switch {
		case st.state != lingering:
			if now.Sub(st.began) >= sendTimeout {
				c.p.giveUp(st, errTimeout, true, now)
			}
		case st.began.IsZero():
			st.began = now
		case now.Sub(st.began) >= lingerAllowed:
			c.reset(st, http2.ErrCodeCancel, nil)
		}
	}
	c.settle()
	if c.dead {
		return idlePing
	}
	busy := len(c.streams) > 0
	if c.frameCount != c.seenCount { // a sign of life since the last look
		c.seenCount, c.quietSince, c.pinged = c.frameCount, now, false
	}
	quiet := now.Sub(c.quietSince)
	switch {
	case c.pinged && now.Sub(c.pingedAt) >= pongAllowed:
		c.fail(errSilent)
		return idlePing
	case c.pinged:
	case busy && !c.wasBusy && quiet < doubtAfter:
		c.quietSince = now // nobody had to say anything until now
	case busy && quiet >= silenceAllowed, quiet >= idlePing:
		c.ping()
		c.pinged, c.pingedAt = true, now
	}
	c.wasBusy = busy
	if busy || c.pinged {
		return sweepEvery
	}
	return max(sweepEvery, idlePing-quiet)
}

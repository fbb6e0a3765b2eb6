package idle

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// alarms has the time at which each connection is to be woken: one timer for all of them.
type alarms struct {
	kick chan struct{} // there is an earlier one now; capacity 1

	mu    sync.Mutex
	queue queue // guarded by mu, like at and due of its elements
}

// run rings until ctx ends.
func (a *alarms) run(ctx context.Context, now func() time.Time) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.kick:
		case <-timer.C:
		}
		due, next := a.due(now())
		for _, c := range due {
			c.ring()
		}
		timer.Reset(next)
	}
}

// due takes out the connections whose time has come, and tells how long it is to the next.
func (a *alarms) due(now time.Time) (all []*Conn, next time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) > 0 {
		if wait := a.queue[0].due.Sub(now); wait > 0 {
			return all, wait
		}
		all = append(all, heap.Pop(&a.queue).(*Conn))
	}
	return all, time.Hour
}

// set has a connection woken at this time, or earlier if it was to be anyhow.
func (a *alarms) set(c *Conn, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case c.gone:
		return
	case c.at < 0:
		c.due = at
		heap.Push(&a.queue, c)
	case at.Before(c.due):
		c.due = at
		heap.Fix(&a.queue, c.at)
	default:
		return
	}
	if c.at == 0 {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
}

// clear takes a connection out; one that is gone does not come back.
func (a *alarms) clear(c *Conn, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.gone = c.gone || gone
	if c.at >= 0 {
		heap.Remove(&a.queue, c.at)
	}
}

// queue is a heap, the earliest first.
type queue []*Conn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push is for package heap.
func (q *queue) Push(x any) {
	c := x.(*Conn)
	c.at = len(*q)
	*q = append(*q, c)
}

// Pop is for package heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	c.at = -1
	return c
}

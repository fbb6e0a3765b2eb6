package mailnotify

import (
	"context"
	"time"
)

const (
	// maxNames bounds the names that are remembered for the delay after a hint.
	maxNames = 20_000
	// storeRest is how long nothing is looked up after the store failed.
	storeRest = time.Second
)

// collector makes few hints of many datagrams for one user: the first hints at once, those that follow within
// the delay hint once more when it is over. It is for one goroutine.
type collector struct {
	delay time.Duration
	now   func() time.Time
	// hint tells of a name, or says that the store could not find out whose it is.
	hint func(ctx context.Context, name string) error

	names map[string]*name
	queue []*name // all of names, nearly by until: after a failure it may be out of order by storeRest
	rest  time.Time
}

// name is one of which there were datagrams lately.
type name struct {
	name  string
	until time.Time
	again bool // hint once more then
}

// add takes in a datagram. It reports false when there are too many names.
func (c *collector) add(ctx context.Context, user string) bool {
	if n := c.names[user]; n != nil {
		n.again = true
		return true
	}
	if len(c.names) >= maxNames {
		return false
	}
	n := &name{name: user}
	if c.tell(ctx, n); n.again || c.delay > 0 {
		c.names[user] = n
		c.queue = append(c.queue, n)
	}
	return true
}

// tell hints, unless the store rests; what could not be told is told again.
func (c *collector) tell(ctx context.Context, n *name) {
	n.again = c.rest.After(c.now())
	if !n.again && c.hint(ctx, n.name) != nil {
		n.again = true
		c.rest = c.now().Add(storeRest)
	}
	n.until = c.now().Add(c.delay)
	if n.again {
		n.until = c.now().Add(max(c.delay, storeRest))
	}
}

// due does what is due and returns how long until there is more.
func (c *collector) due(ctx context.Context) time.Duration {
	for len(c.queue) > 0 {
		n := c.queue[0]
		if wait := n.until.Sub(c.now()); wait > 0 {
			return wait
		}
		c.queue[0], c.queue = nil, c.queue[1:]
		told := n.again
		if told {
			c.tell(ctx, n)
		}
		if n.again || told && c.delay > 0 {
			c.queue = append(c.queue, n)
		} else {
			delete(c.names, n.name)
		}
	}
	return time.Hour // an arrival comes first
}

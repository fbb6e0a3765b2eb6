package push

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// errSuperseded ends Run.
var errSuperseded = errors.New("another server with this one's node-id uses the database: give each a state directory of its own")

const (
	sqlJoin = `INSERT INTO nodes (id, process, beat) VALUES (?, ?, 0)
		ON CONFLICT (id) DO UPDATE SET process = excluded.process, beat = nodes.beat + 1`
	sqlNodes    = `SELECT id, process, beat FROM nodes`
	sqlBeat     = `UPDATE nodes SET beat = beat + 1 WHERE id = ? AND process = ?`
	sqlLeave    = `DELETE FROM nodes WHERE id = ? AND process = ?`
	sqlDropNode = `DELETE FROM nodes WHERE id = ? AND process = ? AND beat = ?`
	// sqlClaim takes over what nobody sends.
	sqlClaim = `UPDATE slots SET owner = ? WHERE version > sent_version AND owner <> ? AND owner NOT IN (SELECT id FROM nodes)`
)

const (
	// looksPerLease is how often in the time of a lease a node looks at the others, and beats if there are any.
	looksPerLease = 4
	// claimEvery is how often a node looks for slots without an owner when it has no reason to.
	claimEvery = 5 * time.Minute
	// nodesLock keeps nodes from joining while another one claims what those who have not joined left.
	nodesLock = "push/nodes"
)

// lease is this node among those that share the database. A dirty slot has one owner, and only its owner sends
// it. A node owns for as long as its row in nodes lives: each node watches the others' beats and drops the row
// of one that it saw unchanged for the time of a lease, by its own clock. A node that is alone does not beat:
// it begins to when it sees another one, long before that one loses patience.
//
// Only keepLease uses it, but for seen.
type lease struct {
	process string // the row is ours while it says so; a second process with our id takes it from us
	others  map[string]neighbour
	claimed time.Time
	// seen is when we last saw ourselves in the table, in nanoseconds since began.
	began time.Time
	seen  atomic.Int64
}

// neighbour is what was seen of another node.
type neighbour struct {
	process string
	beat    int64
	since   time.Time // when it was seen to be so
}

func newLease(now time.Time) lease {
	return lease{process: rand.Text(), others: map[string]neighbour{}, began: now}
}

// holds reports whether nobody can have taken our slots yet. It stays on the safe side: a flight that has
// begun needs a moment, too.
func (s *Service) holds(now time.Time) bool {
	return now.Sub(s.lease.began)-time.Duration(s.lease.seen.Load()) < s.Lease-s.Lease/looksPerLease
}

// join makes this process its node's, and takes what that and nobody owns. Slots are sent after it only.
func (s *Service) join(ctx context.Context) error {
	now := s.Now()
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Lock(ctx, nodesLock); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlJoin, s.Node, s.lease.process); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sqlClaim, s.Node, s.Node)
		return err
	})
	if err != nil {
		return fmt.Errorf("join the nodes: %w", err)
	}
	s.lease.claimed = now
	s.lease.seen.Store(int64(now.Sub(s.lease.began)))
	return nil
}

// keepLease looks after this node's lease and the others' until ctx ends, or somebody else is this node.
func (s *Service) keepLease(ctx context.Context) error {
	for pause(ctx, s.Lease/looksPerLease) {
		err := s.look(ctx)
		if errors.Is(err, errSuperseded) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.storeFailed(ctx, err)
		}
	}
	return nil
}

// leave gives up the lease, so that others need not wait for its end.
func (s *Service) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlLeave, s.Node, s.lease.process)
		return err
	})
	if err != nil {
		s.Log.DebugContext(ctx, "the lease is left to end by itself", slog.Any("err", err))
	}
}

// look renews the lease and takes over what others have left.
func (s *Service) look(ctx context.Context) error {
	now := s.Now()
	nodes, err := s.nodes(ctx, now)
	if err != nil {
		return fmt.Errorf("look at the nodes: %w", err)
	}
	us, there := nodes[s.Node]
	delete(nodes, s.Node)
	switch {
	case !there: // we were away for so long that others took our slots: each is looked at before it is sent
		if err := s.join(ctx); err != nil {
			return err
		}
	case us.process != s.lease.process:
		return errSuperseded
	case len(nodes) > 0:
		if err := s.beat(ctx); err != nil {
			return err
		}
	}
	s.lease.seen.Store(int64(now.Sub(s.lease.began)))

	dead := map[string]neighbour{}
	claim := now.Sub(s.lease.claimed) >= claimEvery
	for id, n := range nodes {
		if now.Sub(n.since) >= s.Lease {
			dead[id] = n
		}
	}
	for id := range s.lease.others {
		if _, still := nodes[id]; !still {
			claim = true // it has left, or another node has dropped it
		}
	}
	if s.lease.others = nodes; !claim && len(dead) == 0 {
		return nil
	}
	if err := s.takeOver(ctx, dead); err != nil {
		clear(s.lease.others) // watched anew
		return err
	}
	s.lease.claimed = now
	return nil
}

// nodes reads the nodes, and since when each is as it is.
func (s *Service) nodes(ctx context.Context, now time.Time) (map[string]neighbour, error) {
	rows, err := s.DB.Query(ctx, sqlNodes)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	nodes := map[string]neighbour{}
	for rows.Next() {
		var id string
		n := neighbour{since: now}
		if err := rows.Scan(&id, &n.process, &n.beat); err != nil {
			return nil, err
		}
		if was, ok := s.lease.others[id]; ok && was.process == n.process && was.beat == n.beat {
			n.since = was.since
		}
		nodes[id] = n
	}
	return nodes, rows.Err()
}

func (s *Service) beat(ctx context.Context) error {
	return s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sqlBeat, s.Node, s.lease.process) // none: the next look finds out why
		return err
	})
}

// takeOver drops nodes that are dead, and sends what has no owner any more.
func (s *Service) takeOver(ctx context.Context, dead map[string]neighbour) error {
	var slots int64
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Lock(ctx, nodesLock); err != nil {
			return err
		}
		for id, n := range dead {
			if _, err := tx.Exec(ctx, sqlDropNode, id, n.process, n.beat); err != nil {
				return err
			}
		}
		var err error
		slots, err = tx.Exec(ctx, sqlClaim, s.Node, s.Node)
		return err
	})
	if err != nil {
		return fmt.Errorf("take over slots: %w", err)
	}
	for id := range dead {
		s.Log.WarnContext(ctx, "another server is gone: its notifications are sent from here", slog.String("node", id))
	}
	if slots > 0 {
		_, err = s.wakeDirty(ctx)
	}
	return err
}

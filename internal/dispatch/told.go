package dispatch

import (
	"context"

	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Told is Known by the table alone: it sees what another node told this moment, and costs a query each time.
func (d *Dispatcher) Told(ctx context.Context, u tenant.UserID, name string) (event.Position, bool, error) {
	var st state
	if err := readFrom(d.db.QueryRow(ctx, sqlState, u.Context, u.ID), u, &st); err != nil {
		return event.Position{}, false, err
	}
	f, ok := st.newest(name)
	if !ok {
		return event.Position{Unseen: event.Unknown}, false, nil
	}
	return f.position(), true, nil
}

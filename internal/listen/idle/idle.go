// Package idle holds connections on which mail servers tell of new mail, or are asked. So far it is the shape
// that package listen needs: nothing is held.
package idle

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ErrLimit means that the mail server allows no further connection.
var ErrLimit = errors.New("too many connections")

// Source opens connections.
type Source struct {
	Accounts   *account.Service
	Tenants    *tenant.Store
	Dispatcher *dispatch.Dispatcher
	Log        *slog.Logger
	Now        func() time.Time
}

// Conn is one.
type Conn struct{}

// Open connects.
func (s *Source) Open(context.Context, tenant.User) (*Conn, error) { return nil, imap.ErrUnsupported }

// Run owns what all connections share.
func (s *Source) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Hold idles.
func (c *Conn) Hold() error { return nil }

// Close ends Hold.
func (c *Conn) Close() {}

// Wake looks now.
func (c *Conn) Wake() {}

// LastEvent is when something was heard last.
func (c *Conn) LastEvent() time.Time { return time.Time{} }

// Look looks at a folder.
func Look(context.Context, *imap.Client, tenant.UserID, string, event.Position, bool) (event.Look, error) {
	return event.Look{}, imap.ErrUnsupported
}

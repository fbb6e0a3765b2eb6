// Package idle hears of new mail over IMAP: it holds one connection for a user, on which the server tells (IDLE,
// RFC 2177; NOTIFY, RFC 5465) or, where it cannot, is asked.
//
// Whatever is told is only the occasion to look: [Look] compares the folder with what devices were last told, and the
// dispatcher tells them the difference. So new mail, a flag and an expunge need not be told apart by their
// announcements, and what came while nobody listened, or was announced wrongly, is found the same way.
//
// A user has one connection, with his INBOX opened to read only. His other folders are asked for by STATUS, now
// and then, or at once when NOTIFY tells of them. When to connect, to try again and to give up is package listen's.
//
// # Concurrency
//
// [Source.Open] connects and looks. [Conn.Hold] then waits, on a goroutine that has done nothing yet: thousands of
// them wait, and a stack that has grown does not shrink to its first size again. What needs a deep stack, Hold runs
// on another goroutine, and waits for it. One goroutine ([Source.Run]) has the clock of all connections. A Source, and the other methods of a Conn,
// may be used from anywhere.
package idle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ErrLimit means that the mail server allows the user, or us, no further connection.
var ErrLimit = errors.New("mail server allows no further connection")

// How a server makes its news known, for [Conn.Mode].
const (
	ModeIdle   = "idle"   // it tells of the INBOX
	ModeNotify = "notify" // it tells of the user's other folders too
	ModePoll   = "poll"   // it is asked
)

// Source opens connections. Its fields are not changed after the first.
type Source struct {
	Accounts   *account.Service
	Dispatcher *dispatch.Dispatcher
	// Folders are those beside the INBOX that a user wants to hear of; nil is none of anybody.
	Folders func(ctx context.Context, u tenant.UserID) ([]string, error)
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil is none
	Now     func() time.Time
	// PollEvery is how often other folders are looked at, and the INBOX where the server does not tell; 0 is 2 minutes.
	PollEvery time.Duration
	// ReissueEvery is for how long a server is left alone at most; 0 is 28 minutes. It may hang up after 30 (RFC 9051
	// section 5.4).
	ReissueEvery time.Duration

	answer time.Duration // answerTimeout, but for tests
	once   sync.Once
	alarms alarms
	lags   lags
}

const (
	defaultPoll    = 2 * time.Minute
	defaultReissue = 28 * time.Minute
	// answerTimeout is for a server's answer while it is awake, and tendTimeout for all of a look.
	answerTimeout = 30 * time.Second
	tendTimeout   = 2 * time.Minute
	// settle is how long changes other than new mail may gather: one by one they come when many are marked as read.
	settle = time.Second
	// lookAgain is when to look again after something changed while we looked.
	lookAgain = time.Minute
	// retryStore is when to look again after the store failed us.
	retryStore = 15 * time.Second
	// maxFolders bounds the folders of one user that are looked at.
	maxFolders = 50
	// maxRounds bounds how often in a row a server may say that there is more.
	maxRounds = 3
)

func (s *Source) init() {
	s.once.Do(func() {
		if s.PollEvery == 0 {
			s.PollEvery = defaultPoll
		}
		if s.ReissueEvery == 0 {
			s.ReissueEvery = defaultReissue
		}
		if s.answer == 0 {
			s.answer = answerTimeout
		}
		s.alarms.kick = make(chan struct{}, 1)
		s.lags.init()
	})
}

// Run wakes connections in time until ctx ends. One at a time may run.
func (s *Source) Run(ctx context.Context) error {
	s.init()
	if s.Metrics != nil {
		if err := s.Metrics.Register(s.lags.gauge); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		defer s.Metrics.Unregister(s.lags.gauge)
	}
	s.alarms.run(ctx, s.Now)
	return nil
}

// Open connects as the user, and dispatches what his folders hold that was not told yet. Errors are those of
// account.Service.Dial, and ErrLimit. A server that says nothing by itself is no error: see [Conn.Mode].
func (s *Source) Open(ctx context.Context, u tenant.User) (*Conn, error) {
	s.init()
	client, err := s.Accounts.Dial(ctx, u)
	if err != nil {
		return nil, limit(err)
	}
	c := &Conn{s: s, user: u.ID, host: u.MailHost, client: client, mode: ModeIdle, at: -1}
	if !client.Has("IDLE") && !client.Has("IMAP4REV2") {
		c.mode, c.bell = ModePoll, make(chan struct{}, 1)
	}
	client.Handle(c.heard)
	if err := c.tend(ctx, wantInbox|wantFolders); err != nil {
		c.Close()
		return nil, limit(err)
	}
	return c, nil
}

// limit marks errors that mean too many connections.
func limit(err error) error {
	if r, ok := errors.AsType[*imap.ResponseError](err); ok && r.TooManyConnections() {
		return fmt.Errorf("%w: %w", ErrLimit, err)
	}
	return err
}

// folders are those beside the INBOX that the user wants to hear of.
func (s *Source) folders(ctx context.Context, u tenant.UserID) ([]string, error) {
	if s.Folders == nil {
		return nil, nil
	}
	all, err := s.Folders(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("find folders: %w", err)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(f string) bool { return strings.EqualFold(f, event.Inbox) })
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 {
		return nil, nil
	}
	return slices.Clip(all[:min(len(all), maxFolders)]), nil
}

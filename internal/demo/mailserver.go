package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/emersion/go-imap/v2/imapserver/imapmemserver"
	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"
)

// maxMessage is the largest mail taken, in bytes. Everything lives in memory.
const maxMessage = 10 << 20

// mailServer is the embedded mail server: one user, SMTP and LMTP in, IMAP out, and the push to
// Posthorn that Dovecot would send. It listens once made, and serves with serve.
type mailServer struct {
	user   *mailUser
	log    *slog.Logger
	smtp   net.Listener
	lmtp   net.Listener
	imap   net.Listener
	board  *board
	notify *notifier // set by serve
}

// mailUser is the server's only user. The library keeps the mailboxes.
type mailUser struct {
	login, password string
	boxes           *imapmemserver.User
	metadata        metadata
	// delivering makes deliveries one after the other: a uid and the unseen count belong together.
	delivering sync.Mutex
}

func newMailUser(login, password string) (*mailUser, error) {
	u := &mailUser{login: login, password: password, boxes: imapmemserver.NewUser(login, password)}
	if err := u.boxes.Create("INBOX", nil); err != nil {
		return nil, fmt.Errorf("create INBOX: %w", err)
	}
	return u, nil
}

func (u *mailUser) hasMailbox(name string) bool {
	if strings.EqualFold(name, "INBOX") {
		name = "INBOX"
	}
	_, err := u.boxes.Status(name, &imap.StatusOptions{})
	return err == nil
}

// newMailServer opens the listeners. The SMTP port is one that people type, so it can be chosen.
func newMailServer(ctx context.Context, u *mailUser, smtpAddr string, b *board, log *slog.Logger) (*mailServer, error) {
	m := &mailServer{user: u, log: log, board: b}
	for _, l := range []struct {
		what, addr, flag string
		to               *net.Listener
	}{
		{"SMTP", smtpAddr, "--smtp-addr", &m.smtp},
		{"LMTP", anyPort, "", &m.lmtp},
		{"IMAP", anyPort, "", &m.imap},
	} {
		ln, err := listen(ctx, l.what, l.addr, l.flag)
		if err != nil {
			m.close()
			return nil, err
		}
		*l.to = ln
	}
	return m, nil
}

// anyPort is a loopback address with a port of the system's choice.
const anyPort = "127.0.0.1:0"

// listen opens a TCP listener; flag is the option that names another address when this one is taken.
func listen(ctx context.Context, what, addr, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) && flag != "" {
		return nil, fmt.Errorf("%s port %s is taken by another program (another demo?): choose one with %s host:port, for instance %s %s",
			what, addr, flag, flag, anyPort)
	}
	if err != nil {
		return nil, fmt.Errorf("open the %s port: %w", what, err)
	}
	return ln, nil
}

// close closes the listeners of a server that never served.
func (m *mailServer) close() {
	for _, ln := range []net.Listener{m.smtp, m.lmtp, m.imap} {
		if ln != nil {
			_ = ln.Close()
		}
	}
}

// serve runs the server until ctx ends, and returns when every connection is closed. Deliveries are
// pushed to notifyURL, which carries the credential, as in Dovecot's push_notification_driver.
func (m *mailServer) serve(ctx context.Context, notifyURL string) error {
	n, err := newNotifier(notifyURL)
	if err != nil {
		m.close()
		return err
	}
	defer n.close()
	m.notify = n
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.serveSMTP(ctx, m.smtp, false) })
	g.Go(func() error { return m.serveSMTP(ctx, m.lmtp, true) })
	g.Go(func() error { return m.serveIMAP(ctx) })
	return g.Wait()
}

func (m *mailServer) serveSMTP(ctx context.Context, ln net.Listener, lmtp bool) error {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &smtpSession{ctx: ctx, server: m, lmtp: lmtp}, nil
	}))
	s.Domain = "demo.posthorn.example"
	s.LMTP = lmtp
	s.MaxMessageBytes = maxMessage
	s.MaxRecipients = 100
	s.EnableSMTPUTF8 = true
	s.ReadTimeout, s.WriteTimeout = 5*time.Minute, time.Minute
	s.ErrorLog = libraryLog{m.log}

	// The library's Close does not wait for connections and its Shutdown does not end them; so we end
	// them, and it waits. Serve has returned before, so that it starts no more.
	conns := &connTracker{Listener: ln, open: map[net.Conn]struct{}{}}
	stop := context.AfterFunc(ctx, conns.closeAll)
	defer stop()
	err := s.Serve(conns)
	conns.closeAll()
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.Shutdown(wait) // its only other complaint is that the listener is closed already
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept a mail client: %w", err)
}

// serveIMAP gives each client connection a front, and each front a connection to the library.
func (m *mailServer) serveIMAP(ctx context.Context) error {
	library := newPipeListener()
	srv := imapserver.New(&imapserver.Options{
		NewSession: func(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			b, ok := c.NetConn().(*libraryConn)
			if !ok {
				return nil, nil, errors.New("not a connection of the front")
			}
			return &imapSession{user: m.user, front: b.front}, nil, nil
		},
		Caps: imap.CapSet{
			imap.CapIMAP4rev1: {}, imap.CapNamespace: {}, imap.CapUIDPlus: {}, imap.CapESearch: {}, imap.CapMove: {},
			imap.CapListExtended: {}, imap.CapListStatus: {}, imap.CapStatusSize: {}, imap.CapSpecialUse: {},
		},
		Logger:       libraryLog{m.log},
		InsecureAuth: true, // loopback only
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(library) })
	g.Go(func() error {
		<-ctx.Done()
		_ = m.imap.Close()
		_ = library.Close()
		return nil
	})
	g.Go(func() error {
		for {
			client, err := m.imap.Accept()
			switch {
			case ctx.Err() != nil:
				if err == nil {
					_ = client.Close()
				}
				return nil
			case err != nil:
				return fmt.Errorf("accept an IMAP client: %w", err)
			}
			g.Go(func() error {
				c := &frontConn{client: client}
				ours, theirs := net.Pipe()
				c.backend = ours
				if !library.offer(ctx, &libraryConn{Conn: theirs, front: c, done: library.conns.Done}) {
					_ = client.Close()
					return nil
				}
				if err := c.serve(ctx); err != nil {
					m.log.DebugContext(ctx, "imap connection ended", slog.Any("err", err))
				}
				return nil
			})
		}
	})
	err := g.Wait()
	library.conns.Wait()
	return err
}

// smtpSession is one SMTP or LMTP connection. Its context is the server's: the library has none.
type smtpSession struct {
	ctx    context.Context
	server *mailServer
	lmtp   bool
}

func (s *smtpSession) Reset()                               {}
func (s *smtpSession) Logout() error                        { return nil }
func (s *smtpSession) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt knows one address, so there is nothing to remember: the library asks for it before Data.
func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !strings.EqualFold(to, s.server.user.login) {
		return &smtp.SMTPError{
			Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1},
			Message: "No such user here: the demo's only mailbox is " + s.server.user.login,
		}
	}
	return nil
}

// Data stores the mail and pushes it before the reply, as Dovecot's LMTP server does.
func (s *smtpSession) Data(r io.Reader) error {
	msg, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	accepted := time.Now()
	return s.server.deliver(s.ctx, msg, accepted, s.lmtp)
}

// imapSession is the library's session with a login that tells the front.
type imapSession struct {
	*imapmemserver.UserSession

	user  *mailUser
	front *frontConn
}

func (s *imapSession) Login(login, password string) error {
	if err := s.user.boxes.Login(login, password); err != nil {
		return err
	}
	s.UserSession = imapmemserver.NewUserSession(s.user.boxes)
	s.front.signedIn(s.user)
	return nil
}

// connTracker is a listener that knows its open connections, to end them.
type connTracker struct {
	net.Listener

	mu   sync.Mutex
	open map[net.Conn]struct{} // nil once closed
}

func (t *connTracker) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	tc := &trackedConn{Conn: c, tracker: t}
	t.open[tc] = struct{}{}
	return tc, nil
}

func (t *connTracker) closeAll() {
	_ = t.Close()
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
}

type trackedConn struct {
	net.Conn
	tracker *connTracker
}

func (c *trackedConn) Close() error {
	c.tracker.mu.Lock()
	delete(c.tracker.open, c)
	c.tracker.mu.Unlock()
	return c.Conn.Close()
}

// pipeListener hands in-process connections to the IMAP library, so that no port leads past the front.
type pipeListener struct {
	offers chan net.Conn
	closed chan struct{}
	once   sync.Once
	conns  sync.WaitGroup // connections the library has not closed yet
}

func newPipeListener() *pipeListener {
	return &pipeListener{offers: make(chan net.Conn), closed: make(chan struct{})}
}

// offer gives c to the library; false means that it takes none any more.
func (l *pipeListener) offer(ctx context.Context, c net.Conn) bool {
	l.conns.Add(1)
	select {
	case l.offers <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	_ = c.Close()
	return false
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.offers:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "imap library" }

// libraryConn is the library's end of a connection. The library closes it last of all, which is how we
// know that its goroutine is through.
type libraryConn struct {
	net.Conn
	front *frontConn
	once  sync.Once
	done  func()
}

func (c *libraryConn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

// libraryLog lets the libraries write to our log. What they have to say concerns single connections.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) {
	l.log.Debug("mail library", slog.String("text", fmt.Sprintf(format, v...)))
}

func (l libraryLog) Println(v ...any) {
	l.log.Debug("mail library", slog.String("text", strings.TrimSpace(fmt.Sprintln(v...))))
}

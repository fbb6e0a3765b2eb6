package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fake"
	"github.com/posthorn-mail/posthorn/internal/server"
)

const demoLogin = "lena@demo.example"

// setupTimeout is how long it may take until the phone is subscribed.
const setupTimeout = 30 * time.Second

// errDone ends the group when the one journey is over.
var errDone = errors.New("the journey is over")

// Run shows the demo until ctx ends, or, with cfg.Once, until one mail has reached the phone. It leaves
// nothing behind.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg = cfg.withDefaults()
	dir, err := os.MkdirTemp("", "posthorn-demo-")
	if err != nil {
		return fmt.Errorf("make a state directory: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil && err == nil {
			err = fmt.Errorf("remove the state directory: %w", e)
		}
	}()

	d := &demo{cfg: cfg, board: newBoard()}
	if err := d.open(ctx); err != nil {
		d.close()
		return err
	}
	defer d.push.Close() //nolint:errcheck // closes listeners and waits; nothing to be done about an error
	conf, err := d.config(dir)
	if err != nil {
		d.close()
		return err
	}
	srv, err := server.New(ctx, conf, server.Options{Log: cfg.Log, BuiltIn: "built in: demo"})
	if err != nil {
		d.close()
		return fmt.Errorf("start Posthorn: %w", err)
	}
	d.posthorn = newPosthorn(dir, srv.PublicAddr(), srv.InternalAddr())
	defer d.posthorn.close()

	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Run(running) })
	g.Go(func() error { return d.play(running, dir) })
	err = g.Wait()
	if errors.Is(err, errDone) || ctx.Err() != nil && !cfg.Once {
		return nil
	}
	return err
}

// demo holds what is open.
type demo struct {
	cfg      Config
	board    *board
	mail     *mailServer
	push     *fake.WebPush
	page     net.Listener // nil with Once
	posthorn *posthorn
}

// open opens every port of ours, so that a taken one is told before anything has been started.
func (d *demo) open(ctx context.Context) error {
	user, err := newMailUser(demoLogin, rand.Text()[:12])
	if err != nil {
		return err
	}
	if !d.cfg.Once {
		if d.page, err = listen(ctx, "page", d.cfg.PageAddr, "--page-addr"); err != nil {
			return err
		}
	}
	if d.mail, err = newMailServer(ctx, user, d.cfg.SMTPAddr, d.board, d.cfg.Log); err != nil {
		return err
	}
	if d.push, err = fake.NewWebPush(fake.WebPushConfig{}); err != nil {
		return fmt.Errorf("start the push service: %w", err)
	}
	return nil
}

// close closes what open opened, when nothing of it serves yet.
func (d *demo) close() {
	if d.page != nil {
		_ = d.page.Close()
	}
	if d.mail != nil {
		d.mail.close()
	}
	if d.push != nil {
		_ = d.push.Close()
	}
}

// config is Posthorn's configuration: the defaults, other addresses, and the one origin that the
// phone's push service has.
func (d *demo) config(dir string) (*config.Config, error) {
	// Nothing from the caller's environment: it may be that of a real installation.
	conf, _, err := config.Load("", func(name string) (string, bool) {
		if name == "STATE_DIRECTORY" {
			return dir, true
		}
		return "", false
	})
	if err != nil {
		return nil, fmt.Errorf("make a configuration: %w", err)
	}
	conf.Public.Listen, conf.Internal.Listen = anyPort, anyPort
	conf.Outbound.Allow = []string{d.push.URL()}
	if d.page != nil {
		conf.Public.URL = "http://" + d.page.Addr().String() // where a notification leads when it is tapped
	}
	return conf, nil
}

// play provisions, subscribes the phone, and shows what there is to see.
func (d *demo) play(ctx context.Context, dir string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		info, err := d.setUp(ctx, g, dir)
		if err != nil {
			if d.page != nil {
				_ = d.page.Close()
			}
			return err
		}
		g.Go(func() error { return watchPhone(ctx, d.push, d.board, d.cfg.Log) })
		if d.cfg.Once {
			if err := once(ctx, d.cfg.Out, d.board, info.SMTP, info.Login, info.User); err != nil {
				return err
			}
			return errDone
		}
		if err := d.announce(info); err != nil {
			return err
		}
		return (&page{info: info, board: d.board, log: d.cfg.Log}).serve(ctx, d.page)
	})
	return g.Wait()
}

// setUp makes the user, starts the mail server and subscribes the phone.
func (d *demo) setUp(ctx context.Context, g *errgroup.Group, dir string) (pageInfo, error) {
	p, m := d.posthorn, d.mail
	info := pageInfo{
		Run: rand.Text(), Login: m.user.login, Password: m.user.password, StateDir: dir,
		SMTP: m.smtp.Addr().String(), LMTP: m.lmtp.Addr().String(), IMAP: m.imap.Addr().String(),
		Public: strings.TrimPrefix(p.public, "http://"), Internal: p.internal, Push: d.push.URL(),
	}
	short, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	user, notifyURL, err := p.provision(short, info.IMAP, info.Login)
	if err != nil {
		m.close()
		return info, err
	}
	info.User = user
	g.Go(func() error { return m.serve(ctx, notifyURL) })
	key, err := p.vapidKey(short)
	if err != nil {
		return info, err
	}
	phone, err := d.push.Subscribe(key)
	if err != nil {
		return info, fmt.Errorf("make a push subscription: %w", err)
	}
	_, l, err := p.subscribe(short, "posthorn-demo-phone", info.Login, info.Password, json.RawMessage(phone.JSON()))
	if err != nil {
		return info, err
	}
	if info.Listener = l.State; l.State != "registered" {
		return info, fmt.Errorf("subscribe the phone: the listener is %s: %s", l.State, l.Reason)
	}
	return info, nil
}

// announce says where everything is.
func (d *demo) announce(info pageInfo) error {
	_, err := fmt.Fprintf(d.cfg.Out, `Posthorn, a mail server, a push service and a phone are running.

  the phone  http://%s/
  send mail  to %s, by SMTP at %s
  read mail  by IMAP at %s, password %s

Ctrl-C ends it. Nothing is kept.
`, d.page.Addr(), info.Login, info.SMTP, info.IMAP, info.Password)
	return err
}

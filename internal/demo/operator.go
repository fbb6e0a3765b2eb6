package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/fake"
)

// PhoneConfig is whose phone to be, at which server.
type PhoneConfig struct {
	// Server is the base URL at which devices reach Posthorn, Roots whom to trust there; nil: the system's.
	Server string
	Roots  *x509.CertPool
	Client string // what the app calls itself
	// Login and Password are those of the mail account.
	Login, Password string
	// Addr is the loopback host and port of the phone's push service.
	Addr string
	// Count ends it after so many notifications; 0: it goes on until ctx ends.
	Count int
	Out   io.Writer
}

// DefaultPhoneAddr is where the phone's push service listens: the server must be allowed to send there.
const DefaultPhoneAddr = "127.0.0.1:8026"

// Phone is a phone for an operator who has none at hand: it signs in at a running server as the app does, subscribes
// with a push service of its own, and prints what arrives there, decrypted. In the end it signs out, and nothing of
// it is left.
func Phone(ctx context.Context, cfg PhoneConfig) (err error) {
	service, err := fake.NewWebPush(fake.WebPushConfig{Addr: cfg.Addr})
	if err != nil {
		return fmt.Errorf("start the phone's push service: %w", err)
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	p := &posthorn{public: strings.TrimSuffix(cfg.Server, "/")}
	p.device = http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}}
	defer p.close()
	key, err := p.vapidKey(ctx)
	if err != nil {
		return err
	}
	receiver, err := service.Subscribe(key)
	if err != nil {
		return err
	}
	session, l, err := p.subscribe(ctx, cfg.Client, cfg.Login, cfg.Password, json.RawMessage(receiver.JSON()))
	if session.Token != "" {
		defer func() { // also after Ctrl-C
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			out := call(leaving, &p.device, http.MethodDelete, p.public+"/api/v1/sessions/"+session.ID, session.Token, nil, nil)
			if out != nil {
				err = errors.Join(err, fmt.Errorf("sign the phone out: %w", out))
			}
		}()
	}
	if err != nil && strings.Contains(err.Error(), "token") {
		return fmt.Errorf("%w\nThe server does not send into internal networks by itself. For this test, allow it in the configuration and restart:\n"+
			"  outbound: {allow: [%q]}", err, service.URL())
	}
	if err != nil {
		return err
	}
	reason := ""
	if l.Reason != "" {
		reason = ": " + l.Reason
	}
	_, _ = fmt.Fprintf(cfg.Out, "Signed in as %s at %s; its listener is %s%s. Send a mail there now; Ctrl-C ends it.\n", cfg.Login, p.public, l.State, reason)
	for n := 0; cfg.Count == 0 || n < cfg.Count; n++ {
		d, err := service.Next(ctx)
		if ctx.Err() != nil {
			return nil // that is how it ends
		}
		if err != nil {
			return fmt.Errorf("wait for a push: %w", err)
		}
		shown, err := parsePush(d.Payload)
		if err != nil {
			return err
		}
		badge := ""
		if shown.Badge != "" {
			badge = " (" + shown.Badge + " unread)"
		}
		_, _ = fmt.Fprintf(cfg.Out, "%s  %s: %s%s\n", d.At.Format(time.TimeOnly), shown.Title, shown.Body, badge)
	}
	return nil
}

package server

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/fcm"
	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/webpush"
)

// transports are the senders that the configuration enables. Building them opens every key and
// certificate, so it is also what "posthorn config check" does.
type transports struct {
	all       []push.Transport
	publicKey string // VAPID
	apns      []*apns.Sender
}

// Check opens what the configuration names (keys, certificates, service accounts) and returns what is
// wrong with it. It makes no connection and no file.
func Check(cfg *config.Config) config.Problems {
	var vapid []byte
	if cfg.Transports.WebPush.VAPIDKey.IsSet() {
		vapid = []byte(cfg.Transports.WebPush.VAPIDKey.Reveal())
	}
	t, problems := buildTransports(cfg, vapid, time.Now)
	t.close()
	return problems
}

// buildTransports builds the enabled senders. Without a VAPID key Web Push is checked, but not built.
func buildTransports(cfg *config.Config, vapid []byte, now func() time.Time) (*transports, config.Problems) {
	t := &transports{}
	var problems config.Problems
	privacy := push.Privacy(cfg.Push.Privacy)
	guard, err := outbound.New(outbound.Config{Allow: cfg.Outbound.Allow})
	if err != nil {
		problems = append(problems, cfg.Problem("outbound.allow", "%v", err))
	}
	if cfg.Transports.WebPush.Enabled && guard != nil {
		if err := webpush.CheckSubject(cfg.VAPIDSubject()); err != nil {
			problems = append(problems, cfg.Problem("transports.webpush.subject", "%v", err))
		} else if vapid != nil {
			problems = append(problems, t.addWebPush(cfg, vapid, guard, now)...)
		}
	}
	if cfg.Transports.APNs.Enabled {
		tr := &push.APNs{Privacy: privacy}
		for i, app := range cfg.Transports.APNs.Apps {
			key := fmt.Sprintf("transports.apns.apps[%d]", i)
			sender, ends, field, err := newAPNs(app, now)
			if err != nil {
				problems = append(problems, cfg.Problem(key+"."+field, "%v", err))
				continue
			}
			t.apns = append(t.apns, sender)
			streams := func() int { _, limit := sender.Streams(); return limit }
			tr.Apps = append(tr.Apps, push.APNsApp{
				Match: matcher(app.Client), Topic: app.Topic, Sender: sender, Privacy: own(app.Privacy), Expires: ends, Streams: streams,
			})
		}
		t.all = append(t.all, tr)
	}
	if cfg.Transports.FCM.Enabled {
		tr := &push.FCM{Privacy: privacy, Now: now}
		for i, app := range cfg.Transports.FCM.Apps {
			account := []byte(app.ServiceAccount.Reveal())
			sender, err := fcm.New(fcm.Config{ServiceAccount: account, Endpoint: app.Endpoint, Now: now})
			if err != nil {
				problems = append(problems, cfg.Problem(fmt.Sprintf("transports.fcm.apps[%d].service_account", i), "%v", err))
				continue
			}
			tr.Apps = append(tr.Apps, push.FCMApp{
				Match: matcher(app.Client), Project: projectOf(account), Package: app.Package, Sender: sender, Privacy: own(app.Privacy),
			})
		}
		t.all = append(t.all, tr)
	}
	return t, problems
}

func (t *transports) addWebPush(cfg *config.Config, vapid []byte, guard *outbound.Guard, now func() time.Time) config.Problems {
	key, err := webpush.ParseKey(vapid)
	if err != nil {
		return config.Problems{cfg.Problem("transports.webpush.vapid_key", "%v", err)}
	}
	sender, err := webpush.New(webpush.Config{Key: key, Subject: cfg.VAPIDSubject(), HTTP: guard.Client(), Now: now})
	if err != nil {
		return config.Problems{cfg.Problem("transports.webpush", "%v", err)}
	}
	t.publicKey = sender.PublicKey()
	navigate := strings.TrimSuffix(cfg.Public.URL, "/") + "/"
	t.all = append(t.all, &push.WebPush{
		Sender: sender, Privacy: cmp.Or(own(cfg.Transports.WebPush.Privacy), push.Privacy(cfg.Push.Privacy)), CheckEndpoint: guard.CheckURL, Navigate: navigate, Now: now,
	})
	return nil
}

// own is the level that a transport or app has of its own; "" is none.
func own(privacy string) push.Privacy {
	if privacy == "inherit" {
		return ""
	}
	return push.Privacy(privacy)
}

func (t *transports) close() {
	for _, s := range t.apns {
		s.Close()
	}
}

func matcher(pattern string) func(string) bool {
	return func(client string) bool { return config.MatchClient(pattern, client) }
}

// projectOf reads the project of a service account that fcm.New has accepted.
func projectOf(account []byte) string {
	var v struct {
		ProjectID string `json:"project_id"`
	}
	_ = json.Unmarshal(account, &v)
	return v.ProjectID
}

// newAPNs opens the credential of one app; ends is when a certificate does, field is the key at fault.
func newAPNs(app config.APNsApp, now func() time.Time) (s *apns.Sender, ends time.Time, field string, err error) {
	c := apns.Config{URL: app.URL, Environment: app.Environment, Topic: app.Topic, Now: now}
	if app.CAFile != "" {
		raw, err := os.ReadFile(app.CAFile)
		if err != nil {
			return nil, ends, "ca_file", err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, ends, "ca_file", fmt.Errorf("%s holds no PEM certificate", app.CAFile)
		}
	}
	if app.CertificateFile != "" {
		raw, err := os.ReadFile(app.CertificateFile)
		if err != nil {
			return nil, ends, "certificate_file", err
		}
		var info apns.CertificateInfo
		c.Certificate, info, err = apns.LoadCertificate(raw, app.CertificatePassword.Reveal(), app.Environment, app.Topic, now())
		if err != nil {
			return nil, ends, "certificate_file", err
		}
		ends = info.NotAfter
	} else {
		c.TokenKey, err = apns.LoadTokenKey([]byte(app.Key.Reveal()), app.KeyID, app.TeamID)
		if err != nil {
			return nil, ends, "key", err
		}
	}
	s, err = apns.New(c)
	return s, ends, "url", err
}

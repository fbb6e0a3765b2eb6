package server

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	all   []push.Transport
	guard *outbound.Guard

	// Each is nil when it is switched off; webpush is too when there is no VAPID key to check.
	webpush *push.WebPush
	apns    *push.APNs
	fcm     *push.FCM

	mu sync.Mutex // guards all below, and is held by a reload
	// made is what the credentials in use were made of: a reload keeps those of which that is unchanged.
	made     made
	closed   bool
	retiring sync.WaitGroup // replaced credentials that are still in use
}

// made is the apps by the fingerprints of what they were made of.
type made struct {
	vapid fingerprint
	apns  map[fingerprint]*push.APNsApp
	fcm   map[fingerprint]*push.FCMApp
}

// fingerprint tells whether two credentials, with all that belongs to them, are the same.
type fingerprint [sha256.Size]byte

func fingerprintOf(parts ...string) (p fingerprint) {
	h := sha256.New()
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // never fails (hash.Hash)
	}
	h.Sum(p[:0])
	return p
}

// findings is what opening the credentials brought to light.
type findings struct {
	// problems keep a server from starting, and a reload from happening.
	problems config.Problems
	// expired does so with a reload only: a server starts for the sake of its other apps.
	expired config.Problems
	// soon is certificates that end within warnBefore.
	soon config.Warnings
}

// warnBefore is when the first warning comes of a certificate that ends.
const warnBefore = 30 * 24 * time.Hour

// Check opens what the configuration names (keys, certificates, service accounts) and returns what is
// wrong with it. It makes no connection and no file.
func Check(cfg *config.Config) (config.Problems, config.Warnings) {
	var vapid []byte
	if cfg.Transports.WebPush.VAPIDKey.IsSet() {
		vapid = []byte(cfg.Transports.WebPush.VAPIDKey.Reveal())
	}
	t, found := buildTransports(cfg, vapid, time.Now)
	t.close()
	openMesh(cfg, time.Now, &found)
	readPublic(cfg, time.Now, &found)
	_, wrong := readHosts(cfg)
	found.problems = append(found.problems, wrong...)
	_, wrong = readProperties(cfg, "")
	found.problems = append(found.problems, wrong...)
	return append(found.problems, found.expired...), append(cfg.Warnings(), found.soon...)
}

// buildTransports builds the enabled senders. Without a VAPID key Web Push is checked, but not built.
func buildTransports(cfg *config.Config, vapid []byte, now func() time.Time) (*transports, findings) {
	t := &transports{}
	var found findings
	var err error
	if t.guard, err = outbound.New(outbound.Config{Allow: cfg.Outbound.Allow}); err != nil {
		found.problems = append(found.problems, cfg.Problem("outbound.allow", "%v", err))
	}
	privacy := push.Privacy(cfg.Push.Privacy)
	if cfg.Transports.WebPush.Enabled && t.guard != nil {
		if sender := t.makeWebPush(cfg, vapid, now, &found); sender != nil {
			t.made.vapid = vapidFingerprint(cfg, vapid)
			t.webpush = &push.WebPush{
				Sender: sender, Since: now(), Privacy: cmp.Or(own(cfg.Transports.WebPush.Privacy), privacy), CheckEndpoint: t.guard.CheckURL,
				Navigate: strings.TrimSuffix(cfg.Public.URL, "/") + "/", Now: now,
			}
			t.all = append(t.all, t.webpush)
		}
	}
	if cfg.Transports.APNs.Enabled {
		t.apns = &push.APNs{Privacy: privacy}
		t.apns.Apps, t.made.apns = makeAPNs(cfg, nil, now, &found)
		t.all = append(t.all, t.apns)
	}
	if cfg.Transports.FCM.Enabled {
		t.fcm = &push.FCM{Privacy: privacy, Now: now}
		t.fcm.Apps, t.made.fcm = makeFCM(cfg, nil, now, &found)
		t.all = append(t.all, t.fcm)
	}
	return t, found
}

// publicKey is the VAPID key that browsers subscribe with; "" when Web Push is off.
func (t *transports) publicKey() string {
	if t.webpush == nil {
		return ""
	}
	return t.webpush.PublicKey()
}

// close ends every connection. Nobody sends any more.
func (t *transports) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.retiring.Wait()
	if t.apns != nil {
		for _, a := range t.apns.Replace(nil) {
			a.Retire()
		}
	}
	if t.fcm != nil {
		for _, a := range t.fcm.Replace(nil) {
			a.Retire()
		}
	}
}

// fault is a problem with a key, and names the file that a secret was read from.
func fault(cfg *config.Config, key string, err error) config.Problem {
	if file, ok := strings.CutPrefix(cfg.Origin(key), "file "); ok {
		file, _, _ = strings.Cut(file, " (")
		return cfg.Problem(key, "%s: %v", file, err)
	}
	return cfg.Problem(key, "%v", err)
}

func vapidFingerprint(cfg *config.Config, key []byte) fingerprint {
	return fingerprintOf(string(key), cfg.VAPIDSubject())
}

// makeWebPush returns nil when something is wrong, and when there is no key.
func (t *transports) makeWebPush(cfg *config.Config, vapid []byte, now func() time.Time, found *findings) *webpush.Sender {
	add := func(key string, err error) *webpush.Sender {
		found.problems = append(found.problems, fault(cfg, key, err))
		return nil
	}
	if err := webpush.CheckSubject(cfg.VAPIDSubject()); err != nil {
		return add("transports.webpush.subject", err)
	}
	if vapid == nil {
		return nil
	}
	key, err := webpush.ParseKey(vapid)
	if err != nil {
		if !cfg.Transports.WebPush.VAPIDKey.IsSet() {
			err = fmt.Errorf("%s: %w", VAPIDKeyFile, err)
		}
		return add("transports.webpush.vapid_key", err)
	}
	sender, err := webpush.New(webpush.Config{Key: key, Subject: cfg.VAPIDSubject(), HTTP: t.guard.Client(), Now: now})
	if err != nil {
		return add("transports.webpush", err)
	}
	return sender
}

// makeFCM builds the apps of FCM, save those that are known already.
func makeFCM(cfg *config.Config, known map[fingerprint]*push.FCMApp, now func() time.Time, found *findings) (apps []*push.FCMApp, made map[fingerprint]*push.FCMApp) {
	made = map[fingerprint]*push.FCMApp{}
	for i, app := range cfg.Transports.FCM.Apps {
		account := []byte(app.ServiceAccount.Reveal())
		p := fingerprintOf(app.Client, string(account), app.Package, app.Endpoint, app.Privacy)
		a := known[p]
		if a == nil {
			sender, err := fcm.New(fcm.Config{ServiceAccount: account, Endpoint: app.Endpoint, Now: now})
			if err != nil {
				found.problems = append(found.problems, fault(cfg, fmt.Sprintf("transports.fcm.apps[%d].service_account", i), err))
				continue
			}
			a = &push.FCMApp{Match: matcher(app.Client), Project: projectOf(account), Package: app.Package, Sender: sender, Privacy: own(app.Privacy), Since: now()}
		}
		apps, made[p] = append(apps, a), a
	}
	return apps, made
}

// makeAPNs builds the apps of APNs, save those that are known already.
func makeAPNs(cfg *config.Config, known map[fingerprint]*push.APNsApp, now func() time.Time, found *findings) (apps []*push.APNsApp, made map[fingerprint]*push.APNsApp) {
	made = map[fingerprint]*push.APNsApp{}
	for i, app := range cfg.Transports.APNs.Apps {
		key := fmt.Sprintf("transports.apns.apps[%d]", i)
		files, field, err := readAPNs(app)
		p := fingerprintOf(app.Client, app.Topic, app.Environment, app.Key.Reveal(), app.KeyID, app.TeamID, app.CertificatePassword.Reveal(),
			app.URL, app.OtherURL, app.Privacy, strconv.Itoa(app.Connections), string(files.certificate), string(files.ca))
		a := known[p]
		if a == nil && err == nil {
			a, field, err = newAPNs(app, files, now)
		}
		switch {
		case errors.Is(err, apns.ErrExpired):
			found.expired = append(found.expired, cfg.Problem(key+"."+field, "%s: %v", app.CertificateFile, err))
		case err != nil:
			found.problems = append(found.problems, fault(cfg, key+"."+field, err))
			continue
		case !a.Expires.IsZero() && a.Expires.Sub(now()) <= warnBefore:
			found.soon = append(found.soon, cfg.Problem(key+".certificate_file", "%s: the certificate ends on %s: renew it at Apple's developer site",
				app.CertificateFile, a.Expires.UTC().Format(time.DateTime)))
		}
		apps, made[p] = append(apps, a), a
	}
	return apps, made
}

// own is the level that a transport or app has of its own; "" is none.
func own(privacy string) push.Privacy {
	if privacy == "inherit" {
		return ""
	}
	return push.Privacy(privacy)
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

// apnsFiles is what the configuration of an app only names.
type apnsFiles struct{ certificate, ca []byte }

// readAPNs reads the files of one app; field is the key at fault.
func readAPNs(app config.APNsApp) (files apnsFiles, field string, err error) {
	if app.CAFile != "" {
		if files.ca, err = os.ReadFile(app.CAFile); err != nil {
			return files, "ca_file", err
		}
	}
	if app.CertificateFile != "" {
		if files.certificate, err = os.ReadFile(app.CertificateFile); err != nil {
			return files, "certificate_file", err
		}
	}
	return files, "", nil
}

// newAPNs opens the credential of one app; field is the key at fault. With a certificate that has expired
// there is an app all the same.
func newAPNs(app config.APNsApp, files apnsFiles, now func() time.Time) (a *push.APNsApp, field string, err error) {
	a = &push.APNsApp{Match: matcher(app.Client), Topic: app.Topic, Environment: app.Environment, Privacy: own(app.Privacy), Since: now()}
	c := apns.Config{URL: app.URL, Environment: app.Environment, Topic: app.Topic, Connections: app.Connections, Now: now}
	if files.ca != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(files.ca) {
			return nil, "ca_file", fmt.Errorf("%s holds no PEM certificate", app.CAFile)
		}
	}
	other, both := apns.Sandbox, true
	if app.Environment == apns.Sandbox {
		other = apns.Production
	}
	var expired error
	if app.CertificateFile != "" {
		var info apns.CertificateInfo
		c.Certificate, info, err = apns.LoadCertificate(files.certificate, app.CertificatePassword.Reveal(), app.Environment, app.Topic, now())
		if errors.Is(err, apns.ErrExpired) {
			expired = err
		} else if err != nil {
			return nil, "certificate_file", fmt.Errorf("%s: %w", app.CertificateFile, err)
		}
		a.Expires, both = info.NotAfter, slices.Contains(info.Environments, other)
	} else {
		c.TokenKey, err = apns.LoadTokenKey([]byte(app.Key.Reveal()), app.KeyID, app.TeamID)
		if err != nil {
			return nil, "key", err
		}
	}
	if a.Sender, err = apns.New(c); err != nil {
		return nil, "url", err
	}
	if both && (app.URL == "" || app.OtherURL != "") {
		c.Environment, c.URL = other, app.OtherURL
		if a.Other, err = apns.New(c); err != nil {
			return nil, "other_url", err
		}
	}
	return a, "certificate_file", expired
}

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

// transports are the senders: with the credentials that the configuration names, and those of the providers.
// Building them opens every key and certificate, so it is also what "posthorn config check" does.
type transports struct {
	all   []push.Transport
	guard *outbound.Guard

	webpush *push.WebPush
	apns    *push.APNs
	fcm     *push.FCM

	mu sync.Mutex // guards all below, and is held by a reload
	// enabled is what the configuration at start switched on, by transport.
	enabled map[string]bool
	// own are the credentials of the configuration, provided those of the providers.
	own, provided made
	subject       string // of VAPID, for keys that have none of their own
	closed        bool
	retiring      sync.WaitGroup // replaced credentials that are still in use
}

// made is credentials in use, each with the fingerprint of what it was made of: whoever builds anew keeps those of
// which that is unchanged. The lists are in the order in which apps are asked.
type made struct {
	vapid map[string]known[push.VAPID] // by whose it is
	apns  []known[*push.APNsApp]
	fcm   []known[*push.FCMApp]
}

type known[T any] struct {
	of  fingerprint
	app T
}

// find returns what was made of the same.
func find[T any](all []known[T], p fingerprint) (app T, ok bool) {
	for _, k := range all {
		if k.of == p {
			return k.app, true
		}
	}
	return app, false
}

func apps[T any](lists ...[]known[T]) (all []T) {
	for _, list := range lists {
		for _, k := range list {
			all = append(all, k.app)
		}
	}
	return all
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
	hosts, wrong := readHosts(cfg)
	found.problems = append(found.problems, wrong...)
	if v := ownHost(cfg, hosts); !v.Allowed {
		found.soon = append(found.soon, cfg.Problem("hosts_file", "the app may not sign in by %s, the host of public.url: %s. Is that meant?", v.Host, v.Why))
	}
	_, wrong = readProperties(cfg, "")
	found.problems = append(found.problems, wrong...)
	return append(found.problems, found.expired...), append(cfg.Warnings(), found.soon...)
}

// CheckRules adds to problems of the keys what Check says of host rules, properties and context sets.
func CheckRules(cfg *config.Config, problems config.Problems) config.Problems {
	_, hosts := readHosts(cfg)
	_, properties := readProperties(cfg, "")
	known := slices.Clone(problems)
	for _, p := range append(hosts, properties...) {
		// A key of its own that stands for a property, such as push.privacy, has been judged.
		if !slices.ContainsFunc(known, func(k config.Problem) bool { return k.Line > 0 && k.Line == p.Line && k.Source == p.Source }) {
			problems = append(problems, p)
		}
	}
	return problems
}

// buildTransports builds the senders with the credentials of the configuration. Without a VAPID key Web Push is
// checked, but has none.
func buildTransports(cfg *config.Config, vapid []byte, now func() time.Time) (*transports, findings) {
	t := &transports{
		enabled: enabled(cfg), apns: &push.APNs{}, fcm: &push.FCM{Now: now},
		webpush: &push.WebPush{Navigate: strings.TrimSuffix(cfg.Public.URL, "/") + "/", Now: now},
	}
	t.all = []push.Transport{t.webpush, t.apns, t.fcm}
	var found findings
	var err error
	if t.guard, err = outbound.New(outbound.Config{Allow: cfg.Outbound.Allow}); err != nil {
		found.problems = append(found.problems, cfg.Problem("outbound.allow", "%v", err))
		return t, found
	}
	t.webpush.CheckEndpoint = t.guard.CheckURL
	t.own = t.make(cfg, vapid, now, &found)
	t.use()
	return t, found
}

func enabled(cfg *config.Config) map[string]bool {
	c := cfg.Transports
	return map[string]bool{"webpush": c.WebPush.Enabled, "apns": c.APNs.Enabled, "fcm": c.FCM.Enabled}
}

// make builds the credentials of the configuration, save those that are in use already.
func (t *transports) make(cfg *config.Config, vapid []byte, now func() time.Time, found *findings) (m made) {
	on := enabled(cfg)
	t.subject = cfg.VAPIDSubject()
	if on["webpush"] {
		m.vapid = t.makeWebPush(cfg, vapid, now, found)
	}
	if on["apns"] {
		m.apns = makeAPNs(cfg, t.own.apns, now, found)
	}
	if on["fcm"] {
		m.fcm = makeFCM(cfg, t.own.fcm, now, found)
	}
	return m
}

// use has the sends from now on go out with what own and provided hold. Replaced credentials end after the sends
// that began with them. mu is held, or nobody else has t yet.
func (t *transports) use() {
	keys := map[string]push.VAPID{}
	for _, m := range []made{t.own, t.provided} {
		for owner, k := range m.vapid {
			keys[owner] = k.app
		}
	}
	t.webpush.Replace(keys)
	for _, a := range t.apns.Replace(apps(t.own.apns, t.provided.apns)) {
		t.retiring.Go(a.Retire)
	}
	for _, a := range t.fcm.Replace(apps(t.own.fcm, t.provided.fcm)) {
		t.retiring.Go(a.Retire)
	}
}

// close ends every connection. Nobody sends any more.
func (t *transports) close() {
	t.mu.Lock()
	t.closed, t.own, t.provided = true, made{}, made{}
	t.use()
	t.mu.Unlock()
	t.retiring.Wait()
}

// fault is a problem with a key, and names the file that a secret was read from.
func fault(cfg *config.Config, key string, err error) config.Problem {
	if file, ok := strings.CutPrefix(cfg.Origin(key), "file "); ok {
		file, _, _ = strings.Cut(file, " (")
		return cfg.Problem(key, "%s: %v", file, err)
	}
	return cfg.Problem(key, "%v", err)
}

// makeWebPush returns nothing when something is wrong, and when there is no key.
func (t *transports) makeWebPush(cfg *config.Config, vapid []byte, now func() time.Time, found *findings) map[string]known[push.VAPID] {
	add := func(key string, err error) map[string]known[push.VAPID] {
		found.problems = append(found.problems, fault(cfg, key, err))
		return nil
	}
	if err := webpush.CheckSubject(cfg.VAPIDSubject()); err != nil {
		return add("transports.webpush.subject", err)
	}
	if vapid == nil {
		return nil
	}
	k, field, err := t.newVAPID("", vapid, cfg.VAPIDSubject(), t.own.vapid, now)
	switch {
	case err == nil:
		return map[string]known[push.VAPID]{"": k}
	case field == "vapid_key" && !cfg.Transports.WebPush.VAPIDKey.IsSet():
		return add("transports.webpush.vapid_key", fmt.Errorf("%s: %w", VAPIDKeyFile, err))
	}
	return add(strings.TrimSuffix("transports.webpush."+field, "."), err)
}

// newVAPID builds the sender of a VAPID key, unless in has it; field is the key at fault.
func (t *transports) newVAPID(owner string, pem []byte, subject string, in map[string]known[push.VAPID], now func() time.Time) (k known[push.VAPID], field string, err error) {
	p := fingerprintOf(string(pem), subject)
	if k, ok := in[owner]; ok && k.of == p {
		return k, "", nil
	}
	key, err := webpush.ParseKey(pem)
	if err != nil {
		return k, "vapid_key", err
	}
	sender, err := webpush.New(webpush.Config{Key: key, Subject: subject, HTTP: t.guard.Client(), Now: now})
	return known[push.VAPID]{p, push.VAPID{Sender: sender, Since: now()}}, "", err
}

// makeFCM builds the apps of FCM, save those that are known already.
func makeFCM(cfg *config.Config, in []known[*push.FCMApp], now func() time.Time, found *findings) (all []known[*push.FCMApp]) {
	for i, app := range cfg.Transports.FCM.Apps {
		k, err := newFCM("", app, in, now)
		if err != nil {
			found.problems = append(found.problems, fault(cfg, fmt.Sprintf("transports.fcm.apps[%d].service_account", i), err))
			continue
		}
		all = append(all, k)
	}
	return all
}

// newFCM builds one app of FCM, unless in has it.
func newFCM(provider string, app config.FCMApp, in []known[*push.FCMApp], now func() time.Time) (k known[*push.FCMApp], err error) {
	account := []byte(app.ServiceAccount.Reveal())
	k.of = fingerprintOf(provider, app.Client, string(account), app.Package, app.Endpoint, app.Privacy)
	if a, ok := find(in, k.of); ok {
		k.app = a
		return k, nil
	}
	sender, err := fcm.New(fcm.Config{ServiceAccount: account, Endpoint: app.Endpoint, Now: now})
	k.app = &push.FCMApp{
		Provider: provider, Match: matcher(app.Client), Project: projectOf(account), Package: app.Package, Sender: sender, Privacy: own(app.Privacy), Since: now(),
	}
	return k, err
}

// makeAPNs builds the apps of APNs, save those that are known already.
func makeAPNs(cfg *config.Config, in []known[*push.APNsApp], now func() time.Time, found *findings) (all []known[*push.APNsApp]) {
	for i, app := range cfg.Transports.APNs.Apps {
		key := fmt.Sprintf("transports.apns.apps[%d]", i)
		var k known[*push.APNsApp]
		files, field, err := readAPNs(app)
		if err == nil {
			k, field, err = newAPNs("", app, files, in, now)
		}
		switch {
		case errors.Is(err, apns.ErrExpired):
			found.expired = append(found.expired, cfg.Problem(key+"."+field, "%s: %v", app.CertificateFile, err))
		case err != nil && field == "certificate_file":
			found.problems = append(found.problems, fault(cfg, key+"."+field, fmt.Errorf("%s: %w", app.CertificateFile, err)))
			continue
		case err != nil:
			found.problems = append(found.problems, fault(cfg, key+"."+field, err))
			continue
		case !k.app.Expires.IsZero() && k.app.Expires.Sub(now()) <= warnBefore:
			found.soon = append(found.soon, cfg.Problem(key+".certificate_file", "%s: the certificate ends on %s: renew it at Apple's developer site",
				app.CertificateFile, k.app.Expires.UTC().Format(time.DateTime)))
		}
		all = append(all, k)
	}
	return all
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

// newAPNs opens the credential of one app, unless in has it; field is the key at fault. With a certificate that has
// expired there is an app all the same.
func newAPNs(provider string, app config.APNsApp, files apnsFiles, in []known[*push.APNsApp], now func() time.Time) (k known[*push.APNsApp], field string, err error) {
	k.of = fingerprintOf(provider, app.Client, app.Topic, app.Environment, app.Key.Reveal(), app.KeyID, app.TeamID,
		app.CertificatePassword.Reveal(), app.URL, app.OtherURL, app.Privacy, strconv.Itoa(app.Connections), string(files.certificate), string(files.ca))
	if a, ok := find(in, k.of); ok {
		k.app = a
		return k, "", nil
	}
	a := &push.APNsApp{Provider: provider, Match: matcher(app.Client), Topic: app.Topic, Environment: app.Environment, Privacy: own(app.Privacy), Since: now()}
	c := apns.Config{URL: app.URL, Environment: app.Environment, Topic: app.Topic, Connections: app.Connections, Now: now}
	if files.ca != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(files.ca) {
			return k, "ca_file", fmt.Errorf("%s holds no PEM certificate", cmp.Or(app.CAFile, "it"))
		}
	}
	other, both := apns.Sandbox, true
	if app.Environment == apns.Sandbox {
		other = apns.Production
	}
	var expired error
	if files.certificate != nil {
		var info apns.CertificateInfo
		c.Certificate, info, err = apns.LoadCertificate(files.certificate, app.CertificatePassword.Reveal(), app.Environment, app.Topic, now())
		if errors.Is(err, apns.ErrExpired) {
			expired = err
		} else if err != nil {
			return k, "certificate_file", err
		}
		a.Expires, both = info.NotAfter, slices.Contains(info.Environments, other)
	} else {
		c.TokenKey, err = apns.LoadTokenKey([]byte(app.Key.Reveal()), app.KeyID, app.TeamID)
		if err != nil {
			return k, "key", err
		}
	}
	if a.Sender, err = apns.New(c); err != nil {
		return k, "url", err
	}
	if both && (app.URL == "" || app.OtherURL != "") {
		c.Environment, c.URL = other, app.OtherURL
		if a.Other, err = apns.New(c); err != nil {
			return k, "other_url", err
		}
	}
	k.app = a
	return k, "certificate_file", expired
}

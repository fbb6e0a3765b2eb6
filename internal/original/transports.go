package original

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/posthorn-mail/posthorn/internal/apns"
	"github.com/posthorn-mail/posthorn/internal/config"
)

// app is one credential of Apple's that was taken.
type app struct {
	client string
	name   string // of its file
}

// option is a value of the options of one client, from a YAML file.
type option struct {
	value  string
	line   int
	merged bool // it is another client's, by <<
}

// options are those of one client.
type options struct {
	file, client string
	line         int
	values       map[string]option
	order        []string
}

func (o options) flag(name string, otherwise bool) bool {
	v, ok := o.values[name]
	if !ok || v.value == "" {
		return otherwise
	}
	return strings.EqualFold(v.value, "true")
}

// apns takes over the certificates of both generations.
func (r *Reader) apns() {
	for _, v1 := range []struct{ platform, client string }{{"ios", v1App}, {"macos", v1Mac}} {
		r.apnsV1("com.openexchange.mobilepush.events.apn."+v1.platform+".", v1.client)
	}
	bases := []string{
		"com.openexchange.pns.transport.apn.ios.enabled", "com.openexchange.pns.transport.apn.macos.enabled",
		"com.openexchange.pns.transport.apns_http2.ios.enabled", "com.openexchange.pns.transport.apns_http2.enabled",
	}
	for _, file := range []string{"pns-apns-options.yml", "pns-apns_http2-options.yml"} {
		for _, o := range r.clientOptions(file) {
			r.apnsV2(o, r.pnsEnabled(bases, o.client))
		}
	}
	for key := range r.tree.props {
		for _, base := range bases {
			if key == base || strings.HasPrefix(key, base+".") {
				r.judge(key, Changed, "transports.apns.apps", "a client is served when an entry of the list has its name")
			}
		}
	}
	if len(r.apps) > 0 {
		r.out.set("transports.apns.enabled", true, "")
	}
}

// pnsEnabled is the rule of the second generation: for new mail the most specific key decides.
func (r *Reader) pnsEnabled(bases []string, client string) bool {
	for _, base := range bases {
		for _, key := range []string{base + "." + client + ".ox:mail:new", base + "." + client, base} {
			if v, ok := r.get(key); ok && v != "" {
				if r.flag(key, false) {
					return true
				}
				break
			}
		}
	}
	return false
}

func (r *Reader) apnsV1(prefix, client string) {
	enabled, keystore, password, production := prefix+"enabled", prefix+"keystore", prefix+"password", prefix+"production"
	r.judge(prefix+"feedbackQueryInterval", Dropped, "", "Apple's feedback service is gone: a token that is dead is known by the answer to a notification")
	rest := []string{password, production}
	drop := func(why string) {
		for _, k := range append([]string{enabled, keystore}, rest...) {
			r.judge(k, Dropped, "", why)
		}
	}
	path := r.text(keystore)
	switch {
	case !r.flag(enabled, false):
		drop("APNs was not enabled for this app")
		return
	case path == "":
		r.ask(enabled, Dropped, "", "no keystore is named: the certificate was that of the package with the vendor's, for the vendor's app. "+
			"Your own app needs a key of your own: Apple's developer site, Keys, Apple Push Notifications service; then an entry in transports.apns.apps")
		drop("APNs has no credential without a keystore")
		return
	}
	taken, problem := r.certificate(client, path, r.text(password), r.flag(production, true), r.from(keystore))
	if problem != "" {
		r.ask(keystore, Dropped, "", problem)
		drop("the keystore was dropped")
		return
	}
	r.judge(enabled, Taken, "transports.apns.enabled", "")
	r.judge(keystore, Changed, "transports.apns.apps: certificate_file", taken.note)
	r.judge(password, Taken, "transports.apns.apps: certificate_password", "")
	if taken.other {
		r.judge(production, Changed, "transports.apns.apps: environment", "the certificate is good for "+taken.environment+" only")
	} else {
		r.judge(production, Taken, "transports.apns.apps: environment", "")
	}
}

func (r *Reader) apnsV2(o options, enabled bool) {
	entry := func(name string, v Verdict, to, why string, needsYou bool) {
		opt, ok := o.values[name]
		if ok && !opt.merged {
			r.yamlEntry(o.file, opt.line, o.client+"."+name, opt.value, v, to, why, needsYou)
			delete(o.values, name)
		}
	}
	defer func() {
		for _, name := range o.order {
			entry(name, Dropped, "", notKnown, false)
		}
	}()
	known := []string{"enabled", "keystore", "password", "production", "topic", "authtype", "privatekey", "keyid", "teamid"}
	dropAll := func(why string) {
		for _, name := range known {
			entry(name, Dropped, "", why, false)
		}
	}
	switch {
	case !o.flag("enabled", true):
		dropAll("it was not enabled")
		return
	case !enabled:
		dropAll("the transport was not enabled for this client in pns.properties")
		return
	case !isClient(o.client):
		entry("enabled", Dropped, "", noClient, true)
		dropAll(noClient)
		return
	}
	if strings.EqualFold(o.values["authtype"].value, "jwt") {
		if problem := r.tokenKey(o); problem != "" {
			entry("privatekey", Dropped, "", problem, true)
			dropAll("the key was dropped")
			return
		}
		for _, name := range []string{"enabled", "topic", "authtype", "keyid", "teamid", "production"} {
			entry(name, Taken, "transports.apns.apps", "", false)
		}
		entry("privatekey", Changed, "transports.apns.apps: key", "copied", false)
		return
	}
	taken, problem := r.certificate(o.client, o.values["keystore"].value, o.values["password"].value, o.flag("production", true), fmt.Sprintf("%s:%d", o.file, o.line))
	if problem != "" {
		name := "keystore"
		if _, ok := o.values[name]; !ok {
			name = "enabled"
		}
		entry(name, Dropped, "", problem, true)
		dropAll("the keystore was dropped")
		return
	}
	entry("enabled", Taken, "transports.apns.apps", "", false)
	entry("keystore", Changed, "transports.apns.apps: certificate_file", taken.note, false)
	entry("password", Taken, "transports.apns.apps: certificate_password", "", false)
	entry("topic", Changed, "transports.apns.apps: topic", "the certificate says it: "+taken.topic, false)
	if taken.other {
		entry("production", Changed, "transports.apns.apps: environment", "the certificate is good for "+taken.environment+" only", false)
	}
	entry("production", Taken, "transports.apns.apps: environment", "", false)
	entry("authtype", Taken, "transports.apns.apps: certificate_file", "", false)
}

// certified is what became of a keystore.
type certified struct {
	topic, environment, note string
	other                    bool // the environment is not the one that was configured
}

// warnBefore is when a certificate's end is worth a word.
const warnBefore = 60 * 24 * time.Hour

// certificate takes a keystore, or says what keeps it from being used.
func (r *Reader) certificate(client, path, password string, production bool, from string) (c certified, problem string) {
	if path == "" {
		return c, "no keystore is named"
	}
	if r.hasApp(client) {
		return c, "there is a credential for this client already: the first is taken"
	}
	data, where, err := r.tree.locate(path)
	if err != nil {
		return c, "the keystore cannot be read: " + reason(err) + ". Copy it into the directory and run this again"
	}
	info, err := apns.ReadCertificate(data, password)
	if err != nil {
		return c, where + ": " + keystoreProblem(data, err)
	}
	if c.topic = topicOf(info.Topics); c.topic == "" {
		return c, where + ": it names no topic, so it is no push certificate of Apple's"
	}
	if !info.NotAfter.After(r.opts.Now) {
		return c, fmt.Sprintf("%s: the certificate expired on %s. Renew it at Apple's developer site, or better make a key (.p8), which does not expire, "+
			"and add an entry to transports.apns.apps: topic %s. The devices' tokens stay valid", where, info.NotAfter.UTC().Format(time.DateOnly), c.topic)
	}
	c.environment = "sandbox"
	if production {
		c.environment = "production"
	}
	if len(info.Environments) == 1 && info.Environments[0] != c.environment {
		c.environment, c.other = info.Environments[0], true
	}
	if _, _, err := apns.LoadCertificate(data, password, c.environment, c.topic, r.opts.Now); err != nil {
		return c, where + ": " + err.Error()
	}
	ends := info.NotAfter.UTC().Format(time.DateOnly)
	if info.NotAfter.Sub(r.opts.Now) < warnBefore {
		r.finding(true, where, "the certificate ends on %s: renew it at Apple's developer site, or make a key (.p8), which does not expire", ends)
	}
	name := "apns-" + client
	c.note = fmt.Sprintf("copied from %s: topic %s, %s, ends on %s", where, c.topic, c.environment, ends)
	m := r.out.entry("transports.apns.apps", from)
	put(m, "client", client, "")
	put(m, "topic", c.topic, "of the certificate, which ends on "+ends)
	put(m, "environment", c.environment, "")
	put(m, "certificate_file", r.out.file(name+".p12", data, 0o600), "from "+where)
	put(m, "certificate_password_file", r.out.file(name+".password", []byte(password+"\n"), 0o600), "")
	r.apps = append(r.apps, app{client, name})
	return c, ""
}

// keystoreProblem says what to do about a keystore that cannot be read.
func keystoreProblem(data []byte, err error) string {
	switch text := err.Error(); {
	case len(data) == 0:
		return "it is empty: copy it again"
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return "it is PEM, not PKCS #12: openssl pkcs12 -export makes one of it"
	case strings.Contains(text, "private key missing"):
		return "it has a certificate and no private key: export the two together"
	case strings.Contains(text, "asn1: "):
		return "it is no PKCS #12 file, or it is cut off: copy it again"
	case strings.Contains(text, "no MAC"):
		return "it has no integrity check (MAC): export it again, with a password"
	default:
		return text
	}
}

func (r *Reader) hasApp(client string) bool {
	return slices.ContainsFunc(r.apps, func(a app) bool { return a.client == client })
}

// topicOf chooses the app's own topic among those of a certificate, which may have "….voip" beside it.
func topicOf(topics []string) string {
	if len(topics) == 0 {
		return ""
	}
	return slices.MinFunc(topics, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
}

// tokenKey takes a .p8 key.
func (r *Reader) tokenKey(o options) (problem string) {
	if r.hasApp(o.client) {
		return "there is a credential for this client already: the first is taken"
	}
	path, topic := o.values["privatekey"].value, o.values["topic"].value
	keyID, teamID := o.values["keyid"].value, o.values["teamid"].value
	if path == "" || topic == "" || keyID == "" || teamID == "" {
		return "privatekey, keyid, teamid and topic are needed together: add an entry to transports.apns.apps by hand"
	}
	data, where, err := r.tree.locate(path)
	if err != nil {
		return "the key cannot be read: " + reason(err) + ". Copy it into the directory and run this again"
	}
	if _, err := apns.LoadTokenKey(data, keyID, teamID); err != nil {
		return where + ": " + err.Error()
	}
	environment := "sandbox"
	if o.flag("production", true) {
		environment = "production"
	}
	name := "apns-" + o.client
	m := r.out.entry("transports.apns.apps", fmt.Sprintf("%s:%d", o.file, o.line))
	put(m, "client", o.client, "")
	put(m, "topic", topic, "")
	put(m, "environment", environment, "")
	put(m, "key_file", r.out.file(name+".p8", data, 0o600), "from "+where)
	put(m, "key_id", keyID, "")
	put(m, "team_id", teamID, "")
	r.apps = append(r.apps, app{o.client, name})
	return ""
}

const gcmIsDead = "Google has switched off the interface that GCM server keys were for (2024). Instead, make a service account: Firebase console, " +
	"project settings, Service accounts, Generate new private key, in the project whose sender id the app has; then run this again with --firebase FILE. " +
	"The devices' tokens stay valid"

// fcm says what takes the place of GCM's keys.
func (r *Reader) fcm() {
	dead := func(used bool) (string, bool) {
		switch {
		case !used:
			return "GCM was not enabled", false
		case r.opts.ServiceAccount != nil:
			return "the service account of --firebase takes its place", false
		}
		return gcmIsDead, true
	}
	const prefix = "com.openexchange.mobilepush.events.gcm."
	used := r.flag(prefix+"enabled", false)
	why, hand := dead(used)
	r.verdict(prefix+"key", Dropped, "", why, hand)
	if used {
		r.judge(prefix+"enabled", Changed, "transports.fcm.enabled", "with a service account")
		r.fcmClients = append(r.fcmClients, v1App)
	} else {
		r.judge(prefix+"enabled", Dropped, "", why)
	}
	bases := []string{"com.openexchange.pns.transport.gcm.enabled", "com.openexchange.pns.transport.fcm.enabled"}
	keys := map[string]bool{}
	for _, o := range r.clientOptions("pns-gcm-options.yml") {
		used := o.flag("enabled", true) && r.pnsEnabled(bases, o.client)
		why, hand := dead(used)
		if used {
			r.fcmClients = append(r.fcmClients, o.client)
			keys[o.values["key"].value] = true
		}
		for _, name := range o.order {
			v := o.values[name]
			if v.merged {
				continue
			}
			switch name {
			case "key":
				r.yamlEntry(o.file, v.line, o.client+"."+name, v.value, Dropped, "", why, hand)
			case "enabled":
				if used {
					r.yamlEntry(o.file, v.line, o.client+"."+name, v.value, Changed, "transports.fcm.enabled", "with a service account", false)
				} else {
					r.yamlEntry(o.file, v.line, o.client+"."+name, v.value, Dropped, "", why, false)
				}
			default:
				r.yamlEntry(o.file, v.line, o.client+"."+name, v.value, Dropped, "", notKnown, false)
			}
		}
	}
	for key := range r.tree.props {
		for _, base := range bases {
			if key == base || strings.HasPrefix(key, base+".") {
				r.judge(key, Changed, "transports.fcm.apps", "a client is served when an entry of the list fits its name")
			}
		}
	}
	if len(keys) > 1 && r.opts.ServiceAccount != nil {
		r.finding(true, "transports.fcm.apps", "the clients had %d server keys, so perhaps as many projects; one service account now serves all. Give those of another project an entry of their own", len(keys))
	}
	if r.opts.ServiceAccount != nil {
		m := r.out.entry("transports.fcm.apps", "--firebase")
		put(m, "client", "*", "")
		put(m, "service_account_file", r.out.file("firebase.json", r.opts.ServiceAccount, 0o600), "")
		r.out.set("transports.fcm.enabled", true, "")
	}
}

// served says what subscriptions wait for that no credential serves yet.
func (r *Reader) served(transport, client string, n int) {
	switch {
	case transport == "fcm" && r.opts.ServiceAccount == nil:
		r.finding(true, client, "%s for a service account (FCM). %s", plural(n, "device waits", "devices wait"), gcmIsDead)
	case transport == "apns" && !r.hasApp(client):
		r.finding(true, client, "%s for a credential (APNs): add an entry for this client to transports.apns.apps", plural(n, "device waits", "devices wait"))
	}
	if r.allowed != nil && !slices.ContainsFunc(r.allowed, func(p string) bool { return config.MatchClient(p, client) }) {
		r.finding(true, client, "%s, and push.allowed_clients does not have this client, as before: add it, or they are never told of mail",
			plural(n, "device subscribed", "devices subscribed"))
	}
}

// clientOptions reads the files of a name that hold options for each client.
func (r *Reader) clientOptions(name string) (all []options) {
	for _, file := range r.tree.named(name) {
		r.yamlFile(file, func(root *yaml.Node) {
			for i := 0; i+1 < len(root.Content); i += 2 {
				k, v := root.Content[i], root.Content[i+1]
				if v = target(v); v.Kind != yaml.MappingNode || len(v.Content) == 0 {
					r.yamlEntry(file, k.Line, k.Value, v.Value, Dropped, "", notKnown, false)
					continue
				}
				o := options{file: file, client: k.Value, line: k.Line, values: map[string]option{}}
				r.options(&o, v, false)
				all = append(all, o)
			}
		})
	}
	return all
}

// target is what a node of YAML stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// options reads those of one client, with those that <<: *other brings, which give way.
func (r *Reader) options(o *options, v *yaml.Node, merged bool) {
	for j := 0; j+1 < len(v.Content); j += 2 {
		key, value := v.Content[j], target(v.Content[j+1])
		before, twice := o.values[key.Value]
		switch {
		case key.Value == "<<" && value.Kind == yaml.MappingNode && !merged:
			r.yamlEntry(o.file, key.Line, o.client+".<<", value.Anchor, Changed, "the options of this client", "its values are taken, but for those that are given here", false)
			r.options(o, value, true)
		case merged && (twice || value.Kind != yaml.ScalarNode):
		case value.Kind != yaml.ScalarNode:
			r.leaves(o.file, o.client+"."+key.Value, value, func(key string, n *yaml.Node) {
				r.yamlEntry(o.file, n.Line, key, n.Value, Dropped, "", notKnown, false)
			})
		default:
			if twice && !before.merged {
				r.yamlEntry(o.file, before.line, o.client+"."+key.Value, before.value, Dropped, "", fmt.Sprintf("it is there again in line %d, and the later one wins", key.Line), false)
			}
			if !slices.Contains(o.order, key.Value) {
				o.order = append(o.order, key.Value)
			}
			o.values[key.Value] = option{strings.TrimSpace(value.Value), key.Line, merged}
		}
	}
}

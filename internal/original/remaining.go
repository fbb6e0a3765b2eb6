package original

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/config"
)

// idle are known keys that have no counterpart, and why.
var idle = map[string]string{
	"com.openexchange.push.reschedule.delayDuration":                   "a node that comes or goes moves its share of the listeners at once, and no other",
	"com.openexchange.push.reschedule.timerFrequency":                  "a node that comes or goes moves its share of the listeners at once, and no other",
	"com.openexchange.push.dovecot.clusterLock":                        "each listener has one owner, by rendezvous hashing: no lock is needed",
	"com.openexchange.push.dovecot.stateless":                          "a listener is a wanted state here, and is listed wherever it runs",
	"com.openexchange.push.imapidle.clusterLock":                       "each listener has one owner, by rendezvous hashing: no lock is needed",
	"com.openexchange.push.imapidle.folder":                            "the INBOX is watched, and every folder that a device names in its topics",
	"com.openexchange.push.imapidle.delay":                             "listen.rejection_wait and growing waits decide when a connection is tried again",
	"com.openexchange.push.imapidle.pushMode":                          "what is new is known by its uid, so nothing is told twice or too early",
	"com.openexchange.push.imapidle.checkPeriod":                       "listen.audit decides when a listener is looked at again",
	"com.openexchange.push.imapidle.accountId":                         "a user has one mail account here",
	"com.openexchange.IPCheckWhitelist":                                "sessions are not bound to an address, as those of phones must not be",
	"com.openexchange.pns.timerFrequency":                              "slots are looked at when they are due",
	"com.openexchange.pns.numProcessorThreads":                         "push.max_in_flight bounds what is under way, for each credential",
	"com.openexchange.pns.maxProcessorTasks":                           "the queue is a row for each device in the database: it needs no bound of its own",
	"com.openexchange.pns.enabled":                                     "push is what Posthorn is for; capability.push switches it off for some",
	"com.openexchange.pns.transport.wns.enabled":                       "Windows phones are not served",
	"com.openexchange.pns.transport.websocket.enabled":                 "web sockets tell an app that is open, which asks the server by itself here",
	"com.openexchange.pns.transport.webhooks.enabled":                  "webhooks are not served",
	"com.openexchange.pns.mobile.api.facade.apn.badge.enabled":         "the count is sent with every notification, and corrected when mail is read elsewhere",
	"com.openexchange.pns.mobile.api.facade.apn.sound.enabled":         "the app decides on its sound",
	"com.openexchange.pns.mobile.api.facade.apn.sound.filename":        "the app decides on its sound",
	"com.openexchange.pns.transport.apn.ios.feedbackQueryInterval":     "Apple's feedback service is gone: a token that is dead is known by the answer to a notification",
	"com.openexchange.mail.proxyDelimiter":                             "the master user signs in for the user (SASL PLAIN), without a login made of both",
	"com.openexchange.mail.transportServer":                            "mail is not sent through this server yet",
	"com.openexchange.mail.transportServerSource":                      "mail is not sent through this server yet",
	"com.openexchange.mail.adminMailLoginEnabled":                      "there is no administrator with a mailbox here",
	"com.openexchange.push.credstorage.rdb":                            "without credstorage.enabled it had no effect",
	"com.openexchange.connector.networkSslListenerPort":                "public.tls and a reverse proxy are the ways to TLS",
	"com.openexchange.push.malpoll.period":                             "listen.poll decides how often a server without IDLE is asked",
	"com.openexchange.push.malpoll.global":                             "a server without IDLE is asked every listen.poll",
	"com.openexchange.push.malpoll.folder":                             "the INBOX is watched, and every folder that a device names in its topics",
	"com.openexchange.push.malpoll.concurrentglobal":                   "listen.at_once bounds how many users are worked on at the same time",
	"com.openexchange.push.udp.pushEnabled":                            "this was between nodes, which tell each other over the bus here",
	"com.openexchange.push.ms.enabled":                                 "this was between nodes, which tell each other over the bus here",
	"com.openexchange.push.impl.numberOfEventThreads":                  "push.max_in_flight bounds what is under way, for each credential",
	"com.openexchange.mobilepush.events.apn.badge.enabled":             "the count is sent with every notification, and corrected when mail is read elsewhere",
	"com.openexchange.mobilepush.events.apn.sound.enabled":             "the app decides on its sound",
	"com.openexchange.mobilepush.events.apn.sound.filename":            "the app decides on its sound",
	"com.openexchange.rest.services.core.enabled":                      "the API that mail servers report to is always there",
	"com.openexchange.connector.maxRequestParameters":                  "requests are bounded",
	"com.openexchange.connector.backendRoute":                          "any node answers any request",
	"com.openexchange.mail.enforceSecureConnection":                    "mail servers are always reached by verified TLS, unless a mail host says otherwise",
	"com.openexchange.push.mail.notify.enabled":                        "mail servers do not report by UDP here: set mailnotify.enabled if they do",
	"com.openexchange.mobilepush.events.apn.ios.feedbackQueryInterval": "Apple's feedback service is gone: a token that is dead is known by the answer to a notification",
}

// taken are the keys, by canonical name, that Open judges; with idle and the families they are all that is known.
var taken = []string{
	"com.openexchange.push.allowPermanentPush", "com.openexchange.push.allowedClients", "com.openexchange.push.allowedClient",
	"com.openexchange.push.credstorage.enabled", "com.openexchange.push.credstorage.passcrypt", "com.openexchange.push.credstorage.rdb",
	"com.openexchange.push.dovecot.enabled", "com.openexchange.push.dovecot.preferDoveadmForMetadata",
	"com.openexchange.push.imapidle.enabled", "com.openexchange.push.imapidle.supportsPermanentListeners",
	"com.openexchange.push.mail.notify.udp_listen_host", "com.openexchange.push.mail.notify.udp_listen_port",
	"com.openexchange.push.mail.notify.udp_listen_multicast", "com.openexchange.push.mail.notify.imap_login_delimiter",
	"com.openexchange.push.mail.notify.use_ox_login", "com.openexchange.push.mail.notify.use_full_email_address", "com.openexchange.push.mail.notify.delay_millis",
	"com.openexchange.dovecot.doveadm.enabled", "com.openexchange.dovecot.doveadm.apiSecret", "com.openexchange.dovecot.doveadm.endpoints",
	"com.openexchange.mail.passwordSource", "com.openexchange.mail.masterPassword", "com.openexchange.mail.mailServerSource",
	"com.openexchange.mail.mailServer", "com.openexchange.mail.loginSource",
	"com.openexchange.rest.services.basic-auth.login", "com.openexchange.rest.services.basic-auth.password",
	"com.openexchange.connector.networkListenerHost", "com.openexchange.connector.networkListenerPort",
	"com.openexchange.pns.delayDuration", "com.openexchange.pns.maxDelayDuration",
	"com.openexchange.pns.transport.apn.ios.enabled", "com.openexchange.pns.transport.apns_http2.ios.enabled", "com.openexchange.pns.transport.gcm.enabled",
	"com.openexchange.mobilepush.events.gcm.enabled", "com.openexchange.mobilepush.events.gcm.key",
	"com.openexchange.mobilepush.events.apn.ios.enabled", "com.openexchange.mobilepush.events.apn.ios.keystore",
	"com.openexchange.mobilepush.events.apn.ios.password", "com.openexchange.mobilepush.events.apn.ios.production",
	"com.openexchange.mobilepush.events.apn.macos.enabled", "com.openexchange.mobilepush.events.apn.macos.keystore",
	"com.openexchange.mobilepush.events.apn.macos.password", "com.openexchange.mobilepush.events.apn.macos.production",
	mobileMailApp,
}

// families are what the rest of the original's keys are about, by how they begin.
var families = []struct{ prefix, about string }{
	{"com.openexchange.capability.", "capabilities of other parts: Posthorn has mobile_mail_app and push"},
	{"com.openexchange.imap.", "the IMAP client of the system before: Posthorn's finds out by itself what a server can do"},
	{"com.openexchange.mail.", "the web mail of the system before"},
	{"com.openexchange.smtp.", "mail is not sent through this server yet"},
	{"com.openexchange.push.", "a part of push that Posthorn has no need of"},
	{"com.openexchange.pns.", "a part of push that Posthorn has no need of"},
	{"com.openexchange.hazelcast.", "the cluster of the system before: see \"bus\" in the configuration"},
	{"com.openexchange.", "another part of the system before"},
	{"com.open", ""},
}

// remaining says what becomes of every key that nothing has judged.
func (r *Reader) remaining() {
	known := append(slices.Clone(taken), sortedKeys(idle)...)
	for _, f := range r.tree.all {
		if f.judged {
			continue
		}
		name := canonical(f.key)
		var why string
		switch winner := r.tree.props[name]; {
		case winner != f:
			again := "the later one wins"
			if spelling(f.key) < spelling(winner.key) {
				again = "the system before read that spelling"
			}
			why = fmt.Sprintf("it is there again in %s:%d, and %s", winner.file, winner.line, again)
		default:
			why = reasonFor(name, known)
		}
		f.judged = true
		r.report.Entries = append(r.report.Entries, Entry{
			File: f.file, Line: f.line, Key: keyName(f.key), Value: f.shown(), Verdict: Dropped, Reason: why,
			NeedsYou: strings.HasPrefix(why, "not known; did you mean"),
		})
	}
}

// shown is the value as the report may show it: of a key that is not known, nothing.
func (f *found) shown() string {
	name := canonical(f.key)
	if _, known := idle[name]; known || slices.Contains(taken, name) || forClient.MatchString(name) {
		return shown(f.key, f.value)
	}
	return hidden(f.value)
}

// keyName is a key as the report shows it.
func keyName(key string) string {
	if len(key) > maxKeyLen {
		key = key[:maxKeyLen] + "…"
	}
	return strings.Map(printable, strings.ToValidUTF8(key, "?"))
}

// forClient are the switches of a transport for one client.
var forClient = regexp.MustCompile(`^com\.openexchange\.pns\.transport\.[a-z0-9_.]+\.enabled\.`)

func reasonFor(name string, known []string) string {
	if why, ok := idle[name]; ok {
		return why
	}
	for key, why := range idle { // com.openexchange.pns.transport.wns.enabled.<client>
		if strings.HasSuffix(key, ".enabled") && strings.HasPrefix(name, key+".") {
			return why
		}
	}
	if meant := nearest(name, known); meant != "" {
		return "not known; did you mean " + meant + "?"
	}
	for _, f := range families {
		if strings.HasPrefix(name, f.prefix) && f.about != "" {
			return f.about
		}
	}
	return notKnown
}

// nearest is the known key that is at most two slips away, or "".
func nearest(name string, known []string) string {
	const slips = 2
	best, least := "", slips+1
	for _, k := range known {
		if d := len(k) - len(name); d > slips || d < -slips {
			continue
		}
		if d := config.Distance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// The steps before anything is written.
const (
	seeToIt = `See to what is marked with "!", and run this again: without --write it changes nothing.`
	writeIt = "Run it with --write while no server runs on the state directory."
)

// Written takes the steps away that come before anything is written.
func (r *Report) Written() {
	r.Next = slices.DeleteFunc(r.Next, func(step string) bool { return step == seeToIt || step == writeIt })
	if r.NeedsYou() > 0 {
		r.Next = slices.Insert(r.Next, 0, `See to what is marked with "!".`)
	}
}

// advise lists the steps from here.
func (r *Reader) advise(p *Plan) {
	next := func(step string) { r.report.Next = append(r.report.Next, step) }
	if r.report.NeedsYou() > 0 {
		next(seeToIt)
	}
	next(writeIt)
	next("posthorn config check: it opens every key and certificate that the configuration names.")
	next("Start the server, then posthorn doctor: it looks at each mail host from end to end.")
	if len(p.MailHosts) > 0 {
		next("Let Dovecot report to Posthorn: change the host in push_notification_driver. From then on Posthorn tells the devices, and the system before does not.")
	}
	next("Stop the push of the system before. docs/moving-over.md says in which order, what users notice, and how to go back.")
}

package config

import (
	"strings"
	"testing"
)

// TestCheck is the golden table of what is said about values that are understood, but wrong.
func TestCheck(t *testing.T) {
	const (
		app  = "transports:\n  apns:\n    enabled: true\n    apps:\n    - topic: com.example.mail\n      "
		fcm  = "transports:\n  fcm:\n    enabled: true\n    apps:\n    - service_account: x\n      "
		mesh = "database:\n  url: postgres://h/n\nbus:\n  listen: ':8010'\n  certificate_file: c\n  key: canary\n  ca_file: c\n"
		key  = "key: x\n      key_id: ABC123DEFG\n      team_id: DEF123GHIJ\n      "
	)
	for _, tc := range []struct{ name, text, want string }{
		{"word", "log: {level: loud}", `posthorn.yml:1: log.level: "loud" is not one of debug, info, warn, error`},
		{"near word", "internal: {notify: {user_form: metdata}}", `posthorn.yml:1: internal.notify.user_form: "metdata" is not one of login, metadata; did you mean metadata?`},
		{"environment word", app + key + "environment: development\n", `posthorn.yml:9: transports.apns.apps[0].environment: "development" is not one of production, sandbox`},
		{"number too small", "sessions: {max_per_user: 0}", `posthorn.yml:1: sessions.max_per_user: 0 is out of bounds: at least 1, at most 10000`},
		{"duration too long", "push: {new_mail_ttl: 30d}", `posthorn.yml:1: push.new_mail_ttl: 30d is out of bounds: at least 1m, at most 28d`},
		{"coalescing off", "push: {coalesce: 0s, coalesce_max: 0s, badge_delay: 0s}", ``},
		{"coalescing the wrong way", "push: {coalesce: 11s}", `posthorn.yml:1: push.coalesce_max: 10s is less than push.coalesce (11s): the longest wait cannot be the shorter one`},
		{"privacy of an app", "transports: {webpush: {privacy: some}}", `posthorn.yml:1: transports.webpush.privacy: "some" is not one of inherit, full, sender, none, sealed`},
		{"long state_dir", "state_dir: /" + strings.Repeat("x", 90), `posthorn.yml:1: state_dir: the path has 91 bytes, more than the 90 that leave room for a socket: choose a shorter one`},
		{"state_dir that fits", "state_dir: /" + strings.Repeat("x", 89), ``},

		{"installation_id", "installation_id: " + strings.Repeat("aZ0.", 15) + "_-.x", ``},
		{"long installation_id", "installation_id: " + strings.Repeat("x", 65), `posthorn.yml:1: installation_id: it must have 1 to 64 letters, digits and . - _`},
		{"installation_id with a TAB", "installation_id: \"a\\tuser=1@1\"", `posthorn.yml:1: installation_id: it must have 1 to 64 letters, digits and . - _`},
		{"installation_id with a line break", "installation_id: \"a\\n\"", `posthorn.yml:1: installation_id: it must have 1 to 64 letters, digits and . - _`},

		{"redirects", "sign_in: {redirect_uris: ['com.example.mail:/in', 'com.example.mail://in', 'https://mail.example.org/in?x=1', 'http://127.0.0.1/in', 'http://[::1]:8080/in']}", ``},
		{"redirects that are none", "sign_in: {redirect_uris: [in, 'com.example.mail:in', \"https://mail.example.org/a b\", 'https:///in']}", `posthorn.yml:1: sign_in.redirect_uris[0]: it is no address such as https://mail.example.com/signed-in or com.example.mail:/signed-in
posthorn.yml:1: sign_in.redirect_uris[1]: it is no address such as https://mail.example.com/signed-in or com.example.mail:/signed-in
posthorn.yml:1: sign_in.redirect_uris[2]: it is no address such as https://mail.example.com/signed-in or com.example.mail:/signed-in
posthorn.yml:1: sign_in.redirect_uris[3]: it names no host`},
		{"redirects with more", "sign_in: {redirect_uris: ['https://u@mail.example.org/in', 'https://mail.example.org/in#']}", `posthorn.yml:1: sign_in.redirect_uris[0]: it must have no user and no fragment
posthorn.yml:1: sign_in.redirect_uris[1]: it must have no user and no fragment`},
		{"redirects in clear", "sign_in: {redirect_uris: ['http://localhost/in', 'http://127.0.0.1']}", `posthorn.yml:1: sign_in.redirect_uris[0]: with http it must be http://127.0.0.1/… or http://[::1]/…: anything else can be overheard, and localhost may be another machine (RFC 8252 section 8.3)
posthorn.yml:1: sign_in.redirect_uris[1]: with http it must be http://127.0.0.1/… or http://[::1]/…: anything else can be overheard, and localhost may be another machine (RFC 8252 section 8.3)`},
		{"redirects of anybody", "sign_in: {redirect_uris: ['mail:/in', 'javascript:/in']}", `posthorn.yml:1: sign_in.redirect_uris[0]: the scheme of an app must be a domain name backwards, as com.example.mail, which nobody else has (RFC 8252 section 7.1)
posthorn.yml:1: sign_in.redirect_uris[1]: the scheme of an app must be a domain name backwards, as com.example.mail, which nobody else has (RFC 8252 section 7.1)`},

		{"database", "database: {url: mysql://canary}", `posthorn.yml:1: database.url: it must begin with postgres:// or sqlite:`},
		{"database URL", "database: {url: 'postgres://u:canary%@h/n'}", `posthorn.yml:1: database.url: the form is postgres://user:password@host/name, with special characters of the password percent-encoded`},
		{"sqlite URL", "database: {url: 'sqlite:///x'}", `posthorn.yml:1: database.url: the form is sqlite:PATH, such as sqlite:/var/lib/posthorn/posthorn.db`},
		{"sqlite", "database: {url: 'sqlite:/x.db'}", ``},
		{"postgresql", "database: {url: 'postgresql:///posthorn?host=/run/postgresql'}", ``},

		{"bus", "bus: {url: 'nats://u:p@127.0.0.1:4222, tls://n2.example'}", ``},
		{"bus inside", "bus: {url: ''}", ``},
		{"bus scheme", "bus: {url: 'amqp://u:canary@h'}", `posthorn.yml:1: bus.url: it must begin with nats:// or tls://, and so must each further server after a comma`},
		{"bus list", "bus: {url: 'nats://u:canary@h,h2'}", `posthorn.yml:1: bus.url: it must begin with nats:// or tls://, and so must each further server after a comma`},
		{"bus URL", "bus: {url: 'nats://u:canary%@h'}", `posthorn.yml:1: bus.url: the form is nats://user:password@host:4222, with special characters of the password percent-encoded`},
		{"bus path", "bus: {url: 'nats://u:canary@h/path'}", `posthorn.yml:1: bus.url: the form is nats://user:password@host:4222, with special characters of the password percent-encoded`},
		{"bus host", "bus: {url: 'nats://'}", `posthorn.yml:1: bus.url: the form is nats://user:password@host:4222, with special characters of the password percent-encoded`},
		{"mesh", mesh + "  routes: ['node1.example:8010', '[2001:db8::1]:8010']\n  advertise: 'n:1'\n", ``},
		{"mesh and NATS", mesh + "  url: 'nats://n'\n", `posthorn.yml:4: bus.listen: not together with bus.url: nodes meet either at a NATS server or in a mesh of their own`},
		{"mesh on SQLite", strings.Replace(mesh, "postgres://h/n", "sqlite:x", 1), `posthorn.yml:4: bus.listen: nodes share a PostgreSQL: set database.url`},
		{"mesh without keys", "database: {url: 'postgres://h/n'}\nbus: {listen: ':8010'}", `posthorn.yml:2: bus.certificate_file: it is needed with bus.listen, because nodes prove to each other who they are
posthorn.yml:2: bus.key: it is needed with bus.listen, because nodes prove to each other who they are
posthorn.yml:2: bus.ca_file: it is needed with bus.listen, because nodes prove to each other who they are`},
		{"mesh without listen", "bus: {routes: ['n:1'], key: canary}", `posthorn.yml:1: bus.key: it is for a mesh of nodes, which needs bus.listen as well
posthorn.yml:1: bus.routes: it is for a mesh of nodes, which needs bus.listen as well`},
		{"mesh address", strings.Replace(mesh, "':8010'", "8010", 1), `posthorn.yml:4: bus.listen: "8010" is not an address and a port, such as 127.0.0.1:8008 or [::1]:8008`},
		{"mesh route", mesh + "  routes: ['n:8010', 'nats-route://n:1', 'n:0', ':1', n]\n", `posthorn.yml:8: bus.routes[1]: "nats-route://n:1" is not host:port
posthorn.yml:8: bus.routes[2]: "n:0" is not host:port
posthorn.yml:8: bus.routes[3]: ":1" is not host:port
posthorn.yml:8: bus.routes[4]: "n" is not host:port`},
		{"mesh advertise", mesh + "  advertise: node1\n", `posthorn.yml:8: bus.advertise: "node1" is not host:port`},
		{"node name", "node_name: \"a\\nb\"", `posthorn.yml:1: node_name: at most 200 printable characters`},

		{"listen", "public: {listen: 8008}", `posthorn.yml:1: public.listen: "8008" is not an address and a port, such as 127.0.0.1:8008 or [::1]:8008`},
		{"port", "public: {listen: '127.0.0.1:http'}", `posthorn.yml:1: public.listen: "http" is not a port: a number from 1 to 65535, or 0 for any that is free`},
		{"host", "public: {listen: '*:80'}", `posthorn.yml:1: public.listen: "*" is not an address to listen on; for all addresses leave it away, as in :80`},
		{"same port", "public: {listen: ':8009'}", `posthorn.yml:1: public.listen: the same port as internal.listen: choose another one`},
		{"same ports given", "internal: {listen: '127.0.0.1:8008'}", `posthorn.yml:1: internal.listen: the same port as public.listen: choose another one`},
		{"same free port", "public: {listen: '127.0.0.1:0'}\ninternal: {listen: '127.0.0.1:0'}", ``},
		{"same port, other address", "public: {listen: '10.0.0.1:8009'}", ``},
		{"certificate", "public: {tls: {certificate_file: c, key: canary}}", ``},
		{"certificate without key", "public: {tls: {certificate_file: c}}", `posthorn.yml:1: public.tls.key: it is needed with certificate_file: give key_file, the private key in PEM`},
		{"key without certificate", "public: {tls: {key: canary}}", `posthorn.yml:1: public.tls.certificate_file: it is needed with the key`},
		{"two ways of TLS", "public:\n  tls:\n    certificate_file: c\n    key: canary\n    acme: {domains: [a.example], agree_terms: true}\n", `posthorn.yml:2: public.tls: it has both certificate_file and acme.domains: keep one`},
		{"TLS at an http URL", "public: {url: 'http://127.0.0.1', tls: {certificate_file: c, key: canary}}", `posthorn.yml:1: public.url: it must begin with https://, because public.tls has a certificate`},
		{"acme", "public: {listen: ':443', url: 'https://a.example', redirect_listen: ':80', tls: {acme: {domains: [a.example, xn--bcher-kva.example], email: p@a.example, agree_terms: true}}}", ``},
		{"acme terms", "public: {tls: {acme: {domains: [a.example]}}}", `posthorn.yml:1: public.tls.acme.agree_terms: read the terms of service of the authority (https://acme-v02.api.letsencrypt.org/directory names them); if you agree, set it to true`},
		{"acme without domains", "public: {tls: {acme: {agree_terms: true}}}", `posthorn.yml:1: public.tls.acme.domains: name the hosts to have a certificate for: without any, the rest of acme does nothing`},
		{"acme domains", "public: {tls: {acme: {domains: ['*.a.example', 192.0.2.1, 'bücher.example', localhost, a.example, A.example], agree_terms: true}}}", `posthorn.yml:1: public.tls.acme.domains[0]: "*.a.example" is not a host name such as push.example.com; no pattern, no address, an international name in its xn-- form
posthorn.yml:1: public.tls.acme.domains[1]: "192.0.2.1" is not a host name such as push.example.com; no pattern, no address, an international name in its xn-- form
posthorn.yml:1: public.tls.acme.domains[2]: "bücher.example" is not a host name such as push.example.com; no pattern, no address, an international name in its xn-- form
posthorn.yml:1: public.tls.acme.domains[3]: "localhost" is not a host name such as push.example.com; no pattern, no address, an international name in its xn-- form
posthorn.yml:1: public.tls.acme.domains[5]: "a.example" is there twice`},
		{"acme email", "public: {tls: {acme: {domains: [a.example], agree_terms: true, email: 'mailto:p@a.example'}}}", `posthorn.yml:1: public.tls.acme.email: "mailto:p@a.example" is not one mail address`},
		{"acme authority", "public: {tls: {acme: {domains: [a.example], agree_terms: true, ca: 'http://ca.example/dir'}}}", `posthorn.yml:1: public.tls.acme.ca: "http://ca.example/dir" is not the directory of an authority: https://, a host and a path`},
		{"redirect without TLS", "public: {redirect_listen: ':80'}", `posthorn.yml:1: public.redirect_listen: it leads to https, which public.tls would have to speak: set that, or remove this and let the reverse proxy redirect`},
		{"redirect to nowhere", "public: {redirect_listen: ':80', tls: {certificate_file: c, key: canary}}", `posthorn.yml:1: public.redirect_listen: it leads to public.url: set that too`},
		{"redirect port", "public: {url: 'https://a.example', redirect_listen: ':8009', tls: {certificate_file: c, key: canary}}", `posthorn.yml:1: public.redirect_listen: the same port as internal.listen: choose another one`},
		{
			"no password towards others", "internal:\n  listen: :8009\n  notify:\n    password: ''\n",
			`posthorn.yml:4: internal.notify.password: it must not be empty, because internal.listen (:8009) is not a loopback address: remove the key to have one made, or listen on 127.0.0.1`,
		},
		{"no password on loopback", "internal: {listen: '[::1]:8009', notify: {password: ''}}", ``},
		{"made password towards others", "internal: {listen: '10.0.0.1:8009'}", ``},
		{"login", "internal: {notify: {login: 'a:b'}}", `posthorn.yml:1: internal.notify.login: it must not hold a colon or control characters`},
		{"no login", "internal: {notify: {login: ''}}", `posthorn.yml:1: internal.notify.login: it must not be empty`},
		{"two lines of password", "internal: {notify: {password: \"canary\\nb\"}}", `posthorn.yml:1: internal.notify.password: it must be one line without control characters`},

		{"credentials", "credentials: {store: none, passphrase: twelve bytes, old_passphrases: [{passphrase: x}]}", ``},
		{"credentials store", "credentials: {store: disk}", `posthorn.yml:1: credentials.store: "disk" is not one of memory, database, none`},
		{"short passphrase", "credentials: {passphrase: eleven byte}", `posthorn.yml:1: credentials.passphrase: it is too short: at least 12 characters, better 20`},
		{"empty passphrase", "credentials: {passphrase: ''}", `posthorn.yml:1: credentials.passphrase: it is too short: at least 12 characters, better 20`},
		{"old passphrase", "credentials: {old_passphrases: [{passphrase: x}, {}]}", `posthorn.yml:1: credentials.old_passphrases[1].passphrase: it is empty: give passphrase or passphrase_file`},
		{"mailnotify", "mailnotify: {enabled: true}", ``},
		{"mailnotify towards others", "mailnotify: {listen: ':23420', enabled: true}", `posthorn.yml:1: mailnotify.allow_from: name the networks of the mail servers, because others than this machine can send to mailnotify.listen: a report carries no proof of who sent it`},
		{"mailnotify towards others, off", "mailnotify: {listen: ':23420'}", ``},
		{"mailnotify from some", "mailnotify: {listen: ':23420', enabled: true, allow_from: [10.0.0.0/8]}", ``},
		{"mailnotify to a group", "mailnotify: {enabled: true, multicast_group: 239.192.0.23}", `posthorn.yml:1: mailnotify.allow_from: name the networks of the mail servers, because others than this machine can send to mailnotify.listen: a report carries no proof of who sent it`},
		{"no group", "mailnotify: {multicast_group: 10.0.0.1}", `posthorn.yml:1: mailnotify.multicast_group: "10.0.0.1" is not a multicast address, such as 239.192.0.23`},
		{"interface without a group", "mailnotify: {interface: eth1}", `posthorn.yml:1: mailnotify.interface: it is only beside mailnotify.multicast_group`},
		{"mailnotify port", "mailnotify: {listen: 127.0.0.1}", `posthorn.yml:1: mailnotify.listen: "127.0.0.1" is not an address and a port, such as 127.0.0.1:8008 or [::1]:8008`},
		{"mailnotify domain", "mailnotify: {domains: ['@example.org']}", `posthorn.yml:1: mailnotify.domains[0]: "@example.org" is not a domain, such as example.org`},

		{"public http", "public: {url: 'http://push.example.com'}", `posthorn.yml:1: public.url: it must begin with https://, as secrets travel over it`},
		{"public http on loopback", "public: {url: 'http://127.0.0.1:8008'}", ``},
		{"public path", "public: {url: 'https://push.example.com/'}", `posthorn.yml:1: public.url: remove what follows the host and port: https://push.example.com`},
		{"public name only", "public: {url: push.example.com}", `posthorn.yml:1: public.url: "push.example.com" is not https:// followed by a host and perhaps a port`},
		{"public user", "public: {url: 'https://u:canary@push.example.com'}", `posthorn.yml:1: public.url: a user or password does not belong here: only scheme, host and perhaps a port`},

		{"empty client", "push: {allowed_clients: ['']}", `posthorn.yml:1: push.allowed_clients[0]: it must not be empty; * stands for all clients`},
		{"space in client", "push: {allowed_clients: [a, ' b']}", `posthorn.yml:1: push.allowed_clients[1]: " b" begins or ends with a space`},

		{"allow", "outbound: {allow: ['http://127.0.0.1:8026', 'https://h/path']}", `posthorn.yml:1: outbound.allow[1]: remove what follows the host and port: https://h`},
		{"allow pattern", "outbound: {allow: ['https://*.corp.example']}", `posthorn.yml:1: outbound.allow[0]: "https://*.corp.example" is a pattern; write each origin out`},
		{"allow host", "outbound: {allow: ['10.0.0.1:80']}", `posthorn.yml:1: outbound.allow[0]: "10.0.0.1:80" is not http:// or https:// followed by a host and perhaps a port`},
		{"allow nothing", "outbound: {allow: ['']}", `posthorn.yml:1: outbound.allow[0]: "" is not http:// or https:// followed by a host and perhaps a port`},
		{"allow port", "outbound: {allow: ['http://h:0']}", `posthorn.yml:1: outbound.allow[0]: "http://h:0" has no valid port`},

		{"subject", "transports: {webpush: {subject: ops@example.com}}", `posthorn.yml:1: transports.webpush.subject: "ops@example.com" is neither mailto: nor https://`},
		{"subject at localhost", "transports: {webpush: {subject: 'mailto:root@localhost'}}", `posthorn.yml:1: transports.webpush.subject: "localhost" is not a public host name; Apple refuses notifications signed like that. Give a real address, or remove the key`},
		{"subject at .local", "transports: {webpush: {subject: 'https://mail.local/x'}}", `posthorn.yml:1: transports.webpush.subject: "mail.local" is not a public host name; Apple refuses notifications signed like that. Give a real address, or remove the key`},
		{"subject at an address", "transports: {webpush: {subject: 'https://[2001:db8::1]'}}", `posthorn.yml:1: transports.webpush.subject: "2001:db8::1" is not a public host name; Apple refuses notifications signed like that. Give a real address, or remove the key`},
		{"subject at an address literal", "transports: {webpush: {subject: 'mailto:a@[192.0.2.1]'}}", `posthorn.yml:1: transports.webpush.subject: "[192.0.2.1]" is not a public host name; Apple refuses notifications signed like that. Give a real address, or remove the key`},
		{"subject without a user", "transports: {webpush: {subject: 'mailto:example.com'}}", `posthorn.yml:1: transports.webpush.subject: "mailto:example.com" is not one mail address, such as mailto:postmaster@example.com`},
		{"subject over http", "transports: {webpush: {subject: 'http://example.com'}}", `posthorn.yml:1: transports.webpush.subject: "http://example.com" is neither mailto: nor https://`},

		{"apns without apps", "transports:\n  apns:\n    enabled: true\n", `posthorn.yml:2: transports.apns.apps: apns is enabled, but has no apps: add an entry, or set transports.apns.enabled to false`},
		{"fcm without apps", "transports:\n  fcm:\n    enabled: true\n", `posthorn.yml:2: transports.fcm.apps: fcm is enabled, but has no apps: add an entry, or set transports.fcm.enabled to false`},
		{"apns key", app + key, ``},
		{"no credential", app + "client: a\n", `posthorn.yml:5: transports.apns.apps[0]: it has no credential: give key_file (.p8) with key_id and team_id, or certificate_file (.p12) with its password`},
		{"both credentials", app + key + "certificate_file: x.p12\n", `posthorn.yml:5: transports.apns.apps[0]: it has both key and certificate_file: keep one`},
		{"blank password", app + "certificate_file: x.p12\n      certificate_password: ''\n", `posthorn.yml:7: transports.apns.apps[0].certificate_password: it must not be empty: export the .p12 file again, with a password`},
		{"no password", app + "certificate_file: x.p12\n", `posthorn.yml:5: transports.apns.apps[0].certificate_password: it must not be empty: export the .p12 file again, with a password`},
		{"certificate with key_id", app + "certificate_file: x.p12\n      certificate_password: x\n      key_id: x\n", `posthorn.yml:5: transports.apns.apps[0]: key_id and team_id belong to a key, and this entry has a certificate: remove them`},
		{
			"key without ids", app + "key: x\n      team_id: abc\n", `posthorn.yml:5: transports.apns.apps[0].key_id: give the ten capitals and digits of the key's id
posthorn.yml:7: transports.apns.apps[0].team_id: give the ten capitals and digits of your team's id`,
		},
		{"key with password", app + key + "certificate_password: x\n", `posthorn.yml:9: transports.apns.apps[0].certificate_password: it belongs to certificate_file, and this entry has a key`},
		{"empty key", app + strings.Replace(key, "x", "''", 1), `posthorn.yml:6: transports.apns.apps[0].key: it is empty`},
		{"topic", strings.Replace(app, "com.example.mail", "''", 1) + key, `posthorn.yml:5: transports.apns.apps[0].topic: give the app's bundle id, such as com.example.mail`},
		{"apns address", app + key + "url: http://127.0.0.1:2197\n", `posthorn.yml:9: transports.apns.apps[0].url: it must begin with https://, as secrets travel over it`},
		{"apns address over http", app + key + "url: https://a\n      other_url: http://b\n", `posthorn.yml:10: transports.apns.apps[0].other_url: it must begin with https://, as secrets travel over it`},
		{"other address alone", app + key + "other_url: https://b\n", `posthorn.yml:9: transports.apns.apps[0].other_url: it is only beside a url of your own`},
		{"connections", app + key + "connections: 0\n", `posthorn.yml:9: transports.apns.apps[0].connections: 0 is out of bounds: at least 1, at most 16`},
		{"many connections", app + key + "connections: 17\n", `posthorn.yml:9: transports.apns.apps[0].connections: 17 is out of bounds: at least 1, at most 16`},
		{"CA without address", app + key + "ca_file: x.pem\n", `posthorn.yml:9: transports.apns.apps[0].ca_file: it is only for a url of your own; Apple's certificates are known to the system`},
		{
			"same client twice", app + key + "client: a\n    - topic: b\n      " + key + "client: a\n",
			`posthorn.yml:14: transports.apns.apps[1].client: no client gets here: "a" of entry 1 matches first; put the special entries before the general ones`,
		},
		{
			"general before special", fcm + "client: com.*\n    - service_account: y\n      client: com.a.*\n",
			`posthorn.yml:8: transports.fcm.apps[1].client: no client gets here: "com.*" of entry 1 matches first; put the special entries before the general ones`,
		},
		{"special before general", fcm + "client: com.a.*\n    - service_account: y\n      client: com.*\n", ``},
		{"no service account", strings.Replace(fcm, "service_account: x", "client: a", 1), `posthorn.yml:5: transports.fcm.apps[0].service_account: give service_account_file, the JSON file from the Firebase console`},
		{"fcm address", fcm + "endpoint: http://fcm.example\n", `posthorn.yml:6: transports.fcm.apps[0].endpoint: it must begin with https://, as secrets travel over it`},
		{"apps of a transport that is off are judged too", "transports: {apns: {apps: [{}]}}", `posthorn.yml:1: transports.apns.apps[0].topic: give the app's bundle id, such as com.example.mail
posthorn.yml:1: transports.apns.apps[0]: it has no credential: give key_file (.p8) with key_id and team_id, or certificate_file (.p12) with its password`},
	} {
		got := findings(tc.text, nil, nil)
		if got != tc.want {
			t.Errorf("%s\n got %s\nwant %s", tc.name, got, tc.want)
		}
		if strings.Contains(got, "canary") {
			t.Errorf("%s: a secret is shown", tc.name)
		}
	}
}

func TestVAPIDSubject(t *testing.T) {
	for _, tc := range []struct{ public, subject, want string }{
		{"", "", ""},
		{"https://push.example.com", "", "https://push.example.com"},
		{"https://push.example.com", "mailto:a@example.com", "mailto:a@example.com"},
		{"http://127.0.0.1:8008", "", ""},
		{"https://localhost", "", ""},
		{"https://posthorn.local", "", ""},
		{"https://192.0.2.1", "", ""},
	} {
		c := &Config{Public: Public{URL: tc.public}, Transports: Transports{WebPush: WebPush{Subject: tc.subject}}}
		if got := c.VAPIDSubject(); got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
}

func TestDatabaseURL(t *testing.T) {
	for url, want := range map[string]string{
		"":                  "sqlite:/s/posthorn.db",
		"sqlite:other.db":   "sqlite:/s/other.db",
		"sqlite:/x/y.db":    "sqlite:/x/y.db",
		"postgres://h/name": "postgres://h/name",
	} {
		c := &Config{StateDir: "/s", Database: Database{URL: NewSecret(url)}}
		if got := c.DatabaseURL().Reveal(); got != want {
			t.Errorf("%q: got %q, want %q", url, got, want)
		}
	}
}

func TestHostsPath(t *testing.T) {
	for _, tc := range []struct {
		file, hosts, path string
		named             bool
	}{
		{"", "", "", false},
		{"/etc/posthorn/posthorn.yml", "", "/etc/posthorn/mailapp-config.yml", false},
		{"posthorn.yml", "", "mailapp-config.yml", false},
		{"/etc/posthorn/posthorn.yml", "/srv/hosts.yml", "/srv/hosts.yml", true},
		{"", "/srv/hosts.yml", "/srv/hosts.yml", true},
	} {
		c := Config{file: tc.file, HostsFile: tc.hosts}
		if path, named := c.HostsPath(); path != tc.path || named != tc.named {
			t.Errorf("%+v: %q, %t", tc, path, named)
		}
	}
}

func TestMatchClient(t *testing.T) {
	for _, tc := range []struct {
		pattern, client string
		want            bool
	}{
		{"*", "", true},
		{"*", "anything", true},
		{"com.example", "com.example", true},
		{"com.example", "com.example.x", false},
		{"com.*", "com.", true},
		{"com.*", "org.com.x", false},
		{"*.mail", "com.example.mail", true},
		{"*.mail", "com.example.mail.x", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "acb", false},
		{"ab*ba", "aba", false},
		{"**", "x", true},
		{"", "", true},
		{"", "x", false},
		{"com.?", "com.x", false},
	} {
		if got := MatchClient(tc.pattern, tc.client); got != tc.want {
			t.Errorf("MatchClient(%q, %q) = %t", tc.pattern, tc.client, got)
		}
	}
}

func TestUnservedWarning(t *testing.T) {
	c := &Config{}
	c.Public.URL, c.Credentials.Store = "https://push.example.com:8443", "database"
	for _, tc := range []struct {
		domains []string
		want    int
	}{
		{nil, 0},
		{[]string{"mail.example.com", "Push.example.com"}, 0},
		{[]string{"mail.example.com"}, 1},
	} {
		c.Public.TLS.ACME.Domains = tc.domains
		if got := c.Warnings(); len(got) != tc.want {
			t.Errorf("%q: %v, want %d", tc.domains, got, tc.want)
		}
	}
}

func TestStoreWarning(t *testing.T) {
	for text, want := range map[string]int{"": 0, "credentials: {store: memory}": 0, "credentials: {store: database}": 0, "credentials: {store: none}": 1} {
		c, _, err := loadText(text, fakeEnv{"HOME": "/home/p"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := c.Warnings()
		if len(got) != want || want == 1 && !strings.Contains(got[0].String(), "posthorn.yml:1: credentials.store: nothing is kept to sign in with") {
			t.Errorf("%q: %v", text, got)
		}
	}
}

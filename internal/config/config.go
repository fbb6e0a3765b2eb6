// Package config is the one configuration of Posthorn: its keys, their defaults, and the rules that
// can be judged without touching the network or opening a key.
//
// The structs in this file are the documentation. Each field carries its YAML name and default in its
// tags, and its effect and dangers in its comment, written for the operator; docs/configuration.md and
// deploy/posthorn.yml are generated from them (go test ./internal/config -run Generate -update), and a
// test fails when they differ.
//
// [Load] reads the file, the environment and the files that secrets live in, once, at start.
// [Config.Check] is pure. Whether a key can be parsed, a certificate is in date or a port is free is
// judged by whoever uses it; [Config.Problem] gives such findings the same form and line number.
//
// A Config is not changed after Load and may be read from any goroutine.
package config

import "net/netip"

// Tags understood by this package, beside yaml:
//
//	default  the default, as YAML text; none: empty, false, 0 or not set
//	one      the allowed words
//	min, max bounds of numbers and durations, inclusive
//	is       "path": relative paths are taken from the directory of the configuration file
//
// In comments, a line that begins with "Default:", "Danger:" or "Example:" is picked out by the
// generator. An example of a secret is the path for its _file key.

// Config is the whole configuration.
type Config struct {
	// The directory of the database, of the keys made at first start, and of the socket on which
	// "posthorn push" and the other commands reach the server. It is made, with mode 0700, when it does
	// not exist. At most 90 bytes, because the path of a UNIX socket must be short.
	//
	// Default: $STATE_DIRECTORY if systemd sets it, else /var/lib/posthorn for root, else $XDG_STATE_HOME/posthorn or ~/.local/state/posthorn.
	// Danger: whoever reads this directory can read the stored mail passwords, and whoever loses it loses every subscription.
	// Example: /var/lib/posthorn
	StateDir string `yaml:"state_dir" is:"path"`

	// What this node is called in listings of the cluster. It need not be unique: node-id in state_dir is.
	//
	// Default: the host name.
	// Example: node1
	NodeName string `yaml:"node_name"`

	// What tells this installation's registrations from those of another one that has the same users at the
	// same Dovecot, such as a test system: 1 to 64 letters, digits and . - _. When set, each registration that
	// Posthorn writes bears it ("by="), and one that bears another is left alone. All nodes of a cluster have the
	// same. Empty: registrations are written as the original system writes them.
	//
	// Danger: registrations that bear the id before a change are another's after it, and must be removed at the mail server.
	// Example: production
	InstallationID string `yaml:"installation_id"`

	// The file that says by which hosts the app may sign in, mailapp-config.yml as the system before has it: see
	// operating.md, "Hosts". "posthorn reload" takes over what changes in it. Without such a file every host may.
	//
	// Default: mailapp-config.yml beside the configuration file, when it is there.
	// Example: /etc/posthorn/mailapp-config.yml
	HostsFile string `yaml:"hosts_file" is:"path"`

	// Values of properties that hold for the whole server, unless a context set, a reseller, a context or a user has
	// another one: see properties.md, and "Who may do what" in operating.md. "posthorn reload" takes over what changes.
	//
	// Example: {capability.mobile_mail_app: true, push.privacy: sender}
	Properties Properties `yaml:"properties"`

	// The directory of the context sets: files *.yml, each with sets of values for the contexts that have some tags.
	// "posthorn reload" takes over what changes in them.
	//
	// Default: contextsets beside the configuration file, when it is there.
	// Example: /etc/posthorn/contextsets
	ContextSetsDir string `yaml:"context_sets_dir" is:"path"`

	// What Posthorn writes about itself, to standard error.
	Log Log `yaml:"log"`

	// Where users, subscriptions and the push queue are kept.
	Database Database `yaml:"database"`

	// What the nodes of a cluster tell each other at once, such as that a subscription has changed. Nothing
	// is kept there.
	Bus Bus `yaml:"bus"`

	// The listener for devices: sign-in, subscriptions, the app.
	Public Public `yaml:"public"`

	// The listener for mail servers and monitoring: notifications, metrics, health.
	Internal Internal `yaml:"internal"`

	// Reports of new mail by UDP, as Cyrus IMAP makes them for its notifyd.
	MailNotify MailNotify `yaml:"mailnotify"`

	// How listeners are kept: what makes mail servers tell of new mail.
	Listen Listen `yaml:"listen"`

	// The sessions of signed-in devices.
	Sessions Sessions `yaml:"sessions"`

	// What is kept to sign in at mail servers while no app runs, and how it is sealed.
	Credentials Credentials `yaml:"credentials"`

	// Limits for guessing passwords. Each sign-in is a login at a mail server, so these limits protect
	// that server too.
	SignIn SignIn `yaml:"sign_in"`

	// Who signed in, and who changed what: "posthorn audit" lists it.
	Audit Audit `yaml:"audit"`

	// What is pushed, to whom, and how hard Posthorn tries.
	Push Push `yaml:"push"`

	// Connections to addresses that devices name, such as the endpoints of Web Push subscriptions.
	Outbound Outbound `yaml:"outbound"`

	// The ways to a device. A device may subscribe only by a transport that is enabled here.
	Transports Transports `yaml:"transports"`

	// origins tells where each key that is not a default came from; the keys are dotted paths.
	origins map[string]origin
	// file is the path given to Load, for messages; "" when there was none.
	file string
}

// Properties is values of properties by their names, in the order of the file. Which there are, and what they may be,
// is not for this package to say.
type Properties []Property

// Property is a value as it is written; that of a list has commas between its entries.
type Property struct {
	Name, Value string
}

// Log is the section log.
type Log struct {
	// The least important message that is written. At debug there is a line for every notification.
	Level string `yaml:"level" default:"info" one:"debug info warn error"`

	// The form of a line. auto is text when standard error is a terminal, and json otherwise.
	Format string `yaml:"format" default:"auto" one:"auto text json"`
}

// Database is the section database.
type Database struct {
	// The database. Empty: the SQLite file posthorn.db in state_dir. sqlite:PATH: another SQLite file,
	// a relative PATH being taken from state_dir. postgres://user:password@host/name: PostgreSQL.
	//
	// Default: the SQLite file posthorn.db in state_dir.
	// Danger: SQLite needs a local disk; on a network file system it loses data.
	// Example: /etc/posthorn/database-url
	URL Secret `yaml:"url"`
}

// Bus is the section bus.
type Bus struct {
	// The NATS server, version 2.9 or later: nats://user:password@host:4222, or tls:// to insist on TLS with
	// a certificate that the system trusts. Several servers of one NATS cluster are separated by commas.
	// Empty: inside this process, alone or, with bus.listen, meshed with the other nodes'. While the server
	// cannot be reached, Posthorn works on and keeps trying.
	//
	// Default: inside this process.
	// Danger: whoever can use the same NATS account reads what the nodes tell each other, and can pretend to be one. Give Posthorn an account of its own; it needs the subjects posthorn.> only. With nats:// the password travels in clear, unless the server asks for TLS.
	// Example: /etc/posthorn/bus-url
	URL Secret `yaml:"url"`

	// The address and port at which other nodes reach this one, if they shall do without a NATS server of yours.
	// The nodes then connect to each other by TLS, each showing the certificate below. Not together with bus.url.
	// Empty: this node is alone.
	//
	// Example: 0.0.0.0:8010
	Listen string `yaml:"listen"`

	// What this node tells others to reach it by, instead of the address that they see it come from: host:port.
	// Needed where addresses are translated on the way, as between containers.
	//
	// Example: node1.example.com:8010
	Advertise string `yaml:"advertise"`

	// The addresses of the other nodes, host:port. This node's own may be among them, so that the list is the
	// same on all. Name them all: a node that only others told of is not looked for any more two minutes after
	// it was lost.
	//
	// Example: ["node1.example.com:8010", "node2.example.com:8010"]
	Routes []string `yaml:"routes"`

	// This node's certificate (PEM), followed by those between it and the authority, if there are any. It must
	// be for the DNS name node.posthorn, whatever the node's host is called, and for use by servers and clients.
	// "posthorn bus certificates" makes such ones. A new one needs a restart of this node.
	//
	// Example: /etc/posthorn/bus/node1.pem
	CertificateFile string `yaml:"certificate_file" is:"path"`

	// The private key (PEM) that belongs to it.
	//
	// Default: none; bus.listen needs one.
	// Danger: whoever has it can be a node: read what nodes tell each other, and say anything.
	// Example: /etc/posthorn/bus/node1.key
	Key Secret `yaml:"key"`

	// The certificate authority (PEM) that signs the certificates of all nodes. Several are allowed, while one
	// is replaced by another.
	//
	// Danger: whoever has a certificate of it for node.posthorn is a node. Use an authority of the cluster's own.
	// Example: /etc/posthorn/bus/ca.pem
	CAFile string `yaml:"ca_file" is:"path"`
}

// BusCertificateName is the DNS name that the certificate of every node bears: nodes may be reached by any
// address, and a certificate that the same authority made for something else makes no node.
const BusCertificateName = "node.posthorn"

// Public is the section public.
type Public struct {
	// The address and port of the listener for devices. It speaks plain HTTP, for a reverse proxy with TLS
	// in front of it, unless public.tls has a certificate: then HTTPS and nothing else.
	//
	// Danger: on an address that others can reach without TLS, passwords and tokens travel in clear.
	Listen string `yaml:"listen" default:"127.0.0.1:8008"`

	// The origin at which devices reach this listener, as they see it: https://, a host and perhaps a
	// port, no path. It is put into notifications as the address to open, and names the operator to Web
	// Push services when transports.webpush.subject is not set. http:// only for a loopback address.
	//
	// Example: https://push.example.com
	URL string `yaml:"url"`

	// The reverse proxies whose X-Forwarded-For header is believed, as networks. Needed behind a proxy:
	// without it all devices seem to come from the proxy and share one sign_in.attempts_per_address.
	//
	// Danger: whoever can connect from one of these networks can pretend to have any address.
	// Example: [127.0.0.1/32, "::1/128"]
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`

	// A second address and port, where plain HTTP is answered with the way to public.url, and nothing else.
	// An authority's HTTP challenges are answered there too. Only with public.tls. Empty: none.
	//
	// Example: ":80"
	RedirectListen string `yaml:"redirect_listen"`

	// The certificate of this listener: from files, or automatic. Without either it speaks plain HTTP.
	TLS PublicTLS `yaml:"tls"`
}

// PublicTLS is the section public.tls. It has files or acme, or neither.
type PublicTLS struct {
	// The certificate (PEM), followed by those between it and the authority. It is read again by "posthorn
	// reload", and within a minute when it has changed. One that has expired is used, with a loud warning.
	//
	// Example: /etc/posthorn/tls/fullchain.pem
	CertificateFile string `yaml:"certificate_file" is:"path"`

	// The private key (PEM) that belongs to it.
	//
	// Default: none; public.tls.certificate_file needs one.
	// Danger: whoever has it can pretend to be this server, and read passwords.
	// Example: /etc/posthorn/tls/privkey.pem
	Key Secret `yaml:"key"`

	// Automatic certificates, from Let's Encrypt or another authority that speaks ACME (RFC 8555).
	ACME ACME `yaml:"acme"`
}

// ACME is the section public.tls.acme.
type ACME struct {
	// The host names to have a certificate for; each gets its own. Empty: no automatic certificates. The
	// authority must reach this listener at port 443 of each name, or public.redirect_listen at port 80.
	// Certificates and keys are kept in the database, sealed, so the nodes of a cluster share them.
	//
	// Example: [push.example.com]
	Domains []string `yaml:"domains"`

	// The mail address at which the authority may reach you. Empty: none is given to it.
	//
	// Example: postmaster@example.com
	Email string `yaml:"email"`

	// Whether you agree to the terms of service of the authority. It must be true.
	AgreeTerms bool `yaml:"agree_terms" default:"false"`

	// The directory address of the authority. For trying things out, Let's Encrypt has one whose certificates
	// nobody trusts, with higher limits: https://acme-staging-v02.api.letsencrypt.org/directory
	CA string `yaml:"ca" default:"https://acme-v02.api.letsencrypt.org/directory"`

	// The certificate authorities (PEM) to trust when asking that address, instead of the system's: for an
	// authority of your own.
	//
	// Example: /etc/posthorn/tls/acme-ca.pem
	CAFile string `yaml:"ca_file" is:"path"`
}

// Internal is the section internal.
type Internal struct {
	// The address and port for mail servers and monitoring. It speaks plain HTTP.
	//
	// Danger: metrics and health are answered to everybody who can connect. On any but a loopback address the notify credential must not be empty, and it travels in clear.
	Listen string `yaml:"listen" default:"127.0.0.1:8009"`

	// What a mail server must present to report new mail, when "posthorn mailhost add" gave it no
	// credential of its own.
	Notify Notify `yaml:"notify"`
}

// Notify is the section internal.notify.
type Notify struct {
	// The user name of the HTTP Basic authentication (RFC 7617): the part before the colon in Dovecot's
	// push URL.
	Login string `yaml:"login" default:"posthorn"`

	// The password that belongs to it.
	//
	// Default: the content of the file notify-password in state_dir, which is made at first start.
	// Danger: explicitly empty ('') means that no credential is asked for. Everybody who can connect can then make any user's devices ring; it is refused unless internal.listen is a loopback address.
	// Example: /etc/posthorn/notify-password
	Password Secret `yaml:"password"`

	// What the member "user" of a notification means. login: the IMAP login, which is what Dovecot sends
	// by itself. metadata: what Posthorn wrote into the mailbox's METADATA, which Dovecot sends with
	// user_from_metadata.
	//
	// Danger: a mailbox owner can write any value into his own METADATA. Prefer login.
	UserForm string `yaml:"user_form" default:"login" one:"login metadata"`

	// The networks that mail servers may report from, beside knowing the password. Empty: any.
	//
	// Example: [127.0.0.1/32, 10.1.2.0/24]
	AllowFrom []netip.Prefix `yaml:"allow_from"`
}

// MailNotify is the section mailnotify.
type MailNotify struct {
	// Whether such reports are received. They are for the users of mail hosts whose source is mailnotify or
	// auto. A report says only that there is something new in a user's mailbox: Posthorn looks there.
	Enabled bool `yaml:"enabled" default:"false"`

	// The address and port to receive at. With multicast_group, only the port counts.
	//
	// Danger: a report carries no proof of who sent it. On any but a loopback address, allow_from must name the mail servers, and the network must not let others send with their addresses; whoever can still send makes Posthorn look at mailboxes, within the limits below.
	Listen string `yaml:"listen" default:"127.0.0.1:23420"`

	// A multicast group to join instead, so that each node of a cluster hears each report. One node is enough:
	// it tells the others.
	//
	// Example: 239.192.0.23
	MulticastGroup string `yaml:"multicast_group"`

	// The network interface on which the group is joined. Empty: the system's choice.
	//
	// Example: eth1
	Interface string `yaml:"interface"`

	// The networks that are heard. Empty: any, which is for a loopback address only.
	//
	// Example: [10.1.2.0/24]
	AllowFrom []netip.Prefix `yaml:"allow_from"`

	// Where the user's login ends within the name that is sent. With @, the login is what stands before it.
	// Empty: the name is the login.
	//
	// Example: +
	LoginDelimiter string `yaml:"login_delimiter"`

	// The domains that a name without one may belong to, for mail servers that send anna where the login is
	// anna@example.org. A name that fits several users is for all of them.
	//
	// Example: [example.org]
	Domains []string `yaml:"domains"`

	// How many reports a second each sender may make, in the long run. More are dropped, and found by the next
	// look at the mailbox.
	Rate int `yaml:"rate" default:"200" min:"1" max:"1000000"`

	// How many reports each sender may make at once.
	Burst int `yaml:"burst" default:"2000" min:"1" max:"1000000"`

	// The least time between two looks at one mailbox: the first report is followed at once, those within this
	// time after it by one more look.
	Delay Duration `yaml:"delay" default:"1s" min:"0s" max:"5m"`
}

// Listen is the section listen.
type Listen struct {
	// Whether this node takes permanent listeners: those that live with a subscription, no app running. Set to
	// false, it hands its listeners over to the nodes that do. When no node does, a user has a listener only
	// while one of his sessions is in use.
	AllowPermanentPush bool `yaml:"allow_permanent_push" default:"true"`

	// How many logins at mail servers are begun in a second, by this node.
	//
	// Danger: TLS and login cost about a millisecond of CPU each here, and more at the mail server.
	LoginsPerSecond int `yaml:"logins_per_second" default:"500" min:"1" max:"100000"`

	// The same for each mail host. After a restart of a mail server, all its users come back at this rate,
	// those who were active last first.
	HostLoginsPerSecond int `yaml:"host_logins_per_second" default:"300" min:"1" max:"100000"`

	// How many users are worked on at the same time.
	AtOnce int `yaml:"at_once" default:"64" min:"1" max:"10000"`

	// When a listener that stands is looked at again, give or take half of it: is the registration still at the
	// mail server, is there mail that nobody told of?
	Audit Duration `yaml:"audit" default:"6h" min:"10s" max:"30d"`

	// How often folders are asked for news that do not tell of themselves, and mail servers without IDLE.
	Poll Duration `yaml:"poll" default:"5m" min:"1s" max:"1d"`

	// After how many rejected logins in a row the user's devices show that he must sign in again. Nothing is
	// deleted.
	Rejections int `yaml:"rejections" default:"3" min:"1" max:"100"`

	// How long to wait after a rejected login before the next.
	//
	// Danger: mail servers lock users and addresses for failed logins in a row.
	RejectionWait Duration `yaml:"rejection_wait" default:"10m" min:"1s" max:"1d"`
}

// Sessions is the section sessions.
type Sessions struct {
	// How long a device stays signed in, counted from its sign-in.
	//
	// Danger: a lost device can read mail until then, unless its session is revoked.
	Lifetime Duration `yaml:"lifetime" default:"90d" min:"1m" max:"3650d"`

	// How many sessions a user may have. One more sign-in ends the oldest.
	MaxPerUser int `yaml:"max_per_user" default:"50" min:"1" max:"10000"`
}

// Credentials is the section credentials.
type Credentials struct {
	// Where the mail passwords and tokens of users are kept, sealed, for listeners that run while no app does.
	// memory: in the memory of the cluster, never on a disk. Each node holds them all; they are lost when the
	// last one stops, and listeners that need one then wait for the user's next sign-in. database: in the
	// database, so they outlive a restart. none: nowhere. A node remembers a password for 15 minutes after the
	// last use of the session that brought it, and listeners that run longer need a mail host with a master user
	// or the doveadm API.
	//
	// Danger: with database, whoever has the database and the key reads the mail of everybody. Switching from database to memory moves what the database holds into the memory; switching to none removes it.
	Store string `yaml:"store" default:"memory" one:"memory database none"`

	// The passphrase from which the key is made that seals passwords, tokens and the secrets of mail hosts: at
	// least 12 characters, better 20, the same on all nodes. Without one, the key is the file seal.key in
	// state_dir, which is made at first start and must be the same on all nodes too.
	//
	// Default: none: seal.key is used.
	// Danger: without it, nobody can open what it sealed. To change it, see "Credentials" in the operating guide.
	// Example: /etc/posthorn/passphrase
	Passphrase Secret `yaml:"passphrase"`

	// Passphrases of before, which open what they sealed until "posthorn credentials rotate" has sealed it anew.
	OldPassphrases []OldPassphrase `yaml:"old_passphrases"`
}

// OldPassphrase is one entry of credentials.old_passphrases.
type OldPassphrase struct {
	// The passphrase.
	//
	// Default: none: each entry needs one.
	// Example: /etc/posthorn/passphrase.old
	Passphrase Secret `yaml:"passphrase"`
}

// SignIn is the section sign_in.
type SignIn struct {
	// How many attempts to sign in with one login are let through to the mail server in a window, from one place: a
	// device that has signed in with it before, or a network. All networks from which nobody has signed in with it
	// before have twice as many together.
	//
	// Danger: whoever knows a login and has as many networks can hold up its owner, but only on a new device in a new network. On a device or in a network from which he has signed in before, nobody can.
	AttemptsPerLogin int `yaml:"attempts_per_login" default:"10" min:"1" max:"1000000"`

	// How many attempts to sign in from one network are let through in a window, whatever the login: an IPv4 address,
	// or the /64 of an IPv6 address. Devices that have signed in with the login before are not counted.
	AttemptsPerAddress int `yaml:"attempts_per_address" default:"100" min:"1" max:"1000000"`

	// The time in which both are counted, by each node for itself.
	Window Duration `yaml:"window" default:"15m" min:"1s" max:"1d"`

	// Where apps may have a user sent back after a sign-in at an identity provider (OIDC): https addresses, addresses
	// of the app's own scheme, which is a domain name backwards (RFC 8252), and http://127.0.0.1/… or http://[::1]/…,
	// where any port will do. They are compared letter by letter.
	//
	// Default: none: nobody signs in at an identity provider.
	// Danger: who is sent elsewhere may hand his session to a stranger. Name only what belongs to your apps.
	// Example: ["com.example.mail:/signed-in", "https://mail.example.com/signed-in"]
	RedirectURIs []string `yaml:"redirect_uris"`
}

// Audit is the section audit.
type Audit struct {
	// How long entries are kept, in the database. They hold users, addresses and device names.
	Keep Duration `yaml:"keep" default:"180d" min:"1h" max:"3650d"`
}

// Push is the section push.
type Push struct {
	// What a notification tells. full: sender and subject. sender: the sender only. none: neither, only
	// that there is new mail. sealed: everything, encrypted for the app on the device; an app that has
	// registered no keys for that is told what none tells. Web Push is always encrypted up to the
	// device, so there sealed is full.
	//
	// Danger: with full and sender, what is told to APNs and FCM can be read by Apple and Google.
	Privacy string `yaml:"privacy" default:"full" one:"full sender none sealed"`

	// The applications that may subscribe, by the name they give as "client". A * stands for any
	// characters, also for none.
	AllowedClients []string `yaml:"allowed_clients" default:"['*']"`

	// How long Posthorn and the provider keep trying to deliver a notification. FCM keeps nothing
	// longer than 28 days.
	NewMailTTL Duration `yaml:"new_mail_ttl" default:"3d" min:"1m" max:"28d"`

	// How long news that follows a notification waits for more of it. The first is sent at once; what comes
	// within this time after it, or after the news before, is one notification. 0s switches it off.
	Coalesce Duration `yaml:"coalesce" default:"3s" min:"0s" max:"10m"`

	// The longest that news waits so, however much of it comes. At least push.coalesce.
	CoalesceMax Duration `yaml:"coalesce_max" default:"10s" min:"0s" max:"1h"`

	// How long a change of the count alone waits for more. A notification that goes out meanwhile brings the
	// count along. 0s switches it off.
	BadgeDelay Duration `yaml:"badge_delay" default:"20s" min:"0s" max:"1h"`

	// How many notifications may be under way at once for each provider credential. A kill of the
	// process can make at most this many arrive twice. A provider with a lower limit is not exceeded.
	MaxInFlight int `yaml:"max_in_flight" default:"1000" min:"1" max:"100000"`
}

// Outbound is the section outbound.
type Outbound struct {
	// Origins (http:// or https://, a host and perhaps a port, no path) that devices may name although
	// they lead into internal networks: a push service of your own, say. They must match exactly. All
	// other loopback, private and link-local addresses are refused.
	//
	// Danger: every user can make Posthorn send requests to these.
	// Example: ["https://push.corp.example:8443"]
	Allow []string `yaml:"allow"`
}

// Transports is the section transports.
type Transports struct {
	// Web Push (RFC 8030): browsers, installed web apps, UnifiedPush. Needs no account anywhere.
	WebPush WebPush `yaml:"webpush"`

	// The Apple Push Notification service, for iOS and macOS apps.
	APNs APNs `yaml:"apns"`

	// Firebase Cloud Messaging, for Android apps.
	FCM FCM `yaml:"fcm"`
}

// WebPush is the section transports.webpush.
type WebPush struct {
	// Whether devices may subscribe by Web Push.
	Enabled bool `yaml:"enabled" default:"true"`

	// The VAPID private key (RFC 8292): a P-256 key in PEM, PKCS #8.
	//
	// Default: the content of the file vapid.pem in state_dir, which is made at first start.
	// Danger: subscriptions are bound to this key. With another one, each of them is refused until the device subscribes anew.
	// Example: /etc/posthorn/vapid.pem
	VAPIDKey Secret `yaml:"vapid_key"`

	// How a push service can reach you when your notifications cause trouble: mailto: or https://.
	//
	// Default: public.url when it is https:// at a public host name, else none.
	// Danger: Apple refuses every notification when this is not real, so localhost, .local names and bare addresses are refused here.
	// Example: mailto:postmaster@example.com
	Subject string `yaml:"subject"`

	// What a notification tells by this transport: see push.privacy, which inherit stands for.
	Privacy string `yaml:"privacy" default:"inherit" one:"inherit full sender none sealed"`
}

// APNs is the section transports.apns.
type APNs struct {
	// Whether devices may subscribe by APNs. Needs at least one entry in apps.
	Enabled bool `yaml:"enabled" default:"false"`

	// The apps and their credentials. A device uses the first entry whose client pattern matches.
	Apps []APNsApp `yaml:"apps"`
}

// APNsApp is one entry of transports.apns.apps. It has either a key or a certificate.
type APNsApp struct {
	// The clients this entry is for, by the name the app gives as "client". A * stands for any
	// characters, also for none.
	Client string `yaml:"client" default:"'*'"`

	// The topic of the app: its bundle id.
	//
	// Example: com.example.mail
	Topic string `yaml:"topic"`

	// Which of Apple's two services the app's tokens belong to. sandbox is for builds from Xcode;
	// TestFlight and the App Store use production.
	//
	// A credential that serves both is tried at the other one, too, when Apple calls a token bad, and what
	// that finds is remembered with the subscription.
	//
	// Danger: with the wrong one, every token that a credential for one service only sends to is answered as bad.
	Environment string `yaml:"environment" default:"production" one:"production sandbox"`

	// The authentication key: the .p8 file that Apple lets you download once.
	//
	// Example: /etc/posthorn/AuthKey_ABC123DEFG.p8
	Key Secret `yaml:"key"`

	// The id of that key, ten characters, part of the name of the .p8 file.
	//
	// Example: ABC123DEFG
	KeyID string `yaml:"key_id"`

	// The id of your developer team, ten characters.
	//
	// Example: DEF123GHIJ
	TeamID string `yaml:"team_id"`

	// Instead of key: the certificate with its private key, a .p12 (PKCS #12) file.
	CertificateFile string `yaml:"certificate_file" is:"path"`

	// The password of the .p12 file. It must not be empty.
	CertificatePassword Secret `yaml:"certificate_password"`

	// What a notification tells this app: see push.privacy, which inherit stands for.
	Privacy string `yaml:"privacy" default:"inherit" one:"inherit full sender none sealed"`

	// Another address than Apple's, for a relay or a test: https://, a host and perhaps a port.
	//
	// Danger: whoever answers there sees every notification.
	URL string `yaml:"url"`

	// The same for the other environment. Without it, an entry with a url does not try that.
	OtherURL string `yaml:"other_url"`

	// The certificate authorities (PEM) to trust for url and other_url, instead of the system's.
	CAFile string `yaml:"ca_file" is:"path"`

	// How many connections may be open to each environment. A further one is opened when those before it carry as
	// many requests as Apple takes at once, some 1000; one carries more than 15,000 notifications a second.
	Connections int `yaml:"connections" default:"1" min:"1" max:"16"`
}

// FCM is the section transports.fcm.
type FCM struct {
	// Whether devices may subscribe by FCM. Needs at least one entry in apps.
	Enabled bool `yaml:"enabled" default:"false"`

	// The apps and their credentials. A device uses the first entry whose client pattern matches.
	Apps []FCMApp `yaml:"apps"`
}

// FCMApp is one entry of transports.fcm.apps.
type FCMApp struct {
	// The clients this entry is for, by the name the app gives as "client". A * stands for any
	// characters, also for none.
	Client string `yaml:"client" default:"'*'"`

	// The service account: the JSON file that the Firebase console makes under "Service accounts".
	//
	// Danger: it can send to every device of the project.
	// Example: /etc/posthorn/firebase.json
	ServiceAccount Secret `yaml:"service_account"`

	// The package name that a device's app must have (restricted_package_name). Empty: any of the
	// project.
	Package string `yaml:"package"`

	// What a notification tells this app: see push.privacy, which inherit stands for.
	Privacy string `yaml:"privacy" default:"inherit" one:"inherit full sender none sealed"`

	// Another address than Google's, for a relay or a test: https://, a host and perhaps a port. http://
	// only for a loopback address.
	//
	// Danger: whoever answers there sees every notification.
	Endpoint string `yaml:"endpoint"`
}

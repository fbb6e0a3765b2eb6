package api

// The nouns of the admin socket, as JSON. Times are RFC 3339 in UTC with milliseconds; a user is
// "<id>@<context>".

// List is the answer of every listing.
type List[T any] struct {
	Items []T `json:"items"`
}

// MailHost is one upstream mail server and the credential with which it notifies us.
type MailHost struct {
	Name string `json:"name"`
	// IMAP is the server's host:port.
	IMAP string `json:"imap"`
	// Security is "tls", "starttls" or "none".
	Security string `json:"security"`
	// Insecure allows credentials over an unverified or plain connection to a host that is not loopback.
	Insecure bool `json:"insecure,omitempty"`
	// CA holds PEM certificates trusted for this host instead of the system's.
	CA string `json:"ca,omitempty"`
	// NotifyLogin is the login of the host's own notify credential; empty when the host uses the
	// installation's.
	NotifyLogin string `json:"notify_login,omitempty"`
	// NotifyPassword is set in a request to choose one, and in the answer to an addition that had one
	// generated. It is never listed: only its hash is kept.
	NotifyPassword string `json:"notify_password,omitempty"`
	// UserForm is what the host sends as "user": "login" or "metadata".
	UserForm string `json:"user_form"`
	// KeyedAlias makes registrations carry a proof, and refuses "user" values that do not.
	KeyedAlias bool `json:"keyed_alias,omitempty"`
	// AllowFrom limits the addresses this host may notify from (CIDR); empty allows all.
	AllowFrom []string `json:"allow_from,omitempty"`
	// Contexts limits the contexts this host may speak for; empty allows all.
	Contexts []int64 `json:"contexts,omitempty"`
	// Source is what makes new mail known: "dovecot", "idle", "mailnotify" or "auto" (the default).
	Source string `json:"source,omitempty"`
	// PasswordSource is what listeners sign in with: "session" (the default), "global" or "oauth".
	PasswordSource string `json:"password_source,omitempty"`
	// MasterLogin is the master user of "global". Its password, like the other secrets below, is only ever
	// in a request.
	MasterLogin    string `json:"master_login,omitempty"`
	MasterPassword string `json:"master_password,omitempty"`
	// DoveadmURL is Dovecot's doveadm HTTP API.
	DoveadmURL string `json:"doveadm_url,omitempty"`
	DoveadmKey string `json:"doveadm_key,omitempty"`
	// OAuthTokenURL is the token endpoint of "oauth".
	OAuthTokenURL     string `json:"oauth_token_url,omitempty"`
	OAuthClientID     string `json:"oauth_client_id,omitempty"`
	OAuthClientSecret string `json:"oauth_client_secret,omitempty"`
	OAuthScope        string `json:"oauth_scope,omitempty"`
}

// User is one mail user.
type User struct {
	// User is "<id>@<context>". In a request the id may be left out ("@1") to have one assigned.
	User     string `json:"user"`
	Login    string `json:"login"`
	MailHost string `json:"mailhost"`
}

// PushUser is one user with a listener, wanted or there.
type PushUser struct {
	User  string `json:"user"`
	Login string `json:"login"`
	// Permanent is false for a listener that lives as long as a session is in use.
	Permanent bool `json:"permanent"`
	// Node is the name of the node that has the listener, or its id where names repeat; empty when none has.
	Node string `json:"node,omitempty"`
	// Source is where events come from: "dovecot", "idle" or "mailnotify"; empty or "auto" before that is known.
	Source string `json:"source"`
	// State is registered, listening, pending, waiting_for_sign_in, foreign, unsupported or client_not_allowed.
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"`
	Devices int    `json:"devices"`
	// Since is when State was entered, LastEvent when something was last heard of the mailbox.
	Since     string `json:"since,omitempty"`
	LastEvent string `json:"last_event,omitempty"`
	// LastError is the last failure of the listener, in the words of whatever failed.
	LastError string `json:"last_error,omitempty"`
}

// PushDevice is one subscription.
type PushDevice struct {
	ID        string   `json:"id"`
	User      string   `json:"user"`
	Client    string   `json:"client"`
	Transport string   `json:"transport"`
	Topics    []string `json:"topics"`
	// Target is a redacted form of the token: the push origin, or the token's last characters.
	Target  string `json:"target"`
	Created string `json:"created"`
	Expires string `json:"expires,omitempty"`
	// Pending says that a newer state waits to be sent.
	Pending bool `json:"pending"`
	// Attempt counts the failed tries of the pending state; NotBefore is when the next one is due.
	Attempt   int    `json:"attempt,omitempty"`
	NotBefore string `json:"not_before,omitempty"`
}

// Reloaded is what a reload did.
type Reloaded struct {
	// Changed is the credentials that are in use since.
	Changed []string `json:"changed"`
	// NeedsRestart is the keys that have changed, and that only a restart takes over.
	NeedsRestart []string `json:"needs_restart"`
}

// Rotate asks for the next batch of a rotation; Rotated is what became of it.
type Rotate struct {
	// After is Next of the answer before; "" begins.
	After string `json:"after,omitempty"`
}

// Rotated is what a batch sealed anew.
type Rotated struct {
	// Key is the id of the key that everything is sealed with.
	Key string `json:"key"`
	// Total is about how many values there are, in the first answer.
	Total int `json:"total,omitempty"`
	// Seen were looked at, Changed of them sealed anew; Lost are those that no key opens.
	Seen    int      `json:"seen"`
	Changed int      `json:"changed"`
	Lost    []string `json:"lost,omitempty"`
	// Next is where the next batch begins; "" at the end.
	Next string `json:"next,omitempty"`
}

// PushTest asks for a test notification to one device or to all devices of a user.
type PushTest struct {
	User   string `json:"user,omitempty"`
	Device string `json:"device,omitempty"`
}

// PushTestResult is what the provider said to one test notification.
type PushTestResult struct {
	Device    string `json:"device"`
	Transport string `json:"transport"`
	Outcome   string `json:"outcome"`
	Status    int    `json:"status,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// PushOutcome is one line of a device's trace.
type PushOutcome struct {
	At      string `json:"at"`
	Version int64  `json:"version"`
	Attempt int    `json:"attempt"`
	Outcome string `json:"outcome"`
	Status  int    `json:"status,omitempty"`
	Reason  string `json:"reason,omitempty"`
	// ProviderID is the provider's name for the notification.
	ProviderID string `json:"provider_id,omitempty"`
	// Accepted is when the event was accepted; Sent and Answered are when the request left and when
	// the provider's answer was here.
	Accepted string `json:"accepted"`
	Sent     string `json:"sent"`
	Answered string `json:"answered"`
	// NextTry is when a failed state is tried again.
	NextTry string `json:"next_try,omitempty"`
}

// PushExplanation is every gate between a mail for a user and his devices, in the order of the way.
type PushExplanation struct {
	User     string `json:"user"`
	Login    string `json:"login,omitempty"`
	MailHost string `json:"mailhost,omitempty"`
	// Closed names the first closed gate ("listener", "lane of device eac3bbc35f75301634566966"); empty
	// when none is.
	Closed string `json:"closed"`
	// Gates are those of the user, Devices have their own.
	Gates   []PushGate        `json:"gates"`
	Devices []PushDeviceGates `json:"devices"`
}

// PushDeviceGates are the gates of one device.
type PushDeviceGates struct {
	ID        string     `json:"id"`
	Client    string     `json:"client"`
	Transport string     `json:"transport"`
	Target    string     `json:"target"`
	Closed    string     `json:"closed"`
	Gates     []PushGate `json:"gates"`
}

// PushGate is one condition, and whether it holds.
type PushGate struct {
	Gate string `json:"gate"`
	// State is "open", "closed" or "unknown".
	State string `json:"state"`
	// Detail says what is known, Do what a gate asks for that is not open.
	Detail string `json:"detail,omitempty"`
	Do     string `json:"do,omitempty"`
	// Until is when a closed gate opens, or an open one closes, where that is known.
	Until string `json:"until,omitempty"`
}

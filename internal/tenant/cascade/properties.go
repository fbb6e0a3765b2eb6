package cascade

import (
	"errors"
	"time"
)

// Standard is the properties of Posthorn: those below, each by its handle. docs/properties.md is generated from it
// (go test ./internal/tenant/cascade -run Generate -update).
var Standard = newRegistry()

var everywhere = []Scope{Server, ContextSet, Reseller, Context, User}

var levels = []string{"full", "sender", "none", "sealed"}

// Capabilities.
var (
	MobileMailApp = define[bool](Definition{
		Name: "capability.mobile_mail_app", Aliases: []string{"com.openexchange.capability.mobile_mail_app", "mobile_mail_app"},
		Type: Bool, Default: "false", Scopes: everywhere,
		Doc: "Whether the user may sign in with the app, that is with a client of app.clients.",
	})
	CapabilityPush = define[bool](Definition{
		Name: "capability.push", Type: Bool, Default: "true", Scopes: everywhere,
		Doc: "Whether the user is told of new mail at all. His devices may subscribe, but nothing is pushed to them while it is false.",
	})
)

// What is pushed.
var (
	PushPrivacy = define[string](Definition{
		Name: "push.privacy", Type: Enum, One: levels, Default: "full", Scopes: everywhere,
		Doc: "What a notification tells. full: sender and subject. sender: the sender only. none: only that there is new mail. " +
			"sealed: everything, encrypted for the app on the device.",
	})
	PushPrivacyAPNs    = privacyOf("push.privacy.apns", "APNs")
	PushPrivacyFCM     = privacyOf("push.privacy.fcm", "FCM")
	PushPrivacyWebPush = privacyOf("push.privacy.webpush", "Web Push")

	AllowedClients = define[[]string](Definition{
		Name: "push.allowed_clients", Aliases: []string{"com.openexchange.push.allowedClients", "com.openexchange.push.allowedClient"},
		Type: List, Default: "*", Scopes: everywhere,
		Check: checkClients,
		Doc:   "The applications that may subscribe, by the name they give as client. A * stands for any characters, also for none.",
	})
	QuietHours = define[Quiet](Definition{
		Name: "push.quiet_hours", Type: String, Default: "", Scopes: everywhere,
		Doc: "When devices without quiet hours of their own stay silent: a time zone and times, such as " +
			"\"Europe/Berlin 22:00-07:00\" or \"Europe/Berlin mon,tue,wed,thu,sun 22:00-07:00; fri,sat 23:30-09:00\". Empty: never.",
		read: func(text string) (any, error) { return parseQuiet(text) },
	})
	QuietBreak = define[string](Definition{
		Name: "push.quiet_break_through", Type: Enum, One: []string{"vip", "none"}, Default: "vip", Scopes: everywhere,
		Doc: "Whose mail alerts in the quiet hours of push.quiet_hours all the same.",
	})
	MaxSubscriptions = define[int](Definition{
		Name: "push.max_subscriptions", Type: Int, Min: "1", Max: "100", Default: "100", Scopes: everywhere,
		Doc: "How many devices of a user may be subscribed at once.",
	})
)

// Sessions.
var (
	SessionLifetime = define[time.Duration](Definition{
		Name: "sessions.lifetime", Type: Duration, Min: "1m", Max: "3650d", Default: "90d", Scopes: everywhere,
		Doc: "How long a device stays signed in, counted from its sign-in.",
	})
	MaxSessions = define[int](Definition{
		Name: "sessions.max_per_user", Type: Int, Min: "1", Max: "10000", Default: "50", Scopes: everywhere,
		Doc: "How many sessions a user may have. One more sign-in ends the oldest.",
	})
)

// MaxUsers is the limit of a tenant.
var MaxUsers = define[int](Definition{
	Name: "contexts.max_users", Type: Int, Min: "0", Max: "4294967295", Default: "0",
	Scopes: []Scope{Server, ContextSet, Reseller, Context}, Protected: true,
	Doc: "How many users a context may have; 0 is no limit. With as many as that, none can be added. Those who are there stay.",
})

// The app and whose it is.
var (
	AppClients = define[[]string](Definition{
		Name: "app.clients", Type: List, Default: "open-xchange-mailapp*, open-xchange-mobile-api-facade*, posthorn-app*",
		Scopes: []Scope{Server}, Protected: true, Check: checkClients,
		Doc: "The clients that are the app: they sign in only where capability.mobile_mail_app is true and a host rule allows the host.",
	})
	Provider = define[string](Definition{
		Name: "provider", Type: String, Default: "", Scopes: []Scope{Server, ContextSet, Reseller, Context}, Protected: true,
		Doc: "The name of the provider whose brand and push credentials the user has. Empty: the installation's own.",
		Check: func(name string) error {
			if len(name) > 255 {
				return errors.New("must be a provider's name, as \"posthorn provider list\" shows it")
			}
			return nil
		},
	})
)

func privacyOf(name, transport string) Property[string] {
	return define[string](Definition{
		Name: name, Type: Enum, One: append([]string{"inherit"}, levels...), Default: "inherit", Scopes: everywhere,
		Doc: "What a notification tells by " + transport + ": see push.privacy, which inherit stands for.",
	})
}

func define[T any](d Definition) Property[T] {
	p := Property[T]{Standard.add(d)}
	_ = p.Of(nil) // panics when T is not what the definition makes
	return p
}

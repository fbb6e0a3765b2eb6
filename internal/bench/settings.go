package bench

// What the listeners' parts set beside the defaults, and say so on the page.
const (
	holdSettings      = "credentials: {store: database}\n"
	restingSettings   = "listen: {allow_permanent_push: false}\n"
	clusterSettings   = "credentials: {store: memory}\n"
	reconcileSettings = "credentials: {store: database}\n"

	// loginsAtOnce is how many logins the server has under way at a time: listen.at_once.
	loginsAtOnce = 64
	// loginsRefusedAbove is how many logins in a second the fake mail server takes: half more than
	// listen.host_logins_per_second, as those begun in time may arrive together.
	loginsRefusedAbove = 450
	// stateListening is the state of a user whose mailbox a connection waits on.
	stateListening = "listening"
)

// listeningStates are those of users whose new mail we hear of.
var listeningStates = []string{"registered", stateListening}

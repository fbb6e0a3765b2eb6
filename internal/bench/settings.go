package bench

// What the listeners' parts set beside the defaults, and say so on the page.
const (
	holdSettings    = "credentials: {store: database}\n"
	restingSettings = "listen: {allow_permanent_push: false}\n"
	// loginsAtOnce is how many logins the server has under way at a time: listen's bound.
	loginsAtOnce = 16
	// loginsRefusedAbove is how many logins in a second the fake mail server takes.
	loginsRefusedAbove = 0
)

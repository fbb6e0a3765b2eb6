package push

import (
	"slices"
	"strconv"
	"sync"

	"github.com/posthorn-mail/posthorn/internal/subscription"
)

// served is an app of a transport: a credential and the clients it is for. A reload replaces the list of apps
// while sends go on, each with what it began with.
type served interface {
	comparable
	// serves says whether the entry is for a subscription: that of its provider, and for its client.
	serves(sub subscription.Subscription) bool
	// belongs tells the provider whose credential it is, "" for the installation, and its topic or project.
	belongs() (owner, what string)
	// users counts the sends that hold the entry.
	users() *sync.WaitGroup
	// Retire waits for those and ends the connections.
	Retire()
}

// holdApp finds the first of apps that is for a subscription and counts the caller as its user, who says Done
// afterwards. It is nil when there is none.
func holdApp[A served](mu *sync.RWMutex, apps *[]A, sub subscription.Subscription) (a A) {
	mu.RLock()
	defer mu.RUnlock()
	if i := appFor(*apps, sub); i >= 0 {
		a = (*apps)[i]
		a.users().Add(1)
	}
	return a
}

// appFor finds the first of apps that is for a subscription, or -1.
func appFor[A served](apps []A, sub subscription.Subscription) int {
	return slices.IndexFunc(apps, func(a A) bool { return a.serves(sub) })
}

// appName names one of apps by whose it is, its place among those, and its topic or project: "0/com.example.mail", or
// "blue/0/com.example.mail" of a provider.
func appName[A served](apps []A, i int) string {
	owner, what := apps[i].belongs()
	n := 0
	for _, a := range apps[:i] {
		if o, _ := a.belongs(); o == owner {
			n++
		}
	}
	name := strconv.Itoa(n) + "/" + what
	if owner != "" {
		name = owner + "/" + name
	}
	return name
}

// replaceApps puts apps in place of those there are, and returns the ones that nobody will find any more.
func replaceApps[A served](mu *sync.RWMutex, apps *[]A, by []A) (left []A) {
	mu.Lock()
	defer mu.Unlock()
	left = slices.DeleteFunc(slices.Clone(*apps), func(a A) bool { return slices.Contains(by, a) })
	*apps = by
	return left
}

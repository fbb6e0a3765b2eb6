package push

import (
	"slices"
	"sync"
)

// served is an app of a transport: a credential and the clients it is for. A reload replaces the list of apps
// while sends go on, each with what it began with.
type served interface {
	comparable
	// serves says whether the entry is for a client.
	serves(client string) bool
	// users counts the sends that hold the entry.
	users() *sync.WaitGroup
	// Retire waits for those and ends the connections.
	Retire()
}

// holdApp finds the first of apps that is for a client and counts the caller as its user, who says Done
// afterwards. It is nil when there is none.
func holdApp[A served](mu *sync.RWMutex, apps *[]A, client string) (a A) {
	mu.RLock()
	defer mu.RUnlock()
	if i := appFor(*apps, client); i >= 0 {
		a = (*apps)[i]
		a.users().Add(1)
	}
	return a
}

// appFor finds the first of apps that is for a client, or -1.
func appFor[A served](apps []A, client string) int {
	return slices.IndexFunc(apps, func(a A) bool { return a.serves(client) })
}

// replaceApps puts apps in place of those there are, and returns the ones that nobody will find any more.
func replaceApps[A served](mu *sync.RWMutex, apps *[]A, by []A) (left []A) {
	mu.Lock()
	defer mu.Unlock()
	left = slices.DeleteFunc(slices.Clone(*apps), func(a A) bool { return slices.Contains(by, a) })
	*apps = by
	return left
}

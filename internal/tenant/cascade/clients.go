package cascade

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// MatchClient reports whether a client's name fits one of the patterns of a property such as push.allowed_clients. In
// a pattern, * stands for any characters, also for none.
func MatchClient(patterns []string, client string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		// Names of clients have no slash, and checkClients lets no other wildcard pass.
		ok, err := path.Match(p, client)
		return ok && err == nil
	})
}

// checkClients accepts a list of patterns.
func checkClients(text string) error {
	if strings.ContainsAny(text, `?[]\/`) {
		return errors.New(`must be names of clients, with * for any characters; ? [ ] \ and / mean nothing here`)
	}
	return nil
}

package cluster

import "slices"

// Rendezvous hashing: every node computes a score for each (key, node), and the highest owns the key. A node
// that goes takes only its own keys with it, and one that comes takes only what it will own.
//
// All nodes must come to the same scores, whatever version they run: the functions below are part of the
// protocol, and a test holds them.

// place is one node that may own keys.
type place struct {
	id   string
	seed uint64
}

// places prepares ids for owner. The order decides between equal scores.
func places(ids []string) []place {
	ids = slices.Sorted(slices.Values(ids))
	all := make([]place, len(ids))
	for i, id := range ids {
		all[i] = place{id: id, seed: mix(hash(id) + 1)}
	}
	return all
}

// owner is the place of a key, or "" when there is none.
func owner(all []place, key string) string {
	h := hash(key)
	var best string
	var highest uint64
	for i := range all {
		if score := mix(h ^ all[i].seed); score > highest || best == "" {
			best, highest = all[i].id, score
		}
	}
	return best
}

// hash is FNV-1a, 64 bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of MurmurHash3: each bit of x changes half of the bits of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

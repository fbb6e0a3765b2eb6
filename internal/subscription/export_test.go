package subscription

import "github.com/posthorn-mail/posthorn/internal/tenant"

// CacheUsers caches users 1@1 to n@1, without asking the database for each.
func CacheUsers(s *Store, n int64) {
	for id := range n {
		u := tenant.UserID{Context: 1, ID: id + 1}
		_, _, changes := s.cache.get(u, s.now())
		s.cache.put(u, nil, s.now(), changes)
	}
}

// CachedUsers is how many users the cache holds.
func CachedUsers(s *Store) int {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return len(s.cache.byUser)
}

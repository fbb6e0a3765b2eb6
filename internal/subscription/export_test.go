package subscription

// CachedUsers is how many users the cache holds.
func CachedUsers(s *Store) int {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return len(s.cache.byUser)
}

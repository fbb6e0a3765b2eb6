package tenant

import "github.com/posthorn-mail/posthorn/internal/tenant/hostrule"

// SetHosts puts host rules in force; nil allows every host.
func (s *Store) SetHosts(r *hostrule.Rules) { s.hosts.Store(r) }

// Hosts are the host rules in force; nil when there are none.
func (s *Store) Hosts() *hostrule.Rules { return s.hosts.Load() }

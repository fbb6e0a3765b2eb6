package tenant

import "github.com/posthorn-mail/posthorn/internal/tenant/cascade"

// Define adds a property to those of a store: the standard ones hold no secret.
func (s *Store) Define(d cascade.Definition) { s.properties = s.properties.With(d) }

package seal

// Moved counts values that were to be sealed anew with the first key of a ring.
type Moved struct {
	// Seen is all that were looked at, Changed those that are sealed anew.
	Seen, Changed int
	// Lost names the owners of those that no key of the ring opens; they stay as they are.
	Lost []string
}

// Add adds what another look found.
func (m *Moved) Add(other Moved) {
	m.Seen += other.Seen
	m.Changed += other.Changed
	m.Lost = append(m.Lost, other.Lost...)
}

// Move seals a value anew unless it is so already, and counts it. It reports whether there is a new one to be
// put in the old one's place.
func (k *Keyring) Move(m *Moved, owner, sealed string) (string, bool) {
	m.Seen++
	fresh, changed, err := k.Reseal(owner, sealed)
	if err != nil {
		m.Lost = append(m.Lost, owner)
		return sealed, false
	}
	if changed {
		m.Changed++
	}
	return fresh, changed
}

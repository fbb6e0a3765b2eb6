package account

import (
	"net/netip"
	"time"
)

// AddressLimiter bounds what each address may ask of what costs us more than it costs who asks.
type AddressLimiter struct{ attempts *limiter }

// NewAddressLimiter allows a number of attempts for each address, refilled steadily over a window.
func NewAddressLimiter(attempts int, window time.Duration, now func() time.Time) *AddressLimiter {
	return &AddressLimiter{newLimiter(attempts, window, now)}
}

// Take uses one attempt, or says how long to wait for the next. An IPv6 address shares those of its /64.
func (l *AddressLimiter) Take(address netip.Addr) (wait time.Duration, ok bool) {
	return l.attempts.take(addressKey(address))
}

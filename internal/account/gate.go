package account

import (
	"net/netip"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// GateRequest is what a gate judges: a user who has proved who he is, and where and with what he signs in.
type GateRequest struct {
	User    tenant.User
	Client  string
	Host    string // of the request, as the device reached us
	Address netip.Addr
}

// RefusedError is the answer of a gate that is closed: login and password are right, and yet there is no session.
type RefusedError = tenant.RefusedError

package mailnotify

import (
	"bytes"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// maxDatagram is the longest datagram in bytes that Cyrus notifyd knows (NOTIFY_MAXSIZE). No honest sender has
// a longer one.
const maxDatagram = 8192

// userField is which of a datagram's fields is the user: the method, the class and the priority come before
// him, the mailbox, the options and the message behind.
const userField = 3

// parse finds the user of a datagram, "method\0class\0priority\0user\0mailbox\0nopt\0option\0…message\0", or says
// why there is none. What follows the user may be missing or cut: nothing of it is believed or needed.
func parse(b []byte) (user string, refused result) {
	switch {
	case len(b) == 0:
		return "", empty
	case len(b) > maxDatagram:
		return "", oversized
	}
	for range userField {
		_, rest, ok := bytes.Cut(b, []byte{0})
		if !ok {
			return "", malformed
		}
		b = rest
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	if user = string(name); tenant.CheckLogin(user) != nil {
		return "", malformed
	}
	return user, accepted
}

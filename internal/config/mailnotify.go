package config

import (
	"net/netip"
	"strings"
)

// mailNotify judges the section mailnotify.
func (k *checker) mailNotify() {
	m := k.c.MailNotify
	listen, ok := k.listen("mailnotify.listen", m.Listen)
	local := ok && loopback(listen.host)
	if m.MulticastGroup != "" {
		local = false
		if _, ok := m.Group(); !ok {
			k.add("mailnotify.multicast_group", "%q is not a multicast address, such as 239.192.0.23", printable(m.MulticastGroup))
		}
	} else if m.Interface != "" {
		k.add("mailnotify.interface", "it is only beside mailnotify.multicast_group")
	}
	if m.Enabled && ok && !local && len(m.AllowFrom) == 0 {
		k.add("mailnotify.allow_from", "name the networks of the mail servers, because others than this machine can send to mailnotify.listen: a report carries no proof of who sent it")
	}
	for i, domain := range m.Domains {
		if domain == "" || strings.ContainsAny(domain, "@ ") {
			k.add(item("mailnotify.domains", i), "%q is not a domain, such as example.org", printable(domain))
		}
	}
}

// Group is multicast_group as an address; false when it is none.
func (m MailNotify) Group() (netip.Addr, bool) {
	a, err := netip.ParseAddr(m.MulticastGroup)
	return a, err == nil && a.IsMulticast()
}

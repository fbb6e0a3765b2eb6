package config

import (
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

func (k *checker) bus() {
	k.mesh()
	raw := k.c.Bus.URL.Reveal()
	if raw == "" {
		return
	}
	for one := range strings.SplitSeq(raw, ",") {
		one = strings.TrimSpace(one)
		if !strings.HasPrefix(one, "nats://") && !strings.HasPrefix(one, "tls://") {
			k.add("bus.url", "it must begin with nats:// or tls://, and so must each further server after a comma")
			return
		}
		// The error of url.Parse would show the password.
		if u, err := url.Parse(one); err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			k.add("bus.url", "the form is nats://user:password@host:4222, with special characters of the password percent-encoded")
			return
		}
	}
}

// mesh judges the keys of bus that make a mesh, of which none works without the others.
func (k *checker) mesh() {
	b := k.c.Bus
	set := map[string]bool{
		"bus.listen": b.Listen != "", "bus.certificate_file": b.CertificateFile != "", "bus.key": b.Key.IsSet(), "bus.ca_file": b.CAFile != "",
	}
	if !set["bus.listen"] {
		for _, key := range []string{"bus.certificate_file", "bus.key", "bus.ca_file"} {
			if set[key] {
				k.add(key, "it is for a mesh of nodes, which needs bus.listen as well")
			}
		}
		if len(b.Routes) > 0 {
			k.add("bus.routes", "it is for a mesh of nodes, which needs bus.listen as well")
		}
		if b.Advertise != "" {
			k.add("bus.advertise", "it is for a mesh of nodes, which needs bus.listen as well")
		}
		return
	}
	if b.URL.Reveal() != "" {
		k.add("bus.listen", "not together with bus.url: nodes meet either at a NATS server or in a mesh of their own")
	}
	for _, key := range []string{"bus.certificate_file", "bus.key", "bus.ca_file"} {
		if !set[key] {
			k.add(key, "it is needed with bus.listen, because nodes prove to each other who they are")
		}
	}
	if !strings.HasPrefix(k.c.Database.URL.Reveal(), "postgres") {
		k.add("bus.listen", "nodes share a PostgreSQL: set database.url")
	}
	k.listen("bus.listen", b.Listen)
	if b.Advertise != "" {
		k.peer("bus.advertise", b.Advertise)
	}
	for i, r := range b.Routes {
		k.peer(item("bus.routes", i), r)
	}
}

// peer judges an address that is connected to.
func (k *checker) peer(key, address string) {
	host, port, err := net.SplitHostPort(address)
	n, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || errPort != nil || n == 0 || host == "" || strings.ContainsAny(host, " /@?#*") {
		k.add(key, "%q is not host:port", printable(address))
	}
}

// nodeName keeps listings readable.
func (k *checker) nodeName() {
	name := k.c.NodeName
	if len(name) > 200 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		k.add("node_name", "at most 200 printable characters")
	}
}

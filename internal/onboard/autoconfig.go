package onboard

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// How a login is made of an address.
const (
	LoginAddress = "address"    // the whole address
	LoginLocal   = "local_part" // what stands before the @
	LoginUnknown = "unknown"    // ask the user
)

// MailServer is where mail is read, or handed in.
type MailServer struct {
	Protocol string `json:"protocol"` // "imap" or "submission"
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Security string `json:"security"` // "tls" or "starttls"
	// Login is one of the Login words.
	Login string `json:"login"`
	// Source is who says so: "srv", "autoconfig", "mx" or "guess".
	Source string `json:"source"`
	// Elsewhere: the host is not below the domain, and only DNS, which is easily forged, says that it is the right
	// one. Show it to the user before a password is sent there (RFC 6186 section 6).
	Elsewhere bool `json:"elsewhere,omitempty"`
}

const (
	maxElements = 2000 // of an autoconfig document
	maxServers  = 10   // taken of one, of each kind
)

// parseAutoconfig reads what Thunderbird's format says of IMAP and submission, in its order of preference. Servers
// without encryption, or for POP3, are left out. domain is that of the address, which hosts and logins may name.
func parseAutoconfig(data []byte, domain string) ([]MailServer, error) {
	d := xml.NewDecoder(bytes.NewReader(data))
	d.CharsetReader = charsetReader
	var path []string
	var all []MailServer
	var one *autoconfigServer
	count := map[string]int{}
	for elements := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && len(path) == 0 && elements > 0 {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the document: %w", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if elements++; elements > maxElements || len(path) > 20 {
				return nil, errors.New("the document has too many elements")
			}
			if len(path) == 0 && t.Name.Local != "clientConfig" {
				return nil, errors.New("the document is no clientConfig")
			}
			path = append(path, t.Name.Local)
			if len(path) == 3 && path[1] == "emailProvider" {
				one = newAutoconfigServer(t)
			}
		case xml.EndElement:
			if len(path) == 3 && one != nil {
				if s, ok := one.server(domain); ok && count[s.Protocol] < maxServers {
					count[s.Protocol]++
					all = append(all, s)
				}
				one = nil
			}
			path = path[:len(path)-1] // the decoder has found that they match
		case xml.CharData:
			if len(path) == 4 && one != nil {
				one.add(path[3], string(t))
			}
		}
	}
}

// placeholder stands for the domain, in a host or a login.
var placeholder = regexp.MustCompile(`(?i)%EMAILDOMAIN%`)

// charsetReader reads what old documents are written in. What we take of them is ASCII.
func charsetReader(charset string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(charset) {
	case "us-ascii", "ascii", "iso-8859-1", "iso-8859-15", "latin1", "windows-1252":
	default:
		return nil, fmt.Errorf("the charset %s is not known", clip(charset))
	}
	data, err := io.ReadAll(in) // the body's bound is outbound's
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	text := make([]rune, len(data))
	for i, b := range data {
		text[i] = rune(b)
	}
	return strings.NewReader(string(text)), nil
}

// autoconfigServer is an incomingServer or outgoingServer while it is read.
type autoconfigServer struct {
	protocol string
	fields   map[string]string
}

// newAutoconfigServer is nil for an element that is none of ours.
func newAutoconfigServer(t xml.StartElement) *autoconfigServer {
	kind := ""
	for _, a := range t.Attr {
		if a.Name.Local == "type" {
			kind = strings.ToLower(a.Value)
		}
	}
	switch {
	case t.Name.Local == "incomingServer" && kind == "imap":
		return &autoconfigServer{"imap", map[string]string{}}
	case t.Name.Local == "outgoingServer" && kind == "smtp":
		return &autoconfigServer{"submission", map[string]string{}}
	}
	return nil
}

func (s *autoconfigServer) add(field, text string) {
	if len(s.fields[field])+len(text) <= 255 {
		s.fields[field] += text
	}
}

func (s *autoconfigServer) server(domain string) (MailServer, bool) {
	get := func(field string) string {
		return placeholder.ReplaceAllLiteralString(strings.TrimSpace(s.fields[field]), domain)
	}
	m := MailServer{Protocol: s.protocol, Login: LoginUnknown}
	host, err := hostrule.Normalise(get("hostname"))
	if err != nil || strings.Contains(get("hostname"), ":") {
		return m, false
	}
	if _, err := netip.ParseAddr(host); err == nil { // no certificate is for an address
		return m, false
	}
	m.Host = host
	if m.Port, err = strconv.Atoi(get("port")); err != nil || m.Port < 1 || m.Port > 65535 {
		return m, false
	}
	switch strings.ToUpper(get("socketType")) {
	case "SSL", "TLS":
		m.Security = tenant.SecurityTLS
	case "STARTTLS":
		m.Security = tenant.SecurityStartTLS
	default:
		return m, false
	}
	switch strings.ToUpper(get("username")) {
	case "%EMAILADDRESS%", "%EMAILLOCALPART%@" + strings.ToUpper(domain):
		m.Login = LoginAddress
	case "%EMAILLOCALPART%":
		m.Login = LoginLocal
	}
	return m, true
}

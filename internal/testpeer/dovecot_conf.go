package testpeer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

// dovecotSettings is what dovecotConf is filled with.
type dovecotSettings struct {
	DovecotConfig
	Dir       string
	Host      string
	IMAPPort  int
	IMAPSPort int
	LMTPPort  int
	// DoveadmPort is used if there is a key.
	DoveadmPort int
	User        string // whoever runs the test; "" for root
	Group       string
	UID, GID    int // owner of the mail
	Drivers     []string
}

// dovecotConf is written in the language of Dovecot 2.3. As root the usual dovecot and dovenull users
// serve; otherwise everything runs as the caller and nothing can be put in a chroot.
var dovecotConf = template.Must(template.New("dovecot.conf").Funcs(template.FuncMap{
	"next": func(i int) string {
		if i == 0 {
			return ""
		}
		return fmt.Sprint(i + 1)
	},
}).Parse(`
instance_name = {{.Dir}}
base_dir = {{.Dir}}/run
state_dir = {{.Dir}}/state
log_path = {{.Dir}}/dovecot.log
listen = {{.Host}}
protocols = imap lmtp
ssl = yes
ssl_cert = <{{.Dir}}/cert.pem
ssl_key = <{{.Dir}}/key.pem
disable_plaintext_auth = {{if .NoPlaintextAuth}}yes{{else}}no{{end}}
auth_mechanisms = plain login
auth_username_chars =
auth_verbose = yes
mail_max_userip_connections = {{.MaxUserIPConnections}}
shutdown_clients = yes
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {{.UID}}
mail_gid = {{.GID}}
mail_home = {{.Dir}}/mail/%u
mail_location = maildir:~/Maildir
mail_fsync = never
mail_attribute_dict = file:%h/Maildir/dovecot-attributes
postmaster_address = postmaster@localhost
hostname = localhost
default_vsz_limit = 1G

passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {{.Dir}}/users
}
{{- if .Master}}
auth_master_user_separator = *
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {{.Dir}}/masters
  master = yes
}
{{- end}}
userdb {
  driver = passwd-file
  args = username_format=%u {{.Dir}}/users
}
namespace inbox {
  inbox = yes
  separator = /
}
service imap-login {
  service_count = 0
  inet_listener imap {
    address = {{.Host}}
    port = {{.IMAPPort}}
  }
  inet_listener imaps {
    address = {{.Host}}
    port = {{.IMAPSPort}}
    ssl = yes
  }
}
{{- if .ClientLimit}}
default_client_limit = {{.MostClients}}
service imap {
  client_limit = {{.ClientLimit}}
  process_limit = {{.MostClients}}
}
{{- end}}
{{- if .Hibernate}}
imap_hibernate_timeout = {{.Hibernate.Seconds | printf "%.0f"}}s
service imap {
  service_count = 1
{{- if not .User}}
  extra_groups = $default_internal_group
{{- end}}
  unix_listener imap-master {
    user = $default_internal_user
  }
}
service imap-hibernate {
  unix_listener imap-hibernate {
    mode = 0660
    group = $default_internal_group
  }
}
{{- end}}
{{- if .DoveadmKey}}
doveadm_api_key = {{.DoveadmKey}}
service doveadm {
  inet_listener http {
    address = 127.0.0.1
    port = {{.DoveadmPort}}
  }
}
{{- end}}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = {{.LMTPPort}}
  }
}
protocol imap {
  mail_plugins = $mail_plugins notify push_notification
{{- if not .MetadataNets}}
  imap_metadata = {{if .NoMetadata}}no{{else}}yes{{end}}
{{- end}}
}
{{- range .MetadataNets}}
remote {{.}} {
  imap_metadata = yes
}
{{- end}}
protocol lmtp {
  mail_plugins = $mail_plugins notify push_notification
}
protocol lda {
  mail_plugins = $mail_plugins notify push_notification
}
plugin {
{{- range $i, $d := .Drivers}}
  push_notification_driver{{next $i}} = {{$d}}
{{- end}}
}
{{- if .User}}
default_internal_user = {{.User}}
default_internal_group = {{.Group}}
default_login_user = {{.User}}
service anvil {
  chroot =
}
service imap-login {
  chroot =
}
service imap-urlauth-login {
  chroot =
}
{{- end}}
{{.Extra}}
`))

// MostClients is for the template.
func (dovecotSettings) MostClients() int { return MostClients }

// writeCertificate makes a self-signed certificate for localhost and the loopback addresses that
// Dovecot may listen on. The file can be given to clients as their root.
func writeCertificate(dir string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	now := time.Now()
	tpl := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(otherLoopback)},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), certPEM, 0o600); err != nil {
		return nil, fmt.Errorf("write certificate: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), keyPEM, 0o600); err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return pool, nil
}

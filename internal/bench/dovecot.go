package bench

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

const (
	metadataKey    = "/private/vendor/vendor.dovecot/http-notify"
	doveadmKey     = "bench-doveadm-key"
	masterLogin    = "bench-master"
	masterPassword = "bench-master-password"
	userPassword   = "bench-user-password"
)

// dovecot is a real one with users of its own.
type dovecot struct {
	*peer
	dir                string
	imap, lmtp, manage int // ports of 127.0.0.1
}

// dovecotConf is in the language of Dovecot 2.3. As root the usual users serve, and the mail belongs to an
// id that is nobody's; else everything runs as the caller.
var dovecotConf = template.Must(template.New("").Parse(`
instance_name = {{.Dir}}
base_dir = {{.Dir}}/run
state_dir = {{.Dir}}/state
log_path = {{.Dir}}/dovecot.log
listen = 127.0.0.1
protocols = imap lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_chars =
auth_master_user_separator = *
mail_max_userip_connections = 0
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
default_client_limit = 4000
doveadm_api_key = {{.Key}}

passdb {
  driver = passwd-file
  master = yes
  result_success = continue
  args = scheme=PLAIN {{.Dir}}/masters
}
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {{.Dir}}/users
}
userdb {
  driver = passwd-file
  args = username_format=%u {{.Dir}}/users
}
namespace inbox {
  inbox = yes
  separator = /
}
service anvil {
  client_limit = 6000
  {{if .User}}chroot ={{end}}
}
service auth {
  client_limit = 6000
}
service imap {
  process_limit = 1024
}
service imap-login {
  service_count = 0
  client_limit = 4000
  {{if .User}}chroot ={{end}}
  inet_listener imap {
    port = {{.IMAP}}
  }
  inet_listener imaps {
    port = 0
  }
}
service lmtp {
  inet_listener lmtp {
    port = {{.LMTP}}
  }
}
service doveadm {
  inet_listener http {
    port = {{.Manage}}
  }
}
protocol imap {
  mail_plugins = $mail_plugins notify push_notification
  imap_metadata = yes
}
protocol lmtp {
  mail_plugins = $mail_plugins notify push_notification
}
plugin {
{{- range $name, $url := .Drivers}}
  push_notification_driver{{$name}} = ox:url={{$url}}
{{- end}}
}
{{- if .User}}
default_internal_user = {{.User}}
default_internal_group = {{.Group}}
default_login_user = {{.User}}
service imap-urlauth-login {
  chroot =
}
{{- end}}
`))

// startDovecot starts one that reports new mail to the addresses host:port, each user's to all of them.
func (r *runner) startDovecot(ctx context.Context, users int, notify []string) (_ *dovecot, err error) {
	program, err := find("dovecot", "/usr/sbin")
	if err != nil {
		return nil, err
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output() //nolint:gosec // the program we looked for
	if err != nil || !strings.HasPrefix(string(version), "2.3.") {
		return nil, fmt.Errorf("%w (%s is version %q)", errMissing, program, bytes.TrimSpace(version))
	}
	ports, err := r.freePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "phb-dc-") // the paths of sockets must be short
	if err != nil {
		return nil, err
	}
	r.clean = append(r.clean, dir)
	d := &dovecot{dir: dir, imap: ports[0], lmtp: ports[1], manage: ports[2]}
	drivers := map[string]string{}
	for i, host := range notify {
		name := ""
		if i > 0 {
			name = strconv.Itoa(i + 1)
		}
		drivers[name] = "http://posthorn:" + notifyPassword + "@" + host + notifyPath
	}
	settings := map[string]any{
		"Dir": dir, "UID": 64911, "GID": 64911, "Key": doveadmKey, "IMAP": d.imap, "LMTP": d.lmtp, "Manage": d.manage,
		"Drivers": drivers, "User": "", "Group": "",
	}
	mail := filepath.Join(dir, "mail")
	if err := os.Mkdir(mail, 0o700); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(mail, 64911, 64911)); err != nil { //nolint:gosec // Dovecot's users must pass
			return nil, err
		}
	} else {
		me, err1 := user.Current()
		if err1 != nil {
			return nil, err1
		}
		group, err1 := user.LookupGroupId(me.Gid)
		if err1 != nil {
			return nil, err1
		}
		settings["UID"], settings["GID"], settings["User"], settings["Group"] = me.Uid, me.Gid, me.Username, group.Name
	}
	var conf, accounts bytes.Buffer
	if err := dovecotConf.Execute(&conf, settings); err != nil {
		return nil, err
	}
	for i := range users {
		fmt.Fprintf(&accounts, "%s:{PLAIN}%s::::::\n", login(i), userPassword)
	}
	for name, text := range map[string]string{
		"dovecot.conf": conf.String(), "users": accounts.String(), "masters": masterLogin + ":{PLAIN}" + masterPassword + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // of a run
			return nil, err
		}
	}
	if d.peer, err = startPeer(ctx, r.dir, nil, syscall.SIGTERM, program, "-F", "-c", filepath.Join(dir, "dovecot.conf")); err != nil {
		return nil, err
	}
	err = until(ctx, 20*time.Second, "Dovecot answers", func() (bool, error) {
		err1 := d.deliver(ctx, nil, nil)
		_, err2 := d.unregistered(ctx, 1)
		return err1 == nil && err2 == nil, nil
	})
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "dovecot.log")) //nolint:gosec // our own file
		return nil, errors.Join(fmt.Errorf("%w: %s %s", err, d.said(), tail(string(said))), d.stop())
	}
	return d, nil
}

// address is a port's on this machine.
func address(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// deliver puts one message into the INBOX of each by LMTP (RFC 2033), and returns when Dovecot has taken
// it and its push driver is done. Without recipients it only says hello.
func (d *dovecot) deliver(ctx context.Context, to []string, message []byte) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(d.lmtp))
	if err != nil {
		return err
	}
	c := textproto.NewConn(conn)
	defer c.Close() //nolint:errcheck // QUIT was answered, or there is a better error
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	say := func(code int, line string) error {
		if err := c.PrintfLine("%s", line); err != nil {
			return err
		}
		if _, _, err := c.ReadResponse(code); err != nil {
			return fmt.Errorf("answer to %s: %w", line, err)
		}
		return nil
	}
	err = say(250, "LHLO localhost")
	if len(to) > 0 && err == nil {
		err = say(250, "MAIL FROM:<sender@example.org>")
		for _, rcpt := range to {
			if err == nil {
				err = say(250, "RCPT TO:<"+rcpt+">")
			}
		}
		if err == nil {
			err = say(354, "DATA")
		}
		if err == nil {
			w := c.DotWriter()
			_, err1 := w.Write(message)
			err = errors.Join(err1, w.Close())
		}
		for range to { // an answer for each
			if err == nil {
				_, _, err = c.ReadResponse(250)
			}
		}
	}
	if err == nil {
		err = say(221, "QUIT")
	}
	return err
}

// doveadmCall is a command of doveadm's HTTP API: name, parameters and tag.
type doveadmCall [3]any

// doveadm runs commands in one request, and returns the answer to each.
func (d *dovecot) doveadm(ctx context.Context, calls []doveadmCall) ([]json.RawMessage, error) {
	body, err := json.Marshal(calls)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address(d.manage)+"/doveadm/v1", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "X-Dovecot-API "+base64.StdEncoding.EncodeToString([]byte(doveadmKey)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("doveadm: %s: %s", res.Status, raw)
	}
	var answers []json.RawMessage
	if err := json.Unmarshal(raw, &answers); err != nil {
		return nil, fmt.Errorf("doveadm: %w: %s", err, raw)
	}
	if len(answers) != len(calls) {
		return nil, fmt.Errorf("doveadm: %d answers to %d commands", len(answers), len(calls))
	}
	return answers, nil
}

// unregistered counts the users without an entry for the push driver.
func (d *dovecot) unregistered(ctx context.Context, users int) (int, error) {
	missing := 0
	const batch = 100
	for from := 0; from < users; from += batch {
		var calls []doveadmCall
		for i := from; i < min(from+batch, users); i++ {
			calls = append(calls, doveadmCall{"mailboxMetadataGet", map[string]any{
				"user": login(i), "mailbox": "", "allowEmptyMailboxName": true, "key": metadataKey,
			}, strconv.Itoa(i)})
		}
		answers, err := d.doveadm(ctx, calls)
		if err != nil {
			return 0, err
		}
		for _, a := range answers {
			if !bytes.Contains(a, []byte(`"value":"user=`)) {
				missing++
			}
		}
	}
	return missing, nil
}

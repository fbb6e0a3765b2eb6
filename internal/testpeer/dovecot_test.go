package testpeer

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// imap is one IMAP connection, from an address of this machine.
type imap struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func (d *Dovecot) imap(t *testing.T, from string) imap {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(d.Host, strconv.Itoa(d.IMAPPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return imap{t, conn, bufio.NewReader(conn)}
}

// does sends a line, if there is one, and reads up to a line that holds the words.
func (c imap) does(line, words string) string {
	c.t.Helper()
	if line != "" {
		if _, err := fmt.Fprintf(c, "%s\r\n", line); err != nil {
			c.t.Fatal(err)
		}
	}
	for {
		got, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%s: waiting for %q: %v", line, words, err)
		}
		if strings.Contains(got, words) {
			return got
		}
	}
}

func TestDovecotMasterAndNetworks(t *testing.T) {
	t.Parallel()
	d := StartDovecot(t, DovecotConfig{
		Users: map[string]string{"ann": "secret"}, Master: "root", MasterPassword: "pass",
		MetadataNets: []string{"127.0.0.8/32"}, MaxUserIPConnections: 2, ClientLimit: 10,
	})
	other := d.imap(t, "127.0.0.8")
	other.does("a AUTHENTICATE PLAIN "+base64.StdEncoding.EncodeToString([]byte("ann\x00root\x00pass")), "a OK")
	if got := other.does("b CAPABILITY", "* CAPABILITY"); !strings.Contains(got, " METADATA") {
		t.Errorf("no METADATA for the network that has it: %s", got)
	}
	for _, login := range []string{"ann secret", `"ann*root" pass`} {
		us := d.imap(t, "127.0.0.1")
		us.does("a LOGIN "+login, "a OK")
		if got := us.does("b CAPABILITY", "* CAPABILITY"); strings.Contains(got, " METADATA") {
			t.Errorf("METADATA for another network: %s", got)
		}
	}
	d.imap(t, "127.0.0.1").does("a LOGIN ann secret", "a NO [LIMIT]")
}

func TestDovecotHibernatesAndAnswersDoveadm(t *testing.T) {
	t.Parallel()
	d := StartDovecot(t, DovecotConfig{Users: map[string]string{"ann": "secret"}, DoveadmKey: "key", Hibernate: time.Second})
	c := d.imap(t, "127.0.0.1")
	c.does("a LOGIN ann secret", "a OK")
	c.does("b EXAMINE INBOX", "b OK")
	c.does("c IDLE", "+ idling")
	hibernated := func() bool {
		return strings.Contains(d.Doveadm(t, "who", "-1"), "ann") && strings.Contains(d.processes(t), "imap-hibernate")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(30 * time.Second); !hibernated(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the connection does not hibernate")
		}
	}
	d.DeliverLMTP(t, []string{"ann"}, []byte(message))
	c.does("", "* 1 EXISTS")

	ask := func(key string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.DoveadmURL+"/doveadm/v1",
			strings.NewReader(`[["mailboxStatus",{"user":"ann","mailboxMask":["INBOX"],"field":["messages"]},"t"]]`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "X-Dovecot-API "+base64.StdEncoding.EncodeToString([]byte(key)))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	if status, body := ask("key"); status != 200 || body != `[["doveadmResponse",[{"mailbox":"INBOX","messages":"1"}],"t"]]` {
		t.Errorf("%d %s", status, body)
	}
	if status, body := ask("other"); status != 401 {
		t.Errorf("with a wrong key: %d %s", status, body)
	}
	d.RemoveMailbox(t, "ann")
	if _, body := ask("key"); !strings.Contains(body, `"messages":"0"`) {
		t.Errorf("after the loss: %s", body)
	}
}

// processes returns the children of our Dovecot, by their command lines.
func (d *Dovecot) processes(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile(d.dir + "/run/master.pid")
	if err != nil {
		t.Fatal(err)
	}
	master := strings.TrimSpace(string(pid))
	children, err := os.ReadFile("/proc/" + master + "/task/" + master + "/children") //nolint:gosec // the kernel's
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for child := range strings.FieldsSeq(string(children)) {
		line, _ := os.ReadFile("/proc/" + child + "/cmdline") //nolint:gosec // the kernel's; nothing when it is gone already
		all.Write(append(line, '\n'))
	}
	return all.String()
}

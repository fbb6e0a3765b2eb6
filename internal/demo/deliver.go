package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// httpNotify is the server annotation that names the user to push for.
const httpNotify = "/private/vendor/vendor.dovecot/http-notify"

// notification is the body of Dovecot's PUT, in the order of its fields. From and Subject are raw
// header values; a mail without the header has no such field.
type notification struct {
	User        string  `json:"user"`
	Event       string  `json:"event"`
	Folder      string  `json:"folder"`
	UIDValidity uint32  `json:"imap-uidvalidity"`
	UID         uint32  `json:"imap-uid"`
	From        *string `json:"from,omitempty"`
	Subject     *string `json:"subject,omitempty"`
	Snippet     string  `json:"snippet"`
	Unseen      uint32  `json:"unseen"`
}

// deliver stores a mail in INBOX and, when somebody has registered for it, pushes before it returns.
// A failed push never fails the delivery.
func (m *mailServer) deliver(ctx context.Context, msg []byte, accepted time.Time, lmtp bool) error {
	u := m.user
	u.delivering.Lock()
	defer u.delivering.Unlock()

	stored, err := u.boxes.Append("INBOX", &literal{bytes.NewReader(msg)}, &imap.AppendOptions{Time: accepted})
	if err != nil {
		return fmt.Errorf("store the mail: %w", err)
	}
	status, err := u.boxes.Status("INBOX", &imap.StatusOptions{NumUnseen: true})
	if err != nil {
		return fmt.Errorf("count unseen mails: %w", err)
	}
	n := notification{
		User: u.login, Event: "messageNew", Folder: "INBOX",
		UIDValidity: stored.UIDValidity, UID: uint32(stored.UID),
		Snippet: snippet(msg),
	}
	if status.NumUnseen != nil {
		n.Unseen = *status.NumUnseen
	}
	if v, ok := rawHeader(msg, "From"); ok {
		n.From = &v
	}
	if v, ok := rawHeader(msg, "Subject"); ok {
		n.Subject = &v
	}
	m.board.accepted(n, lmtp, accepted)

	value, _ := u.metadata.get("", httpNotify)
	if !registered(value) {
		m.board.fail(n.UIDValidity, n.UID, "nobody has registered for pushes of this mailbox")
		return nil
	}
	m.board.hop(n.UIDValidity, n.UID, hopNotify, time.Now(), "")
	result, err := m.notify.put(ctx, n)
	if err != nil {
		m.board.fail(n.UIDValidity, n.UID, err.Error())
		return nil
	}
	m.board.hop(n.UIDValidity, n.UID, hopAnswer, time.Now(), result)
	return nil
}

// registered tells whether the annotation asks for pushes: TAB-separated key=value pairs of which
// Dovecot reads "user" only. In its default form it then sends the login, not that value.
func registered(value string) bool {
	for pair := range strings.SplitSeq(value, "\t") {
		if user, ok := strings.CutPrefix(pair, "user="); ok && user != "" {
			return true
		}
	}
	return false
}

// literal is a message as the IMAP library wants it.
type literal struct{ *bytes.Reader }

// notifyTimeout is Dovecot's default, for each try.
const notifyTimeout = 2 * time.Second

// notifier sends Dovecot's push. It is safe for concurrent use.
type notifier struct {
	url  string
	user *url.Userinfo
	http http.Client
}

func newNotifier(rawURL string) (*notifier, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("parse the notify URL: %w", err)
	}
	n := &notifier{user: u.User}
	u.User = nil
	n.url = u.String()
	n.http = http.Client{
		Transport: &http.Transport{DisableCompression: true},
		Timeout:   notifyTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	return n, nil
}

func (n *notifier) close() { n.http.CloseIdleConnections() }

// put sends one notification and returns the endpoint's "result". A broken connection or a time-out is
// tried once more, an answer of any kind never.
func (n *notifier) put(ctx context.Context, body notification) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		return "", fmt.Errorf("encode the notification: %w", err)
	}
	content := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	res, err := n.try(ctx, content)
	if err != nil && ctx.Err() == nil {
		res, err = n.try(ctx, content)
	}
	if err != nil {
		return "", fmt.Errorf("send the notification: %w", errors.Unwrap(err)) // without the URL
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read the notify endpoint's answer: %w", err)
	}
	var a struct {
		Result string `json:"result"`
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(answer, &a) // Dovecot does not read it; we only show it
	switch {
	case res.StatusCode/100 != 2:
		return "", fmt.Errorf("the notify endpoint answered %s", res.Status)
	case a.Result != "queued":
		return "", fmt.Errorf("the notify endpoint answered %q: %s", a.Result, a.Reason)
	}
	return a.Result, nil
}

func (n *notifier) try(ctx context.Context, content []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, n.url, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	req.Header.Set("Connection", "Keep-Alive")
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "") // Dovecot sends none
	if n.user != nil {
		password, _ := n.user.Password()
		req.SetBasicAuth(n.user.Username(), password)
	}
	return n.http.Do(req)
}

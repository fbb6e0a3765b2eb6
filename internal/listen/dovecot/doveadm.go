package dovecot

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"github.com/posthorn-mail/posthorn/internal/imap"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// What goes wrong with a doveadm HTTP API. Reason has a sentence for each.
var (
	// ErrUnreachable: nobody answers, or a proxy says so.
	ErrUnreachable = errors.New("the doveadm API cannot be reached")
	// ErrKey: the key is not the server's doveadm_api_key.
	ErrKey = errors.New("the doveadm API refuses the key")
	// ErrAnswer: what answers is no doveadm API.
	ErrAnswer = errors.New("that is no answer of a doveadm API")
	// ErrNoUser: the server's userdb has no such login.
	ErrNoUser = errors.New("the mail server knows no such user")
	// ErrNotAllowed: doveadm_allowed_commands leaves the command out.
	ErrNotAllowed = errors.New("the doveadm command is not allowed")
	// ErrNoFolder: the user has no such folder.
	ErrNoFolder = errors.New("there is no such folder")
	// errTooLong: an answer is longer than maxAnswer.
	errTooLong = errors.New("the answer is too long")
)

// ExitError is a doveadm command that failed for another reason than those above.
type ExitError struct {
	Command string
	Code    int    // of sysexits.h, or doveadm's own
	Type    string // what Dovecot calls the error: "exitCode", "unknownMethod"
}

func (e *ExitError) Error() string {
	if e.Type != "exitCode" {
		return fmt.Sprintf("doveadm %s: %s", e.Command, e.Type)
	}
	return fmt.Sprintf("doveadm %s: exit code %d", e.Command, e.Code)
}

// The exit codes of doveadm that mean something to us.
const (
	exitNotPossible = 65 // EX_DATAERR; of the metadata commands: "Mailbox attributes not enabled"
	exitNoUser      = 67 // EX_NOUSER
	exitNotFound    = 68 // of mailboxStatus: no such mailbox
)

// notAllowed is the type of error of a command that doveadm_allowed_commands leaves out.
const notAllowed = "unAuthorized"

const (
	doveadmPath = "/doveadm/v1"
	// doveadmTimeout bounds one request, so that one that hangs does not take all the time of its listener.
	doveadmTimeout = 10 * time.Second
	// doveadmAtOnce bounds the connections to one API; Dovecot has one process for each.
	doveadmAtOnce = 16
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 4 << 20
)

// doveadm is a client of one mail host's doveadm HTTP API.
type doveadm struct {
	host tenant.MailHost // as it was when the client was made
	url  string
	auth string
	http *http.Client
}

// doveadm returns the client of a mail host, a new one when it has changed.
func (s *Source) doveadm(host tenant.MailHost) *doveadm {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.apis[host.Name]
	if d != nil && d.host.DoveadmURL == host.DoveadmURL && d.host.DoveadmKey == host.DoveadmKey &&
		d.host.CA == host.CA && d.host.Insecure == host.Insecure {
		return d
	}
	if d != nil {
		d.http.CloseIdleConnections()
	}
	if s.apis == nil {
		s.apis = map[string]*doveadm{}
	}
	d = newDoveadm(host)
	s.apis[host.Name] = d
	return d
}

func newDoveadm(host tenant.MailHost) *doveadm {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: host.Insecure, //nolint:gosec // G402: only on the operator's word
	}
	if host.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(host.CA))
	}
	d := &doveadm{host: host, url: host.DoveadmURL}
	if u, err := url.Parse(host.DoveadmURL); err == nil && (u.Path == "" || u.Path == "/") {
		u.Path = doveadmPath
		d.url = u.String()
	}
	d.auth = "X-Dovecot-API " + base64.StdEncoding.EncodeToString([]byte(host.DoveadmKey))
	d.http = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: conf, MaxConnsPerHost: doveadmAtOnce, MaxIdleConnsPerHost: doveadmAtOnce, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// The key is for the address that the operator gave.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d
}

// tag marks a command and its answer. There is one command in a request: Dovecot's documentation warns of more.
const tag = "posthorn"

// ask runs a command and returns what it printed.
func (d *doveadm) ask(ctx context.Context, command string, params map[string]any) ([]record, error) {
	body, err := json.Marshal([]any{[]any{command, params, tag}})
	if err != nil {
		return nil, fmt.Errorf("encode doveadm command: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, doveadmTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask doveadm: %w", err)
	}
	req.Header.Set("Authorization", d.auth)
	req.Header.Set("Content-Type", "application/json")
	// All our commands may be run twice: a connection that the server has closed meanwhile is no error then.
	req.Header["Idempotency-Key"] = []string{}
	res, err := d.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, withoutURL(err))
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return nil, ErrKey
	case res.StatusCode >= 500:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrUnreachable, res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrAnswer, res.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%w: read the answer: %w", ErrUnreachable, err)
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, errTooLong)
	}
	return parseAnswer(raw, command)
}

// withoutURL takes the address away, which the operator knows, and what is not for logs in it.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// record is one thing that a command printed.
type record map[string]text

// text is a value: 2.3 prints all of them as strings, later versions numbers as numbers.
type text string

// UnmarshalJSON accepts a string or a number.
func (t *text) UnmarshalJSON(raw []byte) error {
	var n json.Number
	if len(raw) > 0 && raw[0] != '"' {
		if err := json.Unmarshal(raw, &n); err != nil || n == "" {
			return errors.New("a value is neither text nor a number")
		}
		*t = text(n)
		return nil
	}
	return json.Unmarshal(raw, (*string)(t))
}

// parseAnswer reads [["doveadmResponse",[{…},…],"posthorn"]] or
// [["error",{"type":"exitCode","exitCode":67},"posthorn"]].
func parseAnswer(raw []byte, command string) ([]record, error) {
	var answers [][]json.RawMessage
	if err := json.Unmarshal(raw, &answers); err != nil || len(answers) != 1 || len(answers[0]) != 3 {
		return nil, ErrAnswer
	}
	var kind, marked string
	if json.Unmarshal(answers[0][0], &kind) != nil || json.Unmarshal(answers[0][2], &marked) != nil || marked != tag {
		return nil, ErrAnswer
	}
	switch said := answers[0][1]; kind {
	case "doveadmResponse":
		var records []record
		if err := json.Unmarshal(said, &records); err != nil {
			return nil, ErrAnswer
		}
		return records, nil
	case "error":
		var e struct {
			Type     string `json:"type"`
			ExitCode int    `json:"exitCode"`
		}
		if err := json.Unmarshal(said, &e); err != nil || e.Type == "" {
			return nil, ErrAnswer
		}
		return nil, exit(command, e.Type, e.ExitCode)
	}
	return nil, ErrAnswer
}

func exit(command, kind string, code int) error {
	err := &ExitError{Command: command, Code: code, Type: kind[:min(len(kind), 100)]}
	switch {
	case kind == notAllowed:
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	case kind != "exitCode":
		return err
	}
	switch code {
	case exitNoUser:
		return fmt.Errorf("%w: %w", ErrNoUser, err)
	case exitNotFound:
		return fmt.Errorf("%w: %w", ErrNoFolder, err)
	}
	return err
}

// doveadmEntry is the way to a user's Entry by the doveadm API.
type doveadmEntry struct {
	*doveadm
	login string
}

func (d *doveadm) entry(login string) doveadmEntry { return doveadmEntry{d, login} }

// do runs one of the mailboxMetadata commands.
func (e doveadmEntry) do(ctx context.Context, name string, more map[string]any) ([]record, error) {
	params := map[string]any{"user": e.login, "mailbox": "", "allowEmptyMailboxName": true, "key": Entry}
	maps.Copy(params, more)
	records, err := e.ask(ctx, name, params)
	if failed, ok := errors.AsType[*ExitError](err); ok && failed.Code == exitNotPossible {
		return nil, fmt.Errorf("%w: %w", imap.ErrUnsupported, err)
	}
	return records, err
}

func (e doveadmEntry) get(ctx context.Context) (string, error) {
	records, err := e.do(ctx, "mailboxMetadataGet", nil)
	if err != nil {
		return "", fmt.Errorf("read registration: %w", err)
	}
	if len(records) != 1 {
		return "", fmt.Errorf("read registration: %w", ErrAnswer)
	}
	value, ok := records[0]["value"]
	if !ok {
		return "", fmt.Errorf("read registration: %w", ErrAnswer)
	}
	return string(value), nil
}

func (e doveadmEntry) set(ctx context.Context, value string) error {
	_, err := e.do(ctx, "mailboxMetadataSet", map[string]any{"value": value})
	return err
}

func (e doveadmEntry) remove(ctx context.Context) error {
	_, err := e.do(ctx, "mailboxMetadataUnset", nil)
	return err
}

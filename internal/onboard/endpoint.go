package onboard

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// NotifyPath is where mail servers report.
const NotifyPath = "/preliminary/http-notify/v1/notify"

// doveadm asks the API for its commands, which changes nothing.
func (e *exam) doveadm(ctx context.Context) Check {
	u, err := url.Parse(e.host.DoveadmURL)
	if err != nil {
		return failed("posthorn mailhost set --doveadm-url", "the URL cannot be read")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/doveadm/v1"
	}
	header := http.Header{"Authorization": {"X-Dovecot-API " + base64.StdEncoding.EncodeToString([]byte(e.host.DoveadmKey))}}
	a, err := e.call(ctx, http.MethodGet, u, header, nil)
	switch {
	case err != nil:
		return failed("is the inet_listener of service doveadm up, and does the firewall let this machine through?", "%s cannot be reached: %s", u.Host, why(ctx, err))
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		return failed("give the value of doveadm_api_key with posthorn mailhost set", "the key is refused (HTTP %d)", a.status)
	case a.status != http.StatusOK || !json.Valid(a.body):
		return failed("the URL must be that of Dovecot's doveadm HTTP API", "what answers is no doveadm API (HTTP %d)", a.status)
	}
	return ok("the key is right; answered in %s", a.took)
}

// answer is what an HTTP server said.
type answer struct {
	status int
	body   []byte
	took   string
}

// call makes one request to an address that the operator gave. It follows nothing: a credential is for that address alone.
func (e *exam) call(ctx context.Context, method string, u *url.URL, header http.Header, body []byte) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header = header
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: e.roots,
			InsecureSkipVerify: e.host.Insecure, //nolint:gosec // G402: only on the operator's word
		},
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	start := time.Now()
	res, err := client.Do(req)
	if err != nil {
		if failure, isURL := err.(*url.Error); isURL { //nolint:errorlint // what Do returns; it would show the URL
			err = failure.Err
		}
		return a, err
	}
	defer res.Body.Close()
	a.status = res.StatusCode
	a.body, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	a.took = in(time.Since(start))
	return a, err
}

// probe is a notification of nothing: the endpoint takes it and ignores it.
const probe = `{"event":"posthornDoctor","user":"doctor","folder":"INBOX","imap-uid":1}`

// notify calls the notify endpoint as the mail server would.
func (e *exam) notify(ctx context.Context) {
	if e.req.NotifyURL == "" {
		if e.host.Source != "idle" && e.host.Source != "mailnotify" {
			e.run(ctx, "notify", func(context.Context) Check {
				return skipped("give --notify-url with the URL that the mail server calls, to see whether it gets through")
			})
		}
		return
	}
	u, err := url.Parse(e.req.NotifyURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		e.run(ctx, "notify", func(context.Context) Check {
			return failed("give it as it is in Dovecot's configuration: http://LOGIN:PASSWORD@HOST:PORT"+NotifyPath, "--notify-url is no URL")
		})
		return
	}
	login := u.User
	u.User = nil
	if login == nil && e.host.NotifyLogin == "" && e.NotifyPassword != "" {
		login = url.UserPassword(e.NotifyLogin, string(e.NotifyPassword))
	}
	if !e.run(ctx, "notify", func(ctx context.Context) Check { return e.withoutCredential(ctx, u) }) {
		return
	}
	e.run(ctx, "notify_credential", func(ctx context.Context) Check { return e.withCredential(ctx, u, login) })
	e.run(ctx, "notify_from_mailhost", func(context.Context) Check {
		c := skipped("that it answers here does not say that it does for the mail server")
		c.Do = fmt.Sprintf("on the mail server, run: curl -sS -u %s -X PUT -H 'Content-Type: application/json' -d '%s' '%s'", loginOf(login), probe, u)
		return c
	})
}

func loginOf(u *url.Userinfo) string {
	if u == nil || u.Username() == "" {
		return "LOGIN"
	}
	return "'" + strings.ReplaceAll(u.Username(), "'", `'\''`) + "'"
}

// said is what the endpoint, or a problem document, says.
type said struct {
	Success bool   `json:"success"`
	Result  string `json:"result"`
	Reason  string `json:"reason"`
}

func (e *exam) put(ctx context.Context, u *url.URL, login *url.Userinfo) (a answer, s said, err error) {
	header := http.Header{"Content-Type": {"application/json"}}
	if login != nil {
		password, _ := login.Password()
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(login.Username()+":"+password)))
	}
	if a, err = e.call(ctx, http.MethodPut, u, header, []byte(probe)); err == nil {
		_ = json.Unmarshal(a.body, &s) // nothing of it: it is not ours
	}
	return a, s, err
}

// withoutCredential expects to be refused.
func (e *exam) withoutCredential(ctx context.Context, u *url.URL) Check {
	a, s, err := e.put(ctx, u, nil)
	switch {
	case err != nil:
		return failed("does internal.listen take connections at that address, and does the firewall or proxy let them through?", "%s cannot be reached: %s", u.Host, why(ctx, err))
	case a.status == http.StatusUnauthorized && s.Reason == "bad_credential":
		return ok("asks for a credential; answered in %s", a.took)
	case a.status == http.StatusOK && s.Success && isLoopback(u.Hostname()):
		return warning("if others than this machine's users can reach it, set internal.notify.password", "takes notifications without a credential")
	case a.status == http.StatusOK && s.Success:
		return failed("set internal.notify.password, or remove what adds a credential on the way", "takes notifications without a credential, from everybody who can reach it")
	case a.status == http.StatusNotFound && s.Reason == "not_found":
		return failed("the URL ends with "+NotifyPath, "it is Posthorn, but not its notify endpoint")
	}
	return failed("the URL must lead to Posthorn's internal listener (internal.listen)", "somebody else answers, or a proxy in between (HTTP %d)", a.status)
}

// withCredential expects that the probe is taken, and ignored.
func (e *exam) withCredential(ctx context.Context, u *url.URL, login *url.Userinfo) Check {
	if login == nil {
		return skipped("there is no LOGIN:PASSWORD in --notify-url to try, and only a hash of this mail host's own is kept")
	}
	a, s, err := e.put(ctx, u, login)
	switch {
	case err != nil:
		return failed("see notify", "no answer: %s", why(ctx, err))
	case a.status == http.StatusOK && s.Success && s.Result == "ignored":
		return ok("a notification is taken; answered in %s", a.took)
	case a.status == http.StatusUnauthorized:
		return failed("posthorn mailhost list shows the login; the password is in the file notify-password, or was shown by posthorn mailhost add", "login or password are wrong")
	case a.status == http.StatusForbidden && s.Reason == "address_not_allowed":
		return warning("run the line below at the mail server", "the password is right; this machine is not in the allow_from of the credential, which is as it should be when it is not the mail server")
	case a.status == http.StatusServiceUnavailable:
		return failed("see database", "notifications cannot be stored now")
	}
	return failed("the URL must lead to Posthorn's internal listener (internal.listen)", "not an answer of Posthorn (HTTP %d)", a.status)
}

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
)

// posthorn is a running Posthorn as seen from outside: its admin socket and its two listeners.
type posthorn struct {
	public        string // base URL
	internal      string // host:port
	admin, device http.Client
}

func newPosthorn(stateDir, public, internal string) *posthorn {
	socket := filepath.Join(stateDir, "admin.sock")
	p := &posthorn{public: "http://" + public, internal: internal}
	p.admin.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	p.device.Transport = &http.Transport{}
	return p
}

func (p *posthorn) close() {
	p.admin.CloseIdleConnections()
	p.device.CloseIdleConnections()
}

// provision makes the user, as an operator would with "posthorn context add" and its sisters. It
// returns the user's name ("1@1") and the URL that the mail server notifies.
func (p *posthorn) provision(ctx context.Context, imapAddr, login string) (user, notifyURL string, err error) {
	var tenant struct {
		ID int64 `json:"id"`
	}
	if err := p.provisionOne(ctx, "contexts", map[string]any{"name": "demo"}, &tenant); err != nil {
		return "", "", err
	}
	const host = "demo-mail"
	var mailHost struct {
		Login    string `json:"notify_login"`
		Password string `json:"notify_password"`
	}
	err = p.provisionOne(ctx, "mailhosts", map[string]any{
		"name": host, "imap": imapAddr, "security": "none", "user_form": "login", "notify_login": "dovecot",
	}, &mailHost)
	if err != nil {
		return "", "", err
	}
	var account struct {
		User string `json:"user"`
	}
	err = p.provisionOne(ctx, "users", map[string]any{
		"user": fmt.Sprintf("@%d", tenant.ID), "login": login, "mailhost": host,
	}, &account)
	u := url.URL{
		Scheme: "http", Host: p.internal, Path: "/preliminary/http-notify/v1/notify",
		User: url.UserPassword(mailHost.Login, mailHost.Password),
	}
	return account.User, u.String(), err
}

func (p *posthorn) provisionOne(ctx context.Context, noun string, in, out any) error {
	if err := call(ctx, &p.admin, http.MethodPost, "http://admin/admin/v1/"+noun, "", in, out); err != nil {
		return fmt.Errorf("provision %s: %w", noun, err)
	}
	return nil
}

// session is a device that is signed in.
type session struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

// subscribe signs a device in as a client and subscribes it. pushSubscription is what a browser's
// PushSubscription.toJSON() returns. It returns the state of Posthorn's listener at the mail server.
func (p *posthorn) subscribe(ctx context.Context, client, login, password string, pushSubscription json.RawMessage) (session, listener, error) {
	var session session
	err := call(ctx, &p.device, http.MethodPost, p.public+"/api/v1/sessions", "",
		map[string]any{"login": login, "password": password, "client": client}, &session)
	if err != nil {
		return session, listener{}, fmt.Errorf("sign the phone in: %w", err)
	}
	var sub struct {
		Listener listener `json:"listener"`
	}
	err = call(ctx, &p.device, http.MethodPost, p.public+"/api/v1/subscriptions", session.Token,
		map[string]any{"client": client, "transport": "webpush", "topics": []string{"mail:new"}, "token": pushSubscription}, &sub)
	if err != nil {
		return session, listener{}, fmt.Errorf("subscribe the phone: %w", err)
	}
	return session, sub.Listener, nil
}

// listener is what Posthorn says about its registration at the mail server.
type listener struct {
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// vapidKey returns the public key that a browser subscribes with.
func (p *posthorn) vapidKey(ctx context.Context) (string, error) {
	var transports struct {
		Items []struct {
			Transport string `json:"transport"`
			Key       string `json:"vapid_public_key"`
		} `json:"items"`
	}
	if err := call(ctx, &p.device, http.MethodGet, p.public+"/api/v1/transports", "", nil, &transports); err != nil {
		return "", fmt.Errorf("ask for the transports: %w", err)
	}
	for _, t := range transports.Items {
		if t.Transport == "webpush" {
			return t.Key, nil
		}
	}
	return "", fmt.Errorf("ask for the transports: no webpush among %d", len(transports.Items))
}

// call makes one JSON request; in and out may be nil. An answer other than 2xx is an error with the
// problem document's words (RFC 9457).
func call(ctx context.Context, c *http.Client, method, target, bearer string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		var problem struct {
			Detail string `json:"detail"`
			Field  string `json:"field"`
		}
		_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&problem) // the status alone is an answer too
		if problem.Field != "" {
			problem.Detail = problem.Field + ": " + problem.Detail
		}
		return fmt.Errorf("answered %s: %s", res.Status, problem.Detail)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// listenerWait is how long a subscription's answer waits for the mail server.
const listenerWait = 2 * time.Second

type subscribeRequest struct {
	Client    string          `json:"client" example:"posthorn-app" doc:"that of the session when missing"`
	Transport string          `json:"transport" enum:"apns,fcm,webpush" need:"true"`
	Topics    []string        `json:"topics" example:"mail:new" need:"true" doc:"mail:new for the INBOX, mail:new:FOLDER for another folder; 50 at most"`
	Token     json.RawMessage `json:"token" need:"true" doc:"for apns {\"device_token\"}, for fcm {\"registration_token\"}, for webpush what PushSubscription.toJSON() returns"`
	Expires   json.RawMessage `json:"expires" doc:"a time, or milliseconds since 1970; never when missing, null or 0"`
	// Policy and Keys are left as they were when missing or null.
	Policy policyOf        `json:"policy" doc:"the one that is there stays when missing"`
	Keys   json.RawMessage `json:"keys" doc:"{\"p256dh\",\"auth\"} for sealed notifications; those that are there stay when missing or null"`
	// VAPIDPublicKey is what a browser subscribed with; "" is the one that it is offered now.
	VAPIDPublicKey string `json:"vapid_public_key" doc:"what the browser subscribed with"`
}

type subscriptionChange struct {
	Policy policyOf `json:"policy" doc:"takes the place of the whole one that was there"`
}

type subscriptionView struct {
	ID        string               `json:"id"`
	Client    string               `json:"client"`
	Transport string               `json:"transport"`
	Topics    []string             `json:"topics"`
	Policy    *subscription.Policy `json:"policy,omitempty"`
	// Keys says whether the app has registered some.
	Keys     bool         `json:"keys,omitempty"`
	Created  string       `json:"created"`
	Expires  string       `json:"expires,omitempty"`
	Listener listenerView `json:"listener"`
}

type transportView struct {
	Transport      string `json:"transport" enum:"apns,fcm,webpush"`
	VAPIDPublicKey string `json:"vapid_public_key,omitempty" doc:"the applicationServerKey of browsers"`
}

type listenerView struct {
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// listTransports is GET /api/v1/transports: what a device can subscribe by, and the key that browsers
// need for it (RFC 8292 section 4, "applicationServerKey"). No sign-in is needed.
//
// The key is that of the user's provider when he is signed in, and else of the provider whose host is asked.
func (a *API) listTransports(r *http.Request) (int, any, error) {
	provider, err := a.providerFor(r)
	if err != nil {
		return 0, nil, err
	}
	list := List[transportView]{Items: []transportView{}}
	for _, name := range a.Push.Offered(provider) {
		v := transportView{Transport: name}
		if name == "webpush" {
			v.VAPIDPublicKey = a.VAPIDPublicKey(provider)
		}
		list.Items = append(list.Items, v)
	}
	return http.StatusOK, list, nil
}

// subscribe is POST /api/v1/subscriptions: 201 with the subscription and how far its listener is; 422
// naming the field at fault. The same user on the same device renews: the id stays.
func (a *API) subscribe(r *http.Request) (int, any, error) {
	sess, err := a.session(r)
	if err != nil {
		return 0, nil, err
	}
	req, err := a.subscribeRequest(r, sess)
	if err != nil {
		return 0, nil, err
	}
	sub, err := a.Subscriptions.Subscribe(r.Context(), sess, req)
	if err != nil {
		return 0, nil, err
	}
	view, err := a.view(r.Context(), sub, true)
	return http.StatusCreated, view, err
}

func (a *API) subscribeRequest(r *http.Request, sess account.Session) (subscription.Request, error) {
	var body subscribeRequest
	if err := decode(r, &body); err != nil {
		return subscription.Request{}, err
	}
	req := subscription.Request{Client: body.Client, Topics: body.Topics}
	if req.Client == "" {
		req.Client = sess.Client
	}
	if err := account.CheckClient(req.Client); err != nil {
		return subscription.Request{}, err
	}
	if body.Token == nil {
		return subscription.Request{}, problem.InField("token", "is missing")
	}
	provider, err := a.providerOf(r.Context(), sess.User)
	if err != nil {
		return subscription.Request{}, err
	}
	if body.VAPIDPublicKey != "" && body.Transport == "webpush" {
		switch body.VAPIDPublicKey {
		case a.VAPIDPublicKey(provider):
		case a.VAPIDPublicKey(""):
			provider = ""
		default:
			return subscription.Request{}, problem.InField("vapid_public_key",
				"is none of this server's for this user: subscribe with the one that GET /api/v1/transports gives")
		}
	}
	req.Token, req.Provider, err = a.Push.ParseToken(body.Transport, provider, req.Client, body.Token)
	var wrong *push.TokenError
	switch {
	case errors.Is(err, push.ErrNoTransport):
		return subscription.Request{}, problem.InField("transport",
			"is not one that this server has for this client: GET /api/v1/transports lists them")
	case errors.As(err, &wrong):
		return subscription.Request{}, problem.InField(wrong.Field, wrong.Problem)
	case err != nil:
		return subscription.Request{}, err
	}
	if req.Policy, err = readPolicy(body.Policy); err != nil {
		return subscription.Request{}, err
	}
	if body.Keys != nil && string(body.Keys) != "null" {
		if req.Keys, err = push.ParseKeys(body.Keys); errors.As(err, &wrong) {
			return subscription.Request{}, problem.InField(wrong.Field, wrong.Problem)
		}
	}
	req.Expires, err = parseExpires(body.Expires)
	return req, err
}

// changeSubscription is PATCH /api/v1/subscriptions/{id}: 200 with the subscription, whose policy is the one
// given, as a whole.
func (a *API) changeSubscription(r *http.Request) (int, any, error) {
	sess, err := a.session(r)
	if err != nil {
		return 0, nil, err
	}
	var body subscriptionChange
	if err := decode(r, &body); err != nil {
		return 0, nil, err
	}
	policy, err := readPolicy(body.Policy)
	if err != nil {
		return 0, nil, err
	}
	if policy == nil {
		return 0, nil, problem.InField("policy", "is missing")
	}
	sub, err := a.Subscriptions.SetPolicy(r.Context(), sess.User, r.PathValue("id"), *policy)
	if err != nil {
		return 0, nil, err
	}
	a.Push.Reconsider(sub)
	view, err := a.view(r.Context(), sub, false)
	return http.StatusOK, view, err
}

// readPolicy reads a policy; nil is none. Unlike the rest of a request it may have no member that we do not
// know: who writes "vip" for "vips" would wait in vain.
func readPolicy(raw policyOf) (*subscription.Policy, error) {
	if raw == nil || string(raw) == "null" {
		return nil, nil
	}
	var p subscription.Policy
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(&p)
	if err == nil {
		return &p, nil
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil, problem.InField(strings.TrimSuffix("policy."+wrong.Field, "."), "must not be a "+wrong.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok { // it has no type
		return nil, problem.InField("policy", "has no member "+name)
	}
	return nil, problem.InField("policy", "is not a policy")
}

// parseExpires reads an RFC 3339 time, or milliseconds since 1970 as the original system had; null, 0
// and nothing mean never.
func parseExpires(raw json.RawMessage) (time.Time, error) {
	if raw == nil || string(raw) == "null" || string(raw) == "0" {
		return time.Time{}, nil
	}
	if ms, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, problem.InField("expires", "must be a time such as 2027-01-31T00:00:00Z, or milliseconds since 1970")
}

const reasonNotAllowed = "the operator has not allowed pushes to this client, or to this user (push.allowed_clients, capability.push, capability.mobile_mail_app)"

// view shows a subscription with its listener; wait has the listener looked at first.
func (a *API) view(ctx context.Context, sub subscription.Subscription, wait bool) (subscriptionView, error) {
	v := subscriptionView{
		ID: sub.ID, Client: sub.Client, Transport: sub.Token.Transport, Topics: sub.Topics, Policy: sub.Policy, Keys: sub.HasKeys,
		Created: stamp(sub.Created), Expires: stamp(sub.Expires),
	}
	var err error
	v.Listener, err = a.listenerOf(ctx, sub.User, sub.Client, wait)
	return v, err
}

func (a *API) listenerOf(ctx context.Context, u tenant.UserID, client string, wait bool) (listenerView, error) {
	ok, err := a.Subscriptions.Allowed(ctx, u, client)
	if err != nil {
		return listenerView{}, err
	}
	if !ok {
		return listenerView{subscription.ClientNotAllowed, reasonNotAllowed}, nil
	}
	var l subscription.Listener
	if wait {
		waiting, cancel := context.WithTimeout(ctx, listenerWait)
		defer cancel()
		l, ok, err = a.Listen.Await(waiting, u)
	} else {
		l, ok, err = a.Subscriptions.Listener(ctx, u)
	}
	switch {
	case err != nil:
		return listenerView{}, err
	case !ok || !l.Wanted:
		return listenerView{State: subscription.Pending}, nil
	case l.State == subscription.Pending && l.Reason == "":
		return listenerView{l.State, "the mail server has not answered yet; it is tried again"}, nil
	}
	return listenerView{l.State, l.Reason}, nil
}

// listSubscriptions is GET /api/v1/subscriptions: those of the user, on all his devices.
func (a *API) listSubscriptions(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	subs, err := a.Subscriptions.ByUser(r.Context(), sess.User)
	if err != nil {
		return 0, nil, err
	}
	list := List[subscriptionView]{Items: []subscriptionView{}}
	for _, sub := range subs {
		v, err := a.view(r.Context(), sub, false)
		if err != nil {
			return 0, nil, err
		}
		list.Items = append(list.Items, v)
	}
	return http.StatusOK, list, nil
}

// getSubscription is GET /api/v1/subscriptions/{id}.
func (a *API) getSubscription(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	subs, err := a.Subscriptions.ByUser(r.Context(), sess.User)
	if err != nil {
		return 0, nil, err
	}
	for _, sub := range subs {
		if sub.ID == r.PathValue("id") {
			v, err := a.view(r.Context(), sub, false)
			return http.StatusOK, v, err
		}
	}
	return 0, nil, subscription.ErrNotFound
}

// unsubscribe is DELETE /api/v1/subscriptions/{id}: 204, or 404 for one that is not the user's.
func (a *API) unsubscribe(r *http.Request) (int, any, error) {
	sess, err := a.signedIn(r)
	if err != nil {
		return 0, nil, err
	}
	if err := a.Subscriptions.Unsubscribe(r.Context(), sess.User, r.PathValue("id")); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

// notYours makes a 404 of an id that names no session of the asker.
func notYours(err error, detail string) error {
	if errors.Is(err, account.ErrNoSession) {
		return problem.New(http.StatusNotFound, "not_found", detail)
	}
	return err
}

// providerOf names the provider that a user belongs to, or is "".
func (a *API) providerOf(ctx context.Context, u tenant.UserID) (string, error) {
	p, _, err := a.Tenants.ProviderOf(ctx, u)
	return p.Name, err
}

// providerFor names the provider of a request: the signed-in user's, else that of the host asked, or is "".
func (a *API) providerFor(r *http.Request) (string, error) {
	if r.Header.Get("Authorization") != "" {
		sess, err := a.session(r)
		if err != nil {
			return "", err
		}
		return a.providerOf(r.Context(), sess.User)
	}
	p, _, err := a.Tenants.ProviderByHost(r.Context(), a.host(r))
	return p.Name, err
}

package api

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/onboard"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant/brand"
)

// deviceFace is the API for devices. Its table makes the paths and the document; a handler finds out by itself whose
// session it is. To add an operation: a line, a handler, and a call in the tests of the document and of tenants
// (internal/server), which fail until it is there.
var deviceFace = face{
	title: "Posthorn for devices",
	intro: `What an app needs: the list of providers, sign-in, and subscriptions to new mail.

A sign-in gives a token, with which the app bears out whose it is: ` + "`Authorization: Bearer ph_…`" + `. What is another user's is
answered with 404, as if it were not there. What takes GET takes HEAD as well; what has an ETag takes If-None-Match.
Every error is a problem document (RFC 9457).`,
	scheme: "session", format: "ph_…", about: "the token of a session, which signIn gives",
	params: map[string]param{
		"id":       {doc: "its id, as the listing has it", example: "17b303fe79c30da3251415c5"},
		"provider": {doc: "the provider's name", example: "blue"},
	},
	closed: []int{http.StatusUnauthorized, http.StatusForbidden},
	refusals: map[int]string{
		http.StatusBadRequest:            "the body is not what its type says",
		http.StatusUnauthorized:          "there is no session, or it has ended; at sign-in: the login, the password or the code is wrong",
		http.StatusForbidden:             "the operator has not allowed this app to the user, or by this host: reason and detail say more",
		http.StatusNotFound:              "there is no such thing, or it is another user's",
		http.StatusConflict:              "the user has as many as he may have",
		http.StatusRequestEntityTooLarge: "the body is too large",
		http.StatusUnprocessableEntity:   "a member or a parameter is wrong: field says which, detail what to do",
		http.StatusTooManyRequests:       "too often: wait before the next",
		http.StatusInternalServerError:   "a fault of the server, whose log says more",
		http.StatusServiceUnavailable:    "cannot be done now: try again",
	},
}

// deviceOperations is the table of the API for devices, in the order of the document.
func (a *API) deviceOperations() []operation {
	return slices.Concat(a.directoryOperations(), a.signInOperations(), a.deviceListOperations(), a.subscriptionOperations())
}

// directoryOperations are what everybody may read before he signs in.
func (a *API) directoryOperations() []operation {
	const tag = "providers"
	return []operation{
		{
			id: "describeServer", method: "GET", path: onboard.PosthornPath, tag: tag,
			summary: "Say what this server is, by the host that it is asked by",
			open:    true, out: onboard.WellKnown{}, status: http.StatusOK, page: a.wellKnown, media: []string{mediaJSON},
		},
		{
			id: "discover", method: "POST", path: "/api/v1/discover", tag: tag,
			summary: "Find out what server a typed address means, and what it lacks",
			open:    true, refuses: []int{http.StatusTooManyRequests}, in: Discover{}, out: Discovery{}, status: http.StatusOK, do: a.discoverForAll,
		},
		{
			id: "getDirectory", method: "GET", path: "/api/v1/directory", tag: tag, summary: "Get the signed list of providers",
			open: true, out: brand.Directory{}, status: http.StatusOK, page: a.directory, media: []string{mediaJSON},
		},
		{
			id: "getDirectorySignature", method: "GET", path: "/api/v1/directory.sig", tag: tag, summary: "Get the Ed25519 signature of the list",
			open: true, status: http.StatusOK, page: a.directorySignature, media: []string{"application/octet-stream"},
		},
		{
			id: "getDirectoryKey", method: "GET", path: "/api/v1/directory/key.pem", tag: tag, summary: "Get the key that verifies the signatures",
			open: true, status: http.StatusOK, page: a.directoryKey, media: []string{"application/x-pem-file"},
		},
		{
			id: "getDirectorySchema", method: "GET", path: "/api/v1/directory/schema.json", tag: tag, summary: "Get the JSON Schema of list and branding",
			open: true, status: http.StatusOK, page: directorySchema, media: []string{"application/schema+json"},
		},
		{
			id: "searchProviders", method: "GET", path: "/api/v1/providers", tag: tag, summary: "Find providers by title, name, host or domain",
			open: true, query: []param{{name: "q", doc: "words, 200 bytes at most", example: "blue"}},
			out: Providers{}, status: http.StatusOK, page: a.searchProviders, media: []string{mediaJSON},
		},
		{
			id: "getBranding", method: "GET", path: "/api/v1/providers/{provider}", tag: tag, summary: "Get what the app looks like for a provider, signed",
			open: true, out: brand.Branding{}, status: http.StatusOK, page: a.branding, media: []string{mediaJSON},
		},
		{
			id: "getLogo", method: "GET", path: "/api/v1/providers/{provider}/logo", tag: tag, summary: "Get a provider's logo",
			open: true, query: []param{{name: "sha256", doc: "its digest, to keep the answer for ever", example: ""}},
			status: http.StatusOK, page: a.logo, media: []string{"image/png", "image/svg+xml"},
		},
		{
			id: "getDocument", method: "GET", path: "/api/v1/openapi.json", tag: "document", summary: "Get this document",
			open: true, out: map[string]any{}, status: http.StatusOK, do: a.deviceDocument,
		},
	}
}

// signInOperations open and end sessions.
func (a *API) signInOperations() []operation {
	const tag = "sign-in"
	tooMany := []int{http.StatusTooManyRequests}
	return []operation{
		{
			id: "signIn", method: "POST", path: "/api/v1/sessions", tag: tag,
			summary: "Sign in with login and password, or with the code of a sign-in at an identity provider",
			open:    true, refuses: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests},
			in: signInRequest{}, out: sessionToken{}, status: http.StatusCreated, do: a.signIn,
		},
		{
			id: "startSignIn", method: "POST", path: "/api/v1/sign-in/oidc", tag: tag, summary: "Begin a sign-in at a provider's identity provider",
			open: true, refuses: tooMany, in: startOIDCRequest{}, out: startedOIDC{}, status: http.StatusOK, do: a.startOIDC,
		},
		{
			id: "finishSignIn", method: "GET", path: account.CallbackPath + "{provider}", tag: tag,
			summary: "Take the browser back from the identity provider, and send it on to the app",
			open:    true, query: []param{
				{name: "state", doc: "as it was given to the identity provider", example: ""},
				{name: "code", doc: "the identity provider's code", example: ""},
				{name: "iss", doc: "who sends it (RFC 9207)", example: ""},
				{name: "error", doc: "why there is no code", example: "access_denied"},
			}, status: http.StatusSeeOther, raw: a.callbackOIDC, media: []string{"text/html"},
		},
		{
			id: "listSessions", method: "GET", path: "/api/v1/sessions", tag: tag, summary: "List the sessions of the user",
			out: List[sessionView]{}, status: http.StatusOK, do: a.listSessions,
		},
		{
			id: "signOutEverywhere", method: "DELETE", path: "/api/v1/sessions", tag: tag,
			summary: "End all sessions of the user, and his subscriptions with them", status: http.StatusNoContent, do: a.signOutEverywhere,
		},
		{
			id: "signOut", method: "DELETE", path: "/api/v1/sessions/{id}", tag: tag, summary: "End a session, or with current the one that asks",
			status: http.StatusNoContent, do: a.revokeSession,
		},
		{
			id: "rotateSession", method: "POST", path: "/api/v1/sessions/current/rotate", tag: tag,
			summary: "Get a new token in place of the one that asks",
			refuses: tooMany, out: sessionToken{}, status: http.StatusOK, do: a.rotateSession,
		},
		{
			id: "getCapabilities", method: "GET", path: "/api/v1/capabilities", tag: tag, summary: "Say what the user may",
			out: Capabilities{}, status: http.StatusOK, do: a.capabilities,
		},
	}
}

// deviceListOperations are about what a user is signed in with.
func (a *API) deviceListOperations() []operation {
	return []operation{
		{
			id: "listDevices", method: "GET", path: "/api/v1/devices", tag: "devices", summary: "List where the user is signed in or subscribed",
			out: List[deviceView]{}, status: http.StatusOK, do: a.listDevices,
		},
		{
			id: "signOutDevice", method: "DELETE", path: "/api/v1/devices/{id}", tag: "devices",
			summary: "Sign a device out, or with current the one that asks", status: http.StatusNoContent, do: a.revokeDevice,
		},
	}
}

// subscriptionOperations are about what a user's devices want to hear.
func (a *API) subscriptionOperations() []operation {
	const tag = "subscriptions"
	return []operation{
		{
			id: "listTransports", method: "GET", path: "/api/v1/transports", tag: tag, summary: "List what a device can subscribe by",
			open: true, optional: true, out: List[transportView]{}, status: http.StatusOK, do: a.listTransports,
		},
		{
			id: "subscribe", method: "POST", path: "/api/v1/subscriptions", tag: tag, summary: "Have a device told of new mail, or renew that",
			refuses: []int{http.StatusConflict}, in: subscribeRequest{}, out: subscriptionView{}, status: http.StatusCreated, do: a.subscribe,
		},
		{
			id: "listSubscriptions", method: "GET", path: "/api/v1/subscriptions", tag: tag, summary: "List the subscriptions of the user, on all devices",
			out: List[subscriptionView]{}, status: http.StatusOK, do: a.listSubscriptions,
		},
		{
			id: "getSubscription", method: "GET", path: "/api/v1/subscriptions/{id}", tag: tag, summary: "Get one of them",
			out: subscriptionView{}, status: http.StatusOK, do: a.getSubscription,
		},
		{
			id: "changeSubscription", method: "PATCH", path: "/api/v1/subscriptions/{id}", tag: tag, summary: "Change what the device wants to be told",
			in: subscriptionChange{}, out: subscriptionView{}, status: http.StatusOK, do: a.changeSubscription,
		},
		{
			id: "unsubscribe", method: "DELETE", path: "/api/v1/subscriptions/{id}", tag: tag, summary: "Have the device told no more",
			status: http.StatusNoContent, do: a.unsubscribe,
		},
	}
}

// policyOf is a policy as a request has it: one that the document describes, and readPolicy reads.
type policyOf json.RawMessage

// UnmarshalJSON keeps it as it is.
func (p *policyOf) UnmarshalJSON(raw []byte) error {
	return (*json.RawMessage)(p).UnmarshalJSON(raw)
}

func (policyOf) describes() any { return subscription.Policy{} }

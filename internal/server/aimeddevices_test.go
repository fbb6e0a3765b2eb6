package server_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// aimedDevices is aimed for the API for devices.
var aimedDevices = []struct {
	op string
	// own is about whose token it is and nobody else; told names what is everybody's to read, once its name is known.
	own, told bool
	requests  func(side) []request
}{
	{op: "describeServer", requests: plain},
	{op: "getDirectory", requests: plain},
	{op: "getDirectorySignature", requests: plain},
	{op: "getDirectoryKey", requests: plain},
	{op: "getDirectorySchema", requests: plain},
	{op: "getDocument", requests: plain},
	{op: "searchProviders", requests: func(s side) []request {
		return []request{{query: url.Values{"q": {s.mark}}}, {query: url.Values{"q": {s.provider}}}}
	}},
	{op: "getBranding", told: true, requests: ofProvider},
	{op: "getLogo", told: true, requests: ofProvider},
	{op: "discover", requests: func(side) []request { return []request{{in: map[string]any{"input": ""}}} }}, // who asks more is held up
	{op: "startSignIn", told: true, requests: func(s side) []request {
		return []request{{in: map[string]any{"provider": s.provider, "client": "posthorn-app", "device": "x", "redirect_uri": "com.example:/", "code_challenge": "x"}}}
	}},
	{op: "finishSignIn", requests: func(s side) []request {
		return []request{{path: map[string]string{"provider": s.provider}, query: url.Values{"state": {"x"}, "code": {"y"}}}}
	}},
	{op: "listTransports", requests: plain},

	{op: "getCapabilities", requests: plain},
	{op: "listSessions", requests: plain},
	{op: "listDevices", requests: plain},
	{op: "listSubscriptions", requests: plain},
	{op: "getSubscription", requests: ofID(func(s side) string { return s.device })},
	{op: "changeSubscription", requests: func(s side) []request {
		return []request{{path: map[string]string{"id": s.device}, in: map[string]any{"policy": map[string]any{}}}}
	}},
	{op: "unsubscribe", requests: ofID(func(s side) string { return s.device })},
	{op: "signOut", requests: ofID(func(s side) string { return s.session })},
	{op: "signOutDevice", requests: ofID(func(s side) string { return s.signedIn })},
	{op: "subscribe", own: true, requests: func(side) []request {
		return []request{{in: map[string]any{"transport": "apns", "topics": []string{"mail:new"}, "token": map[string]any{"device_token": strings.Repeat("ab", 32)}}}}
	}},
	{op: "rotateSession", own: true, requests: plain},
	{op: "signOutEverywhere", own: true, requests: plain},
	// Last, since it holds up who guesses; once, for the same reason.
	{op: "signIn", requests: func(s side) []request {
		return []request{{in: map[string]any{"login": s.login, "password": "guessed", "client": "posthorn-app", "device": "of nobody"}}}
	}},
}

func ofProvider(s side) []request {
	return []request{{path: map[string]string{"provider": s.provider}}}
}

func ofID(id func(side) string) func(side) []request {
	return func(s side) []request { return []request{{path: map[string]string{"id": id(s)}}} }
}

// others: every operation of the API for devices, aimed at what is one user's, with whatever else there is to show.
func (x *tenants) others() {
	w := x.w
	w.tb.Helper()
	d := &tenants{documented: readDocument(w, deviceDocument)}
	covered := map[string]bool{}
	for _, a := range aimedDevices {
		covered[a.op] = true
		if _, ok := d.ops[a.op]; !ok {
			w.tb.Errorf("the document for devices has no %s any more: take it out of aimedDevices", a.op)
		}
	}
	for _, op := range slices.Sorted(maps.Keys(d.ops)) {
		if !covered[op] {
			w.tb.Fatalf("%s is not tried with the token of another user: add it to aimedDevices", op)
		}
	}
	over := w.call("POST", "/api/v1/sessions", "", map[string]any{"login": x.north.login, "password": secret, "client": "posthorn-app", "device": "old"}, 201)
	w.exec("UPDATE sessions SET expires_ms = 1 WHERE id = '" + over["id"].(string) + "'")

	actors := []struct {
		name, token string
		mine        side
	}{
		{"nobody", "", side{}},
		{"the operator", x.operator, side{}},
		{"reseller north", x.north.key, side{}},
		{"brand red", x.south.brand, side{}},
		{"a session that is over", over["token"].(string), side{}},
		{"a token that is none", "ph_" + strings.Repeat("A", 43), side{}},
		{"the user of north", x.north.token, x.north},
		{"the user of south", x.south.token, x.south},
	}
	before := w.rows()
	for _, who := range actors {
		user := who.mine.reseller != ""
		for _, other := range []side{x.north, x.south} {
			if other.reseller == who.mine.reseller {
				continue
			}
			for _, a := range aimedDevices {
				op := d.ops[a.op].Operation
				closed := op.Security == nil
				if user && a.own || a.op == "signIn" && (who.name != "nobody" || other.reseller != "north") {
					continue
				}
				requests, ghosts := a.requests(other), a.requests(nobody)
				for i, r := range requests {
					r.op, ghosts[i].op = a.op, a.op
					where := fmt.Sprintf("%s: %s of %s (%d)", who.name, a.op, other.reseller, i)
					got := d.send(r, who.token)
					optional := !closed && len(*op.Security) > 0 && who.token != ""
					switch {
					case (closed || optional) && !user:
						if got.status != 401 {
							w.tb.Errorf("%s: %d, want 401: %s", where, got.status, got.raw)
						}
					case a.told:
					default:
						x.silent(where, got, other, fmt.Sprint(r))
						d.sameAsNothing(where, got, d.send(ghosts[i], who.token), other)
						if closed && r.path != nil && got.status != 404 {
							w.tb.Errorf("%s: %d for what is not his: %s", where, got.status, got.raw)
						}
					}
				}
			}
		}
	}
	x.unchanged("a user", before)
}

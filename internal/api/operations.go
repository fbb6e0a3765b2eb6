package api

import (
	"net/http"
	"slices"
)

// operations is the table, in the order of the document. See operation for what a line means and what to do beside it.
func (a *API) operations() []operation {
	return slices.Concat(
		a.resellerOperations(),
		a.contextSetOperations(),
		a.contextOperations(),
		a.userOperations(),
		a.mailHostOperations(),
		a.hostOperations(),
		a.discoverOperations(),
		a.propertyOperations(),
		a.providerOperations(),
		a.pushOperations(),
		a.keyOperations(),
		a.serverOperations(),
	)
}

func (a *API) resellerOperations() []operation {
	return []operation{
		{
			id: "listResellers", method: "GET", path: "/resellers", tag: "resellers", summary: "List the resellers; a reseller sees itself",
			roles: byReseller, out: List[Reseller]{}, status: http.StatusOK, do: a.listResellers,
		},
		{
			id: "addReseller", method: "POST", path: "/resellers", tag: "resellers", summary: "Add a reseller",
			in: Reseller{}, out: Reseller{}, status: http.StatusCreated, do: a.addReseller,
		},
		{
			id: "changeReseller", method: "PATCH", path: "/resellers/{reseller}", tag: "resellers", summary: "Change what is given of a reseller",
			in: Reseller{}, out: Reseller{}, status: http.StatusOK, do: a.changeReseller,
		},
		{
			id: "removeReseller", method: "DELETE", path: "/resellers/{reseller}", tag: "resellers",
			summary: "Remove a reseller that has no contexts, with its keys", status: http.StatusNoContent, do: a.removeReseller,
		},
	}
}

// contextSetOperations are the operator's: sets reach over all contexts.
func (a *API) contextSetOperations() []operation {
	return []operation{
		{
			id: "listContextSets", method: "GET", path: "/contextsets", tag: "context sets", summary: "List the context sets, with the contexts that each has",
			out: List[ContextSet]{}, status: http.StatusOK, do: a.listContextSets,
		},
		{
			id: "addContextSet", method: "POST", path: "/contextsets", tag: "context sets", summary: "Add a context set",
			in: ContextSet{}, out: ContextSet{}, status: http.StatusCreated, do: a.addContextSet,
		},
		{
			id: "changeContextSet", method: "PATCH", path: "/contextsets/{set}", tag: "context sets", summary: "Change what is given of a context set",
			in: ContextSet{}, out: ContextSet{}, status: http.StatusOK, do: a.changeContextSet,
		},
		{
			id: "removeContextSet", method: "DELETE", path: "/contextsets/{set}", tag: "context sets", summary: "Remove a context set, with its values",
			status: http.StatusNoContent, do: a.removeContextSet,
		},
		{
			id: "testContextSet", method: "GET", path: "/tags", tag: "context sets", summary: "Say whether a condition holds for tags, and for which contexts",
			query: []param{
				{name: "expression", doc: "the condition", example: "webmail & (premium | trial)", need: true},
				{name: "tags", doc: "tags to try, with commas", example: "webmail,trial"},
			}, out: ContextSetTest{}, status: http.StatusOK, do: a.testContextSet,
		},
	}
}

func (a *API) contextOperations() []operation {
	return []operation{
		{
			id: "listContexts", method: "GET", path: "/contexts", tag: "contexts", summary: "List the contexts (tenants)",
			roles: byReseller | byBrand, out: List[Context]{}, status: http.StatusOK, do: a.listContexts,
		},
		{
			id: "addContext", method: "POST", path: "/contexts", tag: "contexts", summary: "Add a context",
			roles: byReseller, in: Context{}, out: Context{}, status: http.StatusCreated, do: a.addContext,
		},
		{
			id: "changeContext", method: "PATCH", path: "/contexts/{id}", tag: "contexts", summary: "Change what is given of a context",
			roles: byReseller, in: Context{}, out: Context{}, status: http.StatusOK, do: a.changeContext,
		},
		{
			id: "removeContext", method: "DELETE", path: "/contexts/{id}", tag: "contexts", summary: "Remove a context that has no users",
			roles: byReseller, status: http.StatusNoContent, do: a.removeContext,
		},
	}
}

func (a *API) userOperations() []operation {
	return []operation{
		{
			id: "listUsers", method: "GET", path: "/users", tag: "users", summary: "List the users",
			roles: byReseller | byBrand, query: []param{
				{name: "context", doc: "only users of this context", example: int64(1)},
				{name: "mailhost", doc: "only users of this mail host", example: "main"},
			}, out: List[User]{}, status: http.StatusOK, do: a.listUsers,
		},
		{
			id: "addUser", method: "POST", path: "/users", tag: "users", summary: "Add a user",
			roles: byReseller, in: User{}, out: User{}, status: http.StatusCreated, do: a.addUser,
		},
		{
			id: "importUsers", method: "POST", path: "/users/import", tag: "users", summary: "Add the users of CSV or of JSON lines who are not there yet",
			roles: byReseller, query: []param{
				{name: "dry_run", doc: "1 to be told what would be done", example: "1"},
				{name: "create_contexts", doc: "1 to have contexts made that lines name", example: "1"},
			}, in: lines{mediaCSV, mediaLines}, out: ImportReport{}, status: http.StatusOK, slow: true, do: a.importUsers,
		},
		{
			id: "removeUser", method: "DELETE", path: "/users/{user}", tag: "users",
			summary: "Remove a user, with sessions, subscriptions and stored credentials",
			roles:   byReseller, status: http.StatusNoContent, do: a.removeUser,
		},
	}
}

func (a *API) mailHostOperations() []operation {
	return []operation{
		{
			id: "listMailHosts", method: "GET", path: "/mailhosts", tag: "mail hosts", summary: "List the mail hosts, without their secrets",
			out: List[MailHost]{}, status: http.StatusOK, do: a.listMailHosts,
		},
		{
			id: "addMailHost", method: "POST", path: "/mailhosts", tag: "mail hosts", summary: "Add a mail host",
			in: MailHost{}, out: MailHost{}, status: http.StatusCreated, do: a.addMailHost,
		},
		{
			id: "changeMailHost", method: "PATCH", path: "/mailhosts/{name}", tag: "mail hosts", summary: "Change what is given of a mail host",
			in: MailHost{}, out: MailHost{}, status: http.StatusOK, do: a.changeMailHost,
		},
		{
			id: "removeMailHost", method: "DELETE", path: "/mailhosts/{name}", tag: "mail hosts", summary: "Remove a mail host that has no users",
			status: http.StatusNoContent, do: a.removeMailHost,
		},
	}
}

func (a *API) pushOperations() []operation {
	ofUser := param{name: "user", doc: "only of this user", example: "3@1"}
	return []operation{
		{
			id: "listPushUsers", method: "GET", path: "/push/users", tag: "push", summary: "List the users with a listener, wanted or there",
			roles: byReseller, query: []param{ofUser}, out: List[PushUser]{}, status: http.StatusOK, do: a.listPushUsers,
		},
		{
			id: "listPushDevices", method: "GET", path: "/push/devices", tag: "push", summary: "List the subscriptions of devices",
			roles: byReseller, query: []param{ofUser}, out: List[PushDevice]{}, status: http.StatusOK, do: a.listPushDevices,
		},
		{
			id: "listPushRegistrations", method: "GET", path: "/push/registrations", tag: "push",
			summary: "List which clients of which users have subscribed",
			roles:   byReseller, out: List[PushRegistration]{}, status: http.StatusOK, do: a.listRegistrations,
		},
		{
			id: "removePushRegistration", method: "DELETE", path: "/push/registrations", tag: "push",
			summary: "Remove all subscriptions of a user's client", roles: byReseller, query: []param{
				{name: "user", doc: "the user's number", example: int64(3), need: true},
				{name: "context", doc: "his context's number", example: int64(1), need: true},
				{name: "client", doc: "the client", example: "posthorn-app", need: true},
			}, out: Unregistered{}, status: http.StatusOK, do: a.unregister,
		},
		{
			id: "testPush", method: "POST", path: "/push/test", tag: "push", summary: "Send a test notification to a device, or to all of a user",
			roles: byReseller, in: PushTest{}, out: List[PushTestResult]{}, status: http.StatusOK, do: a.pushTest,
		},
		{
			id: "explainPush", method: "GET", path: "/push/explain/{user}", tag: "push",
			summary: "Walk every gate between a mail for a user and his devices",
			roles:   byReseller, out: PushExplanation{}, status: http.StatusOK, do: a.pushExplain,
		},
		{
			id: "tracePush", method: "GET", path: "/push/trace/{device}", tag: "push", summary: "Show the last notifications to a device",
			roles: byReseller, out: List[PushOutcome]{}, status: http.StatusOK, do: a.pushTrace,
		},
	}
}

// keyOperations are the operator's: who could make keys could make himself any.
func (a *API) keyOperations() []operation {
	return []operation{
		{
			id: "listKeys", method: "GET", path: "/keys", tag: "keys", summary: "List the keys of the administration, without the keys themselves",
			out: List[Key]{}, status: http.StatusOK, do: a.listKeys,
		},
		{
			id: "addKey", method: "POST", path: "/keys", tag: "keys", summary: "Make a key, which the answer shows this once",
			in: Key{}, out: Key{}, status: http.StatusCreated, do: a.addKey,
		},
		{
			id: "removeKey", method: "DELETE", path: "/keys/{key}", tag: "keys", summary: "End a key at once",
			status: http.StatusNoContent, do: a.removeKey,
		},
	}
}

// serverOperations are the operator's alone.
func (a *API) serverOperations() []operation {
	return []operation{
		{
			id: "listAudit", method: "GET", path: "/audit", tag: "audit", summary: "List who signed in and who changed what, newest first",
			roles: byReseller, query: []param{
				{name: "user", doc: "only entries about this user", example: "3@1"},
				{name: "context", doc: "only entries of this context", example: int64(1)},
				{name: "act", doc: "only this act, or with a dot at its end all that begin so", example: "sign_in"},
				{name: "since", doc: "from this time on", example: "2026-11-22T12:00:00Z"},
				{name: "until", doc: "before this time", example: "2026-11-23T12:00:00Z"},
				{name: "limit", doc: "how many, 100 when missing", example: int64(100)},
				{name: "after", doc: "what an answer before named as next", example: ""},
			}, out: AuditPage{}, status: http.StatusOK, do: a.listAudit,
		},
		{
			id: "listNodes", method: "GET", path: "/cluster/nodes", tag: "server", summary: "List the nodes of the cluster",
			out: List[Node]{}, status: http.StatusOK, do: a.listNodes,
		},
		{
			id: "drainNode", method: "PUT", path: "/cluster/drain", tag: "server", summary: "Have this node own nothing any more",
			out: Node{}, status: http.StatusOK, do: a.drain,
		},
		{
			id: "undrainNode", method: "DELETE", path: "/cluster/drain", tag: "server", summary: "Let this node own its share again",
			out: Node{}, status: http.StatusOK, do: a.undrain,
		},
		{
			id: "runDoctor", method: "POST", path: "/doctor", tag: "server", summary: "Examine the server and mail hosts from end to end",
			in: Doctor{}, out: List[DoctorReport]{}, status: http.StatusOK, slow: true, do: a.doctor,
		},
		{
			id: "rotateCredentials", method: "POST", path: "/credentials/rotate", tag: "server",
			summary: "Seal the next batch of what is sealed with the key in use",
			in:      Rotate{}, out: Rotated{}, status: http.StatusOK, do: a.rotate,
		},
		{
			id: "reload", method: "POST", path: "/reload", tag: "server", summary: "Read configuration and credentials again",
			refuses: []int{http.StatusUnprocessableEntity}, out: Reloaded{}, status: http.StatusOK, do: a.reload,
		},
		{
			id: "getDocument", method: "GET", path: "/openapi.json", tag: "server", summary: "Get this document, for which no key is needed",
			open: true, out: map[string]any{}, status: http.StatusOK, do: a.adminDocument,
		},
	}
}

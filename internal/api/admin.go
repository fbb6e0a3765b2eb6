package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// ListenAdmin opens the admin socket in stateDir with mode 0600. The caller holds the directory's lock,
// so a socket that is there already is a dead server's.
func ListenAdmin(ctx context.Context, stateDir string) (net.Listener, error) {
	path := filepath.Join(stateDir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old admin socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open admin socket: %w", err), l.Close())
	}
	return peerListener{l}, nil
}

// peerListener accepts only connections of our own user and of root: the file's mode says so already,
// but a directory with looser modes, or a passed-on descriptor, would not.
type peerListener struct{ net.Listener }

func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return c, nil
		}
		_ = c.Close()
	}
}

func peerUID(c net.Conn) (uint32, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Admin is the face for the operator. It authenticates nobody: the socket does.
func (a *API) Admin() http.Handler {
	mux := http.NewServeMux()
	a.serveAdmin(mux, "/admin/v1", theOperator)
	mux.HandleFunc("/", notFound)
	return mux
}

// reload tells the operator in full what is wrong: the texts hold no secret.
func (a *API) reload(r *http.Request) (int, any, error) {
	done, err := a.Reload(r.Context())
	if err != nil {
		return 0, nil, problem.New(http.StatusUnprocessableEntity, "not_reloaded", err.Error())
	}
	return http.StatusOK, done, nil
}

func (a *API) rotate(r *http.Request) (int, any, error) {
	var req Rotate
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	done, err := a.Rotate(r.Context(), req.After)
	return http.StatusOK, done, err
}

func userView(u tenant.User) User {
	return User{User: u.ID.String(), Login: u.Login, MailHost: u.MailHost}
}

func (a *API) listUsers(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	var inContext int64
	if s := q.Get("context"); s != "" {
		n, err := contextNumber("context", s)
		if err != nil {
			return 0, nil, err
		}
		inContext = n
	}
	all, err := a.users(r, inContext, q.Get("mailhost"))
	return listOf(all, err, userView)
}

func (a *API) addUser(r *http.Request) (int, any, error) {
	var v User
	if err := decode(r, &v); err != nil {
		return 0, nil, err
	}
	u := tenant.User{Login: v.Login, MailHost: v.MailHost}
	given := v.User
	if inContext, ok := strings.CutPrefix(given, "@"); ok {
		given = "1@" + inContext // the id is assigned
	}
	id, err := tenant.ParseUserID(given)
	if err != nil {
		return 0, nil, problem.InField("user", "must be <id>@<context> as in 3@1, or @<context> to have an id assigned")
	}
	if given != v.User {
		id.ID = 0
	}
	u.ID = id
	if err := a.mayAdd(r, u); err != nil {
		return 0, nil, err
	}
	added, err := a.Tenants.AddUser(r.Context(), u)
	if err == nil {
		about(r, added.ID.String(), added.ID.Context)
	}
	return http.StatusCreated, userView(added), err
}

// mayAdd refuses a user whose context or mail host the actor cannot have users in. A mail host that is limited to
// contexts is for the resellers of these only.
func (a *API) mayAdd(r *http.Request, u tenant.User) error {
	if actorOf(r).Role == RoleOperator {
		return nil
	}
	err := a.mayContext(r, u.ID.Context)
	if errors.Is(err, tenant.ErrNotFound) {
		return problem.InField("user", fmt.Sprintf("there is no context %d: add it first", u.ID.Context))
	} else if err != nil {
		return err
	}
	h, err := a.Tenants.MailHost(r.Context(), u.MailHost)
	if err != nil && !errors.Is(err, tenant.ErrNotFound) {
		return err
	}
	if err != nil || len(h.Contexts) > 0 && !slices.Contains(h.Contexts, u.ID.Context) {
		return problem.InField("mailhost", fmt.Sprintf("there is no mail host %q for this context: ask the operator", u.MailHost))
	}
	return nil
}

// removeUser first takes the user's registration from the mail server, as far as that answers in time.
func (a *API) removeUser(r *http.Request) (int, any, error) {
	id, err := tenant.ParseUserID(r.PathValue("user"))
	if err != nil {
		return 0, nil, err
	}
	if _, err := a.user(r, id); err != nil {
		return 0, nil, err
	}
	subs, err := a.Subscriptions.ByUser(r.Context(), id)
	if err != nil {
		return 0, nil, err
	}
	for _, sub := range subs {
		if err := a.Subscriptions.Unsubscribe(r.Context(), id, sub.ID); err != nil {
			return 0, nil, err
		}
	}
	waiting, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, _, err := a.Listen.Await(waiting, id); err != nil {
		return 0, nil, err
	}
	a.Accounts.EndGrant(r.Context(), id) // while it is known whose he is
	if err := a.Tenants.RemoveUser(r.Context(), id); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.Accounts.UserRemoved(r.Context(), id)
}

func (a *API) listPushDevices(r *http.Request) (int, any, error) {
	subs, err := a.subscriptions(r)
	if err != nil {
		return 0, nil, err
	}
	only := r.URL.Query().Get("user")
	if only != "" {
		id, err := tenant.ParseUserID(only)
		if err != nil {
			return 0, nil, err
		}
		if _, err := a.user(r, id); err != nil {
			return 0, nil, err
		}
	}
	list := List[PushDevice]{Items: []PushDevice{}}
	for _, sub := range subs {
		if only != "" && only != sub.User.String() {
			continue
		}
		pending, attempt, notBefore, err := a.Push.Pending(r.Context(), sub.ID)
		if err != nil {
			return 0, nil, err
		}
		v := PushDevice{
			ID: sub.ID, User: sub.User.String(), Client: sub.Client, Transport: sub.Token.Transport, Topics: sub.Topics,
			Target: sub.Token.Target, Created: stamp(sub.Created), Expires: stamp(sub.Expires), Pending: pending, Attempt: attempt,
		}
		if attempt > 0 {
			v.NotBefore = stamp(notBefore)
		}
		list.Items = append(list.Items, v)
	}
	return http.StatusOK, list, nil
}

func (a *API) pushTest(r *http.Request) (int, any, error) {
	var req PushTest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	var devices []string
	switch {
	case req.Device != "" && req.User == "":
		if err := a.mayDevice(r, req.Device); err != nil {
			return 0, nil, err
		}
		devices = []string{req.Device}
	case req.User != "" && req.Device == "":
		id, err := tenant.ParseUserID(req.User)
		if err != nil {
			return 0, nil, err
		}
		if _, err := a.user(r, id); err != nil {
			return 0, nil, err
		}
		subs, err := a.Subscriptions.ByUser(r.Context(), id)
		if err != nil {
			return 0, nil, err
		}
		for _, sub := range subs {
			devices = append(devices, sub.ID)
		}
	default:
		return 0, nil, problem.InField("user", "name a user or a device, not both")
	}
	list := List[PushTestResult]{Items: []PushTestResult{}}
	for _, id := range devices {
		sub, err := a.Subscriptions.Load(r.Context(), id)
		if err != nil {
			return 0, nil, err
		}
		o, err := a.Push.Test(r.Context(), id)
		result := PushTestResult{
			Device: id, Transport: sub.Token.Transport, Outcome: o.Kind.String(), Status: o.Status, Reason: o.Reason,
		}
		if errors.Is(err, push.ErrNoTransport) {
			result.Outcome, result.Reason = "blocked", "transport_disabled"
		} else if err != nil {
			return 0, nil, err
		}
		list.Items = append(list.Items, result)
	}
	return http.StatusOK, list, nil
}

func (a *API) pushTrace(r *http.Request) (int, any, error) {
	device := r.PathValue("device")
	if err := a.mayDevice(r, device); err != nil {
		return 0, nil, err
	}
	all, err := a.Push.Trace(r.Context(), device)
	if err == nil && len(all) == 0 { // nothing sent yet, or no such device
		_, err = a.Subscriptions.Load(r.Context(), device)
	}
	if err != nil {
		return 0, nil, err
	}
	return listOf(all, nil, func(o push.Outcome) PushOutcome {
		return PushOutcome{
			At: stamp(o.Answered), Version: o.Version, Attempt: o.Attempt, Outcome: o.Outcome, Status: o.Status, Reason: o.Reason,
			ProviderID: o.ProviderID, Accepted: stamp(o.Accepted), Sent: stamp(o.Sent), Answered: stamp(o.Answered), NextTry: stamp(o.NextTry),
		}
	})
}

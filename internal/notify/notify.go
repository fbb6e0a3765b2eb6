// Package notify is the HTTP endpoint at which mail servers report new mail: byte for byte what
// Dovecot's push_notification driver "ox" sends, and the documented inbound contract for any MTA.
//
// It answers in milliseconds and never waits for a push provider: Dovecot sends its notification
// before it answers LMTP, keeps no queue and does not try again after a status code. "queued"
// therefore means committed. Who may notify, and for whom, is tenant's to say; what becomes of an
// event is dispatch's.
//
// A Handler is safe for concurrent use.
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/event"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// Path is where Dovecot's driver finds the endpoint, as it did in the original system.
const Path = "/preliminary/http-notify/v1/notify"

const (
	// maxBody bounds a notification in bytes. Dovecot does not cut header fields, so there is room for long ones.
	maxBody = 1 << 20
	// storeTimeout is how long a notification waits for the database, not counting the time its sender
	// takes to send it. Dovecot gives up after 2 s.
	storeTimeout = 1500 * time.Millisecond
	// sharedFor is how long notifications share one deadline: a timer for each would cost as much as its JSON.
	sharedFor = 100 * time.Millisecond
	// retryAfter is told to whom the database could not serve.
	retryAfter = time.Second
)

// Handler serves Path.
type Handler struct {
	// Lost, unless it is nil, is called when the store could not take a notification: Dovecot does not repeat
	// one that was refused. It must not wait. Set it before the first request.
	Lost func()

	tenants  *tenant.Store
	dispatch *dispatch.Dispatcher
	log      *slog.Logger
	now      func() time.Time
	deadline deadline

	results *prometheus.CounterVec
	seconds prometheus.Histogram
}

// New returns a Handler.
func New(t *tenant.Store, d *dispatch.Dispatcher, log *slog.Logger, reg prometheus.Registerer, now func() time.Time) (*Handler, error) {
	h := &Handler{
		tenants: t, dispatch: d, log: log, now: now,
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "posthorn_notify_requests_total",
			Help: "Notifications of mail servers, by what became of them and why.",
		}, []string{"result", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "posthorn_notify_seconds",
			Help:    "Time from a notification's arrival to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2},
		}),
	}
	for _, c := range []prometheus.Collector{h.results, h.seconds} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// answer is the body of a 200.
type answer struct {
	Success bool   `json:"success"`
	Result  string `json:"result"`
	Reason  string `json:"reason,omitempty"`
}

// resultIgnored joins the dispatch results: the event is none that anybody could want.
const resultIgnored = "ignored"

// ServeHTTP answers one notification.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := h.now()
	defer func() { h.seconds.Observe(h.now().Sub(start).Seconds()) }()
	a, err := h.serve(w, r) //nolint:contextcheck // a sender that does not stay has still told us: see deadline
	var p *problem.Problem
	switch {
	case err == nil:
		h.results.WithLabelValues(a.Result, a.Reason).Inc()
		w.Header().Set("Content-Type", "application/json")
		body, _ := json.Marshal(a) // two strings and a bool
		_, _ = w.Write(body)
		return
	case errors.As(err, &p):
	default:
		h.log.ErrorContext(r.Context(), "notification refused: the store cannot take it", slog.Any("err", err))
		p = problem.New(http.StatusServiceUnavailable, "store_unavailable", "the notification could not be stored: send it again")
		p.RetryAfter = retryAfter
		if h.Lost != nil {
			h.Lost()
		}
	}
	h.results.WithLabelValues("refused", p.Reason).Inc()
	problem.Write(w, p)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (answer, error) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", http.MethodPut)
		return answer{}, problem.New(http.StatusMethodNotAllowed, "method_not_allowed", "notifications are sent with PUT")
	}
	speaker, err := h.authenticate(w, r)
	if err != nil {
		return answer{}, err
	}
	body, err := readBody(w, r)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return answer{}, problem.New(http.StatusRequestEntityTooLarge, "too_large", "a notification has at most 1 MiB")
	} else if err != nil {
		return answer{}, problem.New(http.StatusBadRequest, "unreadable_body", "the request's body ended early")
	}
	n, ignored, p := parse(body, r.Header.Get("Content-Type"))
	if p != nil {
		return answer{}, p
	}
	if ignored != "" {
		return answer{Success: true, Result: resultIgnored, Reason: ignored}, nil
	}
	// A sender that does not stay for the answer has still told us: it will not say it again.
	return h.accept(h.deadline.from(h.now()), speaker, n)
}

// deadline is a context for all notifications of a moment. It ends storeTimeout after each of them, or a
// little later.
type deadline struct {
	mu   sync.Mutex // guards all below
	ctx  context.Context
	made time.Time
}

func (d *deadline) from(now time.Time) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if since := now.Sub(d.made); d.ctx == nil || since < 0 || since >= sharedFor {
		var cancel context.CancelFunc
		d.ctx, cancel = context.WithTimeout(context.Background(), storeTimeout+sharedFor)
		context.AfterFunc(d.ctx, cancel) // nobody else knows who is the last
		d.made = now
	}
	return d.ctx
}

// readBody reads a body in one piece where its size is told, as Dovecot does.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > maxBody {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

// authenticate finds the mail host that the request's credential belongs to (RFC 7617).
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request) (tenant.Speaker, error) {
	ctx := r.Context() // tenant bounds what it may have to ask
	login, password, _ := r.BasicAuth()
	speaker, err := h.tenants.Speaker(ctx, login, password)
	if errors.Is(err, tenant.ErrBadCredential) {
		h.log.WarnContext(ctx, "notification with a wrong credential",
			slog.String("remote", r.RemoteAddr), slog.Bool("given", r.Header.Get("Authorization") != ""))
		w.Header().Set("WWW-Authenticate", `Basic realm="posthorn notify", charset="UTF-8"`)
		return tenant.Speaker{}, problem.New(http.StatusUnauthorized, "bad_credential",
			"the mail host's notify login and password are needed (posthorn mailhost list shows the login)")
	} else if err != nil {
		return tenant.Speaker{}, err
	}
	if len(speaker.AllowFrom) > 0 && !fromOneOf(r.RemoteAddr, speaker.AllowFrom) {
		h.log.WarnContext(ctx, "notification from an address that is not allowed",
			slog.String("remote", r.RemoteAddr), slog.String("login", speaker.Login))
		return tenant.Speaker{}, problem.New(http.StatusForbidden, "address_not_allowed",
			"this credential may not be used from this address (allow_from)")
	}
	return speaker, nil
}

func fromOneOf(remote string, networks []netip.Prefix) bool {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	addr := ap.Addr().Unmap().WithZone("") // no network has a zone
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// accept finds the user and hands the event on.
func (h *Handler) accept(ctx context.Context, speaker tenant.Speaker, n notification) (answer, error) {
	id, reason, err := h.tenants.Resolve(ctx, speaker, n.user)
	if err != nil {
		return answer{}, err
	}
	if reason != "" {
		h.log.DebugContext(ctx, "notification names nobody", slog.String("login", speaker.Login), slog.String("reason", reason))
		return answer{Success: true, Result: resultIgnored, Reason: reason}, nil
	}
	ev := event.Event{
		Kind: n.kind, User: id.ID, Context: id.Context, Folder: n.folder,
		UIDValidity: n.uidValidity, UID: n.uid, UIDs: n.uids, Sender: n.sender, Address: n.address, Subject: n.subject,
		Unseen: n.unseen, Accepted: h.now(),
	}
	result, err := h.dispatch.Dispatch(ctx, ev)
	if err != nil {
		return answer{}, err
	}
	if h.log.Enabled(ctx, slog.LevelDebug) { // else the event is not worth its way to the heap
		h.log.DebugContext(ctx, "notification", slog.Any("event", ev), slog.String("result", string(result)))
	}
	if result == dispatch.OtherFolder || result == dispatch.Muted || result == dispatch.Unchanged {
		return answer{Success: true, Result: resultIgnored, Reason: string(result)}, nil
	}
	return answer{Success: true, Result: string(result)}, nil
}

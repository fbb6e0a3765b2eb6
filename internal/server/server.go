// Package server is the composition root: it builds Posthorn from a configuration, runs it, and stops
// it in an order that loses nothing.
//
// It holds no rule of the trade. Everything it starts it also waits for.
//
// Concurrency: New, then Run once; the addresses may be asked from any goroutine after New.
package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/audit"
	"github.com/posthorn-mail/posthorn/internal/bus"
	"github.com/posthorn-mail/posthorn/internal/certificate"
	"github.com/posthorn-mail/posthorn/internal/cluster"
	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/dispatch"
	"github.com/posthorn-mail/posthorn/internal/listen"
	"github.com/posthorn-mail/posthorn/internal/listen/idle"
	"github.com/posthorn-mail/posthorn/internal/listen/mailnotify"
	"github.com/posthorn-mail/posthorn/internal/notify"
	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/subscription"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// Options are what a program gives a Server beside the configuration. The zero value works.
type Options struct {
	// Log is where the server reports; nil discards.
	Log *slog.Logger
	// LoadConfig reads the configuration again, for Reload; nil: it cannot be.
	LoadConfig func() (*config.Config, error)
	// BuiltIn says why the app is on when there is no configuration file; "" says just that.
	BuiltIn string
	// Version is shown to the other nodes of a cluster.
	Version string
	// TraceQuery sees every database query, for tests of the queries themselves.
	TraceQuery func(query string)
	// Lease is how long a server on the same database goes without a sign of life before this one sends what it
	// has left; 0 is 10 s.
	Lease time.Duration
}

// Server is a Posthorn that is open, and runs once Run is called.
type Server struct {
	cfg        *config.Config
	lease      time.Duration
	log        *slog.Logger
	state      *state
	db         *db.DB
	bus        *bus.Bus
	cluster    *cluster.Cluster
	version    string
	memory     *bus.Memory // nil unless credentials are kept in it
	transports *transports
	follower   *follower
	tenants    *tenant.Store
	push       *push.Service
	audit      *audit.Log
	accounts   *account.Service
	idle       *idle.Source
	listen     *listen.Service
	mailNotify *mailnotify.Source // nil when it is not enabled
	loadConfig func() (*config.Config, error)
	builtIn    string
	reloading  sync.Mutex    // held by a reload
	properties cascade.Files // what files say, in force; guarded by reloading after New

	tls          publicTLS
	certificates *certificate.Storage

	public, redirected, internal, admin face
}

// face is one listener and who answers on it.
type face struct {
	listener net.Listener
	server   *http.Server
}

// stopTimeout is how long requests under way may take once the server is told to stop.
const stopTimeout = 5 * time.Second

// New opens the state directory, the database and the listeners. Run or Close must follow.
func New(ctx context.Context, cfg *config.Config, opts Options) (s *Server, err error) {
	s = &Server{cfg: cfg, log: opts.Log, lease: cmp.Or(opts.Lease, 10*time.Second), loadConfig: opts.LoadConfig, version: opts.Version, builtIn: opts.BuiltIn}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
			s = nil
		}
	}()
	if problems := cfg.Check(); len(problems) > 0 {
		return s, problems
	}
	if s.state, err = openState(cfg); err != nil {
		return s, err
	}
	hosts, problems := readHosts(cfg)
	if len(problems) > 0 {
		return s, problems
	}
	if s.properties, problems = readProperties(cfg, opts.BuiltIn); len(problems) > 0 {
		return s, problems
	}
	var found findings
	if s.transports, found = buildTransports(cfg, s.state.vapidKey, time.Now); len(found.problems) > 0 {
		return s, found.problems
	}
	found = findings{}
	pair, roots := readPublic(cfg, time.Now, &found)
	mesh := openMesh(cfg, time.Now, &found)
	if len(found.problems) > 0 {
		return s, found.problems
	}
	for _, p := range append(found.expired, found.soon...) {
		s.log.WarnContext(ctx, "certificate", slog.String("problem", p.String()))
	}
	if s.db, err = db.Open(ctx, cfg.DatabaseURL().Reveal(), db.Options{Trace: opts.TraceQuery}); err != nil {
		return s, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.bus, err = bus.Open(ctx, bus.Options{URL: cfg.Bus.URL.Reveal(), Mesh: mesh, Log: s.log, Metrics: reg})
	if errors.Is(err, bus.ErrListen) {
		return s, config.Problems{cfg.Problem("bus.listen", "%v", err)}
	} else if err != nil {
		return s, err
	}
	if err := s.build(ctx, reg, hosts); err != nil {
		return s, err
	}
	var lc net.ListenConfig
	if s.public.listener, err = lc.Listen(ctx, "tcp", cfg.Public.Listen); err != nil {
		return s, config.Problems{cfg.Problem("public.listen", "cannot listen: %v", err)}
	}
	if raw := cfg.Public.RedirectListen; raw != "" {
		if s.redirected.listener, err = lc.Listen(ctx, "tcp", raw); err != nil {
			return s, config.Problems{cfg.Problem("public.redirect_listen", "cannot listen: %v", err)}
		}
	}
	if err := s.openTLS(ctx, pair, roots, reg); err != nil {
		return s, err
	}
	if s.internal.listener, err = lc.Listen(ctx, "tcp", cfg.Internal.Listen); err != nil {
		return s, config.Problems{cfg.Problem("internal.listen", "cannot listen: %v", err)}
	}
	s.admin.listener, err = api.ListenAdmin(ctx, s.state.dir)
	return s, err
}

// build wires the rooms of the house together, ground floor first.
func (s *Server) build(ctx context.Context, reg *prometheus.Registry, hosts *hostrule.Rules) error {
	cfg, now := s.cfg, time.Now
	salt, err := account.Salt(ctx, s.db)
	if err != nil {
		return err
	}
	if err := s.state.openKeys(cfg, salt); err != nil {
		return err
	}
	tenants, err := tenant.New(s.db, s.state.keys, tenant.NotifyCredential{
		Login:     cfg.Internal.Notify.Login,
		Hash:      tenant.HashPassword(s.state.notifyPassword),
		UserForm:  cfg.Internal.Notify.UserForm,
		AllowFrom: cfg.Internal.Notify.AllowFrom,
		Open:      s.state.notifyPassword == "",
	}, now)
	if err != nil {
		return err
	}
	s.tenants = tenants
	tenants.SetHosts(hosts)
	if err := tenants.SetFiles(s.properties); err != nil {
		return err
	}
	tenants.PublishAs(cfg.Public.URL)
	if err := s.join(ctx, reg); err != nil {
		return err
	}
	if err := tenants.Join(ctx, s.bus, s.log); err != nil { // ends with the bus
		return err
	}
	if err := s.reportUpgrade(ctx, tenants); err != nil {
		return err
	}
	if cfg.Credentials.Store == account.StoreMemory {
		s.memory, err = bus.OpenMemory(ctx, bus.MemoryOptions{
			Bus: s.bus, Name: "credentials", Node: s.state.node, Log: s.log, Metrics: reg, Now: now,
		})
		if err != nil {
			return err
		}
	}
	accounts := account.New(account.Config{
		Store: cfg.Credentials.Store, Memory: s.memory,
		DB: s.db, Keys: s.state.keys, Tenants: tenants, Log: s.log, Now: now,
		AttemptsPerLogin: cfg.SignIn.AttemptsPerLogin, AttemptsPerAddress: cfg.SignIn.AttemptsPerAddress,
		Window:   time.Duration(cfg.SignIn.Window),
		Outbound: s.transports.guard.Client(), PublicURL: cfg.Public.URL, RedirectURIs: cfg.SignIn.RedirectURIs,
		Gate: func(ctx context.Context, req account.GateRequest) error {
			return tenants.Admit(ctx, req.User.ID, req.Client, req.Host)
		},
	})
	s.accounts = accounts
	if err := accounts.CheckKey(ctx); err != nil {
		return err
	}
	if err := accounts.ClearDatabase(ctx); err != nil {
		return err
	}
	subs := subscription.New(s.db, s.state.keys, tenants.View, now)
	s.push, err = push.New(push.Config{
		DB: s.db, Subscriptions: subs, Transports: s.transports.all, Log: s.log, Metrics: reg, Now: now,
		NewMailTTL: time.Duration(cfg.Push.NewMailTTL), MaxInFlight: cfg.Push.MaxInFlight,
		Coalesce: time.Duration(cfg.Push.Coalesce), CoalesceMax: time.Duration(cfg.Push.CoalesceMax), BadgeDelay: time.Duration(cfg.Push.BadgeDelay),
		Node: s.state.node, Lease: s.lease,
	})
	if err != nil {
		return err
	}
	dispatcher := dispatch.New(s.db, subs, s.push, now)
	s.push.CountWith(dispatcher.Unseen)
	if err := s.buildListen(tenants, accounts, subs, dispatcher, reg); err != nil {
		return err
	}
	if _, err = subs.Join(ctx, s.bus, s.log); err != nil { // ends with the bus
		return err
	}
	if err := s.buildMailNotify(ctx, tenants, reg); err != nil {
		return err
	}
	notifier, err := notify.New(tenants, dispatcher, s.log, reg, now)
	if err != nil {
		return err
	}
	s.audit, err = audit.New(audit.Config{DB: s.db, Log: s.log, Metrics: reg, Now: now, Keep: time.Duration(cfg.Audit.Keep)})
	if err != nil {
		return err
	}
	s.follower = &follower{
		tenants: tenants, subs: subs, transports: s.transports, push: s.push, log: s.log, now: now, wake: make(chan struct{}, 1),
	}
	tenants.Watch(s.follower.hear)
	if err := s.follower.use(ctx); err != nil {
		return err
	}
	s.certificates = certificate.NewStorage(s.db, s.state.keys, s.state.node, now)
	rotate := &rotation{tenants: tenants, subs: subs, accounts: accounts, certificates: s.certificates, key: s.state.keys.KeyID(), log: s.log}
	notifier.Lost = s.listen.Missed
	everybody, operator, err := s.discoverers()
	if err != nil {
		return err
	}
	a := &api.API{
		Tenants: tenants, Accounts: accounts, Subscriptions: subs, Push: s.push, Listen: s.listen, Cluster: s.cluster,
		LastEvents: dispatcher.LastEvents, Log: s.log, Now: now, TrustedProxies: cfg.Public.TrustedProxies,
		VAPIDPublicKey: s.transports.webpush.PublicKey, CheckCredentials: s.transports.checkProvider, UseProviders: s.follower.use, Reload: s.Reload, Rotate: rotate.Rotate, Audit: s.audit, Doctor: s.doctor(tenants, accounts, subs, dispatcher),
		Discoverer: everybody, OperatorDiscoverer: operator, Version: s.version,
		DiscoverLimit: account.NewAddressLimiter(api.DiscoverAttempts, api.DiscoverWindow, now),
	}
	s.public.server = newHTTPServer(secured(a.Public(), strings.HasPrefix(cfg.Public.URL, "https://")), s.log)
	s.internal.server = newHTTPServer(s.internalMux(notifier, reg), s.log)
	s.admin.server = newHTTPServer(a.Admin(), s.log)
	s.admin.server.ReadTimeout = 0 // its end would cancel a request whose answer takes longer, as the doctor's does
	return nil
}

// newHTTPServer bounds what a slow or greedy client can hold.
func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) internalMux(notifier http.Handler, reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(notify.Path, notifier)
	// Compressing would save a few kilobytes on a local network, and hold two megabytes here.
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, DisableCompression: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeStatus(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.db.Ping(ctx); err != nil {
			s.log.WarnContext(ctx, "not ready", slog.Any("err", err))
			problem.Write(w, problem.New(http.StatusServiceUnavailable, "database_unavailable", "the database does not answer"))
			return
		}
		writeStatus(w, "ready")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.New(http.StatusNotFound, "not_found",
			"there is nothing at "+r.URL.Path+": mail servers notify "+notify.Path))
	})
	return mux
}

func writeStatus(w http.ResponseWriter, status string) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"status": status})
}

// PublicAddr is the address that devices reach.
func (s *Server) PublicAddr() string { return s.public.listener.Addr().String() }

// InternalAddr is the address that mail servers notify.
func (s *Server) InternalAddr() string { return s.internal.listener.Addr().String() }

// Files lists the secrets of the state directory by what they are: seal key, notify password, VAPID
// key, as far as the configuration does not place them elsewhere.
func (s *Server) Files() map[string]string {
	files := map[string]string{}
	if !s.cfg.Credentials.Passphrase.IsSet() {
		files["seal key"] = filepath.Join(s.state.dir, SealKeyFile)
	}
	if !s.cfg.Internal.Notify.Password.IsSet() {
		files["notify password"] = filepath.Join(s.state.dir, NotifyPasswordFile)
	}
	if s.cfg.Transports.WebPush.Enabled && !s.cfg.Transports.WebPush.VAPIDKey.IsSet() {
		files["VAPID key"] = filepath.Join(s.state.dir, VAPIDKeyFile)
	}
	return files
}

// Run serves until ctx ends. Then it owns no listener any more, takes no new request, lets those under way
// finish, waits for notifications in flight, leaves the cluster, and closes everything.
func (s *Server) Run(ctx context.Context) error {
	// Workers end after the faces, because a request under way may still hand them work.
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	workers, working := errgroup.WithContext(working)
	workers.Go(func() error { return s.push.Run(working) })
	workers.Go(func() error { return s.audit.Run(working) })
	workers.Go(func() error { return s.accounts.Run(working) })
	workers.Go(func() error { return s.idle.Run(working) })
	workers.Go(func() error { return s.listen.Run(working) })
	workers.Go(func() error { return s.follower.run(working) })
	workers.Go(func() error { return s.runTLS(working) })
	if s.mailNotify != nil {
		workers.Go(func() error { return s.mailNotify.Run(working) })
	}

	// The node leaves the cluster last: while its listeners are handed over, it is there and drains.
	member, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	var membership errgroup.Group
	membership.Go(func() error { return s.cluster.Run(member) })

	faces, serving := errgroup.WithContext(ctx)
	faces.Go(func() error {
		select {
		case <-serving.Done():
		case <-working.Done():
		}
		s.cluster.Drain() //nolint:contextcheck // a switch, with nothing to end
		return nil
	})
	for _, f := range s.faces() {
		faces.Go(func() error {
			if err := f.serve(); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", f.listener.Addr(), err)
			}
			return nil
		})
		faces.Go(func() error {
			select {
			case <-serving.Done():
			case <-working.Done(): // a worker failed: nothing to serve for
			}
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			if f.server.Shutdown(stopping) != nil {
				return f.server.Close()
			}
			return nil
		})
	}
	err := faces.Wait()
	stopWorking()
	err = errors.Join(err, workers.Wait())
	leave()
	return errors.Join(err, membership.Wait(), s.Close(context.WithoutCancel(ctx)))
}

// Close closes what New opened, within stopTimeout. Run does it too.
func (s *Server) Close(ctx context.Context) error {
	var errs []error
	for _, f := range []face{s.public, s.redirected, s.internal, s.admin} {
		if f.listener != nil {
			if err := f.listener.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if s.mailNotify != nil {
		_ = s.mailNotify.Close() // by Run already, when that was called
	}
	if s.tls.authority != nil {
		s.tls.authority.Close()
		s.tls.authority = nil
	}
	if s.transports != nil {
		s.transports.close()
	}
	if s.cluster != nil {
		s.cluster.Leave(ctx)
	}
	if s.memory != nil {
		s.memory.Close()
	}
	if s.bus != nil {
		stopping, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		errs = append(errs, s.bus.Close(stopping))
		s.bus = nil
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
		s.db = nil
	}
	if s.state != nil {
		errs = append(errs, s.state.close())
		s.state = nil
	}
	return errors.Join(errs...)
}

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
)

// Reload reads the configuration, the host rules and every push credential again, and uses those that have changed from then
// on. When anything is wrong with any of them, all stay as they are, and the error says what. Sends under way
// end with the credential they began with; its connections are closed after the last of them. It may be
// called from any goroutine while Run runs.
func (s *Server) Reload(ctx context.Context) (api.Reloaded, error) {
	done, err := s.reload(ctx)
	if err != nil {
		s.log.ErrorContext(ctx, "cannot reload: what is in use stays", slog.Any("err", err))
		return done, err
	}
	s.log.InfoContext(ctx, "reloaded", slog.Any("changed", done.Changed), slog.Any("needs_restart", done.NeedsRestart))
	return done, nil
}

func (s *Server) reload(ctx context.Context) (api.Reloaded, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	none := api.Reloaded{}
	if s.loadConfig == nil {
		return none, errors.New("this server was not started from a configuration that can be read again")
	}
	cfg, err := s.loadConfig()
	if err != nil {
		return none, err
	}
	var vapid []byte
	if s.transports.enabled["webpush"] {
		if vapid, err = readVAPID(cfg, s.state.dir); err != nil {
			return none, err
		}
	}
	var found findings
	pair, _ := readPublic(cfg, time.Now, &found)
	hosts, problems := readHosts(cfg)
	properties, wrong := readProperties(cfg, s.builtIn)
	if problems = slices.Concat(found.problems, found.expired, problems, wrong); len(problems) > 0 {
		return none, problems
	}
	changed, problems := s.transports.reload(cfg, vapid, time.Now)
	if len(problems) > 0 {
		return none, problems
	}
	if !reflect.DeepEqual(hosts, s.tenants.Hosts()) {
		s.tenants.SetHosts(hosts)
		changed = append(changed, "host rules")
		if hosts == nil {
			s.log.WarnContext(ctx, "there are no host rules any more: every host may use the app")
		}
	}
	if !reflect.DeepEqual(properties, s.properties) {
		if err := s.tenants.SetFiles(properties); err != nil {
			return none, err // cannot be: readProperties has found no problem
		}
		s.properties = properties
		changed = append(changed, "properties")
	}
	s.push.Renewed(ctx)
	changed = append(changed, s.replaceCertificate(ctx, pair)...)
	return api.Reloaded{Changed: changed, NeedsRestart: s.needsRestart(cfg)}, nil
}

// readVAPID is what openState reads, but makes no key: with a new one every device would have to subscribe
// again.
func readVAPID(cfg *config.Config, dir string) ([]byte, error) {
	if cfg.Transports.WebPush.VAPIDKey.IsSet() {
		return []byte(cfg.Transports.WebPush.VAPIDKey.Reveal()), nil
	}
	raw, err := os.ReadFile(filepath.Join(dir, VAPIDKeyFile)) //nolint:gosec // a fixed name in our own directory
	if err != nil {
		return nil, fmt.Errorf("read the VAPID key: %w", err)
	}
	return raw, nil
}

// needsRestart names the keys that differ from those in force and that a reload does not take over. A secret
// shows a change only when it is set or removed.
func (s *Server) needsRestart(cfg *config.Config) []string {
	before := map[string]any{}
	for _, v := range s.cfg.Settings() {
		before[v.Key] = v.Value
	}
	keys := []string{}
	for _, v := range cfg.Settings() {
		taken := slices.ContainsFunc([]string{"hosts_file", "properties", "context_sets_dir", "push.privacy", "push.allowed_clients", "sessions.", "transports.webpush.privacy", "transports.apns.apps", "transports.fcm.apps", "transports.webpush.vapid_key", "transports.webpush.subject"},
			func(key string) bool { return strings.HasPrefix(v.Key, key) })
		taken = taken || s.tls.files != nil && cfg.Public.TLS.CertificateFile != "" && strings.HasPrefix(v.Key, "public.tls.")
		if was, ok := before[v.Key]; !taken && ok && !reflect.DeepEqual(was, v.Value) {
			keys = append(keys, v.Key)
		}
	}
	return keys
}

// reload puts the credentials of cfg in place of those in use: all, or, when there is a problem, none. It
// returns the names of the new ones.
func (t *transports) reload(cfg *config.Config, vapid []byte, now func() time.Time) (changed []string, problems config.Problems) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, config.Problems{{Message: "the server is stopping"}}
	}
	var found findings
	for transport, on := range enabled(cfg) {
		if on != t.enabled[transport] {
			found.problems = append(found.problems, cfg.Problem("transports."+transport+".enabled", "to switch a transport on or off, restart the server"))
		}
	}
	if len(found.problems) > 0 {
		return nil, found.problems
	}
	next := t.make(cfg, vapid, now, &found)
	if problems = append(found.problems, found.expired...); len(problems) > 0 {
		return nil, problems // what was made has no connection yet
	}
	before := t.names()
	t.own = next
	t.use()
	return t.since(before), nil
}

// since says which credentials are others than before.
func (t *transports) since(before map[string]time.Time) []string {
	changed := []string{}
	after := t.names()
	for name, since := range after {
		if was, ok := before[name]; !ok || !was.Equal(since) {
			changed = append(changed, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			changed = append(changed, name+" (removed)")
		}
	}
	slices.Sort(changed)
	return changed
}

// names lists the credentials, and since when each is in use.
func (t *transports) names() map[string]time.Time {
	all := map[string]time.Time{}
	for _, transport := range t.all {
		for _, c := range transport.Watch() {
			all[transport.Name()+" "+c.Name] = c.Since
		}
	}
	return all
}

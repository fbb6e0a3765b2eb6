package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/tenant"
	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
)

const (
	// maxSetsFile bounds a file of context sets in bytes, maxSetsFiles their number.
	maxSetsFile  = 1 << 20
	maxSetsFiles = 1000
)

// noFile is why the app is on without a configuration file.
const noFile = "built in: there is no configuration file"

// readProperties reads what the configuration and the files of context sets say of properties. builtIn is why the app
// is on without a file; "" is noFile.
func readProperties(cfg *config.Config, builtIn string) (cascade.Files, config.Problems) {
	f := cascade.Files{Server: serverProperties(cfg)}
	if cfg.File() == "" {
		if builtIn == "" {
			builtIn = noFile
		}
		f.Server = append(f.Server, cascade.Setting{Name: cascade.MobileMailApp.Name(), Value: "true", Origin: builtIn})
	}
	sets, problems := readContextSets(cfg)
	f.Sets = sets
	_, wrong := cascade.Standard.Compile(f, cascade.Stored{})
	for _, p := range wrong {
		problems = append(problems, atOrigin(cfg, p))
	}
	return f, problems
}

// serverProperties is the values of the server's scope: those below properties, and the keys of the configuration
// that were there before the cascade.
func serverProperties(cfg *config.Config) []cascade.Setting {
	var all []cascade.Setting
	for _, old := range []struct{ key, name, value string }{
		{"push.privacy", cascade.PushPrivacy.Name(), cfg.Push.Privacy},
		{"push.allowed_clients", cascade.AllowedClients.Name(), strings.Join(cfg.Push.AllowedClients, ", ")},
		{"transports.webpush.privacy", cascade.PushPrivacyWebPush.Name(), cfg.Transports.WebPush.Privacy},
		{"sessions.lifetime", cascade.SessionLifetime.Name(), cfg.Sessions.Lifetime.String()},
		{"sessions.max_per_user", cascade.MaxSessions.Name(), strconv.Itoa(cfg.Sessions.MaxPerUser)},
	} {
		if origin := cfg.Origin(old.key); origin != "default" {
			all = append(all, cascade.Setting{Name: old.name, Value: old.value, Origin: origin})
		}
	}
	for _, p := range cfg.Properties {
		all = append(all, cascade.Setting{Name: p.Name, Value: p.Value, Origin: cfg.Origin("properties." + p.Name)})
	}
	return all
}

// readContextSets reads all files of the directory of context sets, in the order of their names.
func readContextSets(cfg *config.Config) (sets []cascade.Set, problems config.Problems) {
	dir, named := cfg.ContextSetsPath()
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	} else if err != nil {
		return nil, config.Problems{cfg.Problem("context_sets_dir", "read the context sets: %v", err)}
	}
	files := 0
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yml" && ext != ".yaml" {
			continue
		}
		if files++; files > maxSetsFiles {
			return nil, append(problems, cfg.Problem("context_sets_dir", "%s holds more than %d files: put several sets into one", dir, maxSetsFiles))
		}
		path := filepath.Join(dir, e.Name())
		data, err := readAtMost(path, maxSetsFile)
		if err != nil {
			problems = append(problems, cfg.Problem("context_sets_dir", "read the context sets: %v", err))
			continue
		}
		more, wrong := cascade.ParseSets(path, data)
		for _, p := range wrong {
			problems = append(problems, atOrigin(cfg, p))
		}
		if len(wrong) == 0 { // else each would be reported once more
			sets = append(sets, more...)
		}
	}
	return sets, problems
}

// readAtMost reads a file. A directory, or a pipe that nobody writes to, is an error: a reload would wait for ever.
func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is no file that can be read to its end", path))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// atOrigin turns a problem with a property into one with the configuration.
func atOrigin(cfg *config.Config, p cascade.Problem) config.Problem {
	if p.Origin == cfg.Origin("properties."+p.Name) {
		return cfg.Problem("properties."+p.Name, "%s", p.Message)
	}
	file, line := p.Origin, 0
	if at := strings.LastIndexByte(p.Origin, ':'); at >= 0 {
		if n, err := strconv.Atoi(p.Origin[at+1:]); err == nil {
			file, line = p.Origin[:at], n
		}
	}
	return config.Problem{Key: p.Name, Source: file, Line: line, Message: p.Message}
}

// reportUpgrade says once whom the upgrade to the cascade lets use the app as before.
func (s *Server) reportUpgrade(ctx context.Context, tenants *tenant.Store) error {
	n, err := tenants.ReportUpgrade(ctx)
	if err != nil {
		return fmt.Errorf("look for what the upgrade kept: %w", err)
	}
	if n > 0 {
		s.log.WarnContext(ctx, "the app is off by default now, and stays on for the contexts that there were", slog.Int64("contexts", n),
			slog.String("property", cascade.MobileMailApp.Name()), slog.String("see", "posthorn property list --scope context"))
	}
	return nil
}

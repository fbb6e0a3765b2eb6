package config

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// defaultStateDir finds the directory for whoever did not name one.
func (l *loader) defaultStateDir() {
	lookup := func(name string) string {
		if l.env == nil {
			return ""
		}
		value, _ := l.env(name)
		return value
	}
	set := func(dir, variable string) {
		l.c.StateDir = dir
		if variable != "" {
			l.c.origins["state_dir"] = origin{from: "environment " + variable}
		}
	}
	// systemd separates several directories by colons (systemd.exec(5), StateDirectory=).
	systemd, _, _ := strings.Cut(lookup("STATE_DIRECTORY"), ":")
	// The XDG Base Directory Specification says to ignore relative paths.
	xdg, home := lookup("XDG_STATE_HOME"), lookup("HOME")
	switch {
	case systemd != "":
		set(systemd, "STATE_DIRECTORY")
	case os.Geteuid() == 0:
		set("/var/lib/posthorn", "")
	case filepath.IsAbs(xdg):
		set(filepath.Join(xdg, "posthorn"), "XDG_STATE_HOME")
	case filepath.IsAbs(home):
		set(filepath.Join(home, ".local", "state", "posthorn"), "")
	default:
		l.failed = append(l.failed, "state_dir")
		l.problems = append(l.problems, Problem{Key: "state_dir", Message: "there is no default, because HOME is not set: set state_dir"})
	}
}

// DatabaseURL is database.url with its default applied: "sqlite:" and an absolute path, or a
// PostgreSQL URL, which may hold a password.
func (c *Config) DatabaseURL() Secret {
	raw := c.Database.URL.Reveal()
	if raw == "" {
		raw = "sqlite:posthorn.db"
	}
	if path, ok := strings.CutPrefix(raw, "sqlite:"); ok && !filepath.IsAbs(path) {
		raw = "sqlite:" + filepath.Join(c.StateDir, path)
	}
	return NewSecret(raw)
}

// hostsFile is the name under which the system before keeps its host rules.
const hostsFile = "mailapp-config.yml"

// HostsPath is hosts_file with its default applied; "" without a configuration file. A file that the operator
// named must be there, the one of the default need not.
func (c *Config) HostsPath() (path string, named bool) {
	switch {
	case c.HostsFile != "":
		return c.HostsFile, true
	case c.file == "":
		return "", false
	}
	return filepath.Join(filepath.Dir(c.file), hostsFile), false
}

// contextSets is the name of the directory of context sets.
const contextSets = "contextsets"

// ContextSetsPath is context_sets_dir with its default applied; "" without a configuration file. A directory that the
// operator named must be there, that of the default need not.
func (c *Config) ContextSetsPath() (path string, named bool) {
	switch {
	case c.ContextSetsDir != "":
		return c.ContextSetsDir, true
	case c.file == "":
		return "", false
	}
	return filepath.Join(filepath.Dir(c.file), contextSets), false
}

// File is the path of the configuration file; "" when there is none.
func (c *Config) File() string { return c.file }

// VAPIDSubject is transports.webpush.subject with its default applied; "" when there is none.
func (c *Config) VAPIDSubject() string {
	if s := c.Transports.WebPush.Subject; s != "" {
		return s
	}
	if u, err := url.Parse(c.Public.URL); err == nil && u.Scheme == "https" && publicName(u.Hostname()) {
		return c.Public.URL
	}
	return ""
}

// MatchClient reports whether a client's name fits a pattern of push.allowed_clients or of an app. In a
// pattern, * stands for any characters, also for none.
func MatchClient(pattern, client string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == client
	}
	rest, ok := strings.CutPrefix(client, parts[0])
	if !ok {
		return false
	}
	// The first place for each part is as good as any later one: what follows it only gets more room.
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(rest, part)
		if !ok {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

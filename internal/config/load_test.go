package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fakeEnv is an environment.
type fakeEnv map[string]string

func (e fakeEnv) get(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

// loadText is Load on a file posthorn.yml in /etc/posthorn with this text, and these files.
func loadText(text string, env fakeEnv, files map[string]string) (*Config, Warnings, error) {
	l := loader{
		env: env.get, dir: "/etc/posthorn", mode: 0o600, c: &Config{file: "posthorn.yml", origins: map[string]origin{}},
		read: func(path string, _ int64) ([]byte, fs.FileMode, error) {
			if text, ok := files[path]; ok {
				return []byte(text), 0o600, nil
			}
			return nil, 0, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		},
	}
	return l.load([]byte(text))
}

// findings is what "posthorn config check" would print.
func findings(text string, env fakeEnv, files map[string]string) string {
	if env == nil {
		env = fakeEnv{"HOME": "/home/p"}
	}
	c, _, err := loadText(text, env, files)
	if err != nil {
		return err.Error()
	}
	return c.Check().Error()
}

// With problems comes what could be read. Those of files that this user may not read are told from others.
func TestLoadInPart(t *testing.T) {
	l := loader{
		dir: "/etc/posthorn", c: &Config{file: "posthorn.yml", origins: map[string]origin{}},
		read: func(path string, _ int64) ([]byte, fs.FileMode, error) {
			return nil, 0, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
		},
	}
	c, _, err := l.load([]byte("state_dir: /s\npublic:\n  tls: {certificate_file: c, key_file: k}\nproperties: {push.privacy: none}\n"))
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Key != "public.tls.key_file" || !problems[0].Denied {
		t.Errorf("%+v", err)
	}
	if c == nil || c.StateDir != "/s" || len(c.Properties) != 1 {
		t.Errorf("%+v", c)
	}
	c, _, err = loadText("state_dir: /s\nx: 1\n", nil, nil)
	if !errors.As(err, &problems) || problems[0].Denied || c == nil {
		t.Errorf("%+v, %+v", c, err)
	}
	if c, _, err = loadText("a: [", nil, nil); err == nil || c != nil {
		t.Errorf("%+v, %+v", c, err)
	}
}

func TestDefaults(t *testing.T) {
	c, warnings, err := Load("", fakeEnv{"STATE_DIRECTORY": "/var/lib/private/posthorn:/other"}.get)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if problems := c.Check(); len(problems) > 0 {
		t.Error(problems)
	}
	want := &Config{
		StateDir: "/var/lib/private/posthorn",
		Log:      Log{Level: "info", Format: "auto"},
		Public:   Public{Listen: "127.0.0.1:8008", TLS: PublicTLS{ACME: ACME{CA: "https://acme-v02.api.letsencrypt.org/directory"}}},
		Internal: Internal{Listen: "127.0.0.1:8009", Notify: Notify{Login: "posthorn", UserForm: "login"}},
		MailNotify: MailNotify{
			Listen: "127.0.0.1:23420", Rate: 200, Burst: 2000, Delay: Duration(time.Second),
		},
		Listen: Listen{
			AllowPermanentPush: true, LoginsPerSecond: 500, HostLoginsPerSecond: 300, AtOnce: 64, Audit: Duration(6 * time.Hour),
			Poll: Duration(5 * time.Minute), Rejections: 3, RejectionWait: Duration(10 * time.Minute),
		},
		Sessions:    Sessions{Lifetime: Duration(90 * 24 * time.Hour), MaxPerUser: 50},
		Credentials: Credentials{Store: "memory"},
		SignIn:      SignIn{AttemptsPerLogin: 10, AttemptsPerAddress: 100, Window: Duration(15 * time.Minute)},
		Audit:       Audit{Keep: Duration(180 * 24 * time.Hour)},
		Push: Push{
			Privacy: "full", AllowedClients: []string{"*"}, NewMailTTL: Duration(72 * time.Hour), MaxInFlight: 1000,
			Coalesce: Duration(3 * time.Second), CoalesceMax: Duration(10 * time.Second), BadgeDelay: Duration(20 * time.Second),
		},
		Transports: Transports{WebPush: WebPush{Enabled: true, Privacy: "inherit"}},
	}
	want.origins, want.file = c.origins, c.file
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if got := c.DatabaseURL().Reveal(); got != "sqlite:/var/lib/private/posthorn/posthorn.db" {
		t.Errorf("DatabaseURL %q", got)
	}
}

// TestReleases loads the configuration of every release: none may ever stop working.
func TestReleases(t *testing.T) {
	files, err := filepath.Glob("testdata/v*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		c, _, err := Load(file, fakeEnv{}.get)
		if err != nil {
			t.Errorf("%s:\n%v", file, err)
			continue
		}
		if problems := c.Check(); len(problems) > 0 {
			t.Errorf("%s:\n%v", file, problems)
		}
	}
}

func TestFullFile(t *testing.T) {
	c, _, err := Load("testdata/v0.1-full.yml", fakeEnv{}.get)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Settings() {
		// Where an app has a key it has no certificate, and the other way round; where nodes meet at a NATS server
		// they make no mesh; who has automatic certificates has none in files.
		if s.Origin == "default" && !strings.Contains(s.Key, "apps[") && !strings.HasPrefix(s.Key, "bus.") &&
			s.Key != "public.tls.certificate_file" && s.Key != "public.tls.key" {
			t.Errorf("%s is missing from the file", s.Key)
		}
	}
	if got, want := c.Public.TrustedProxies[2], netip.MustParsePrefix("192.0.2.7/32"); got != want {
		t.Errorf("single address: %v, want %v", got, want)
	}
	if got, want := c.SignIn.Window, Duration(90*time.Minute); got != want {
		t.Errorf("window %v, want %v", got, want)
	}
	apps := c.Transports.APNs.Apps
	if got, want := apps[1].CertificateFile, filepath.Join(here, "apns.p12"); got != want {
		t.Errorf("relative path %q, want %q", got, want)
	}
	if apps[0].Key.Reveal() != "canary-p8" || !strings.HasSuffix(c.Database.URL.Reveal(), ":canary-db@db.example.com/posthorn") {
		t.Error("secrets differ")
	}
	if got, want := c.Problem("transports.apns.apps[1].key_id", "x").Line, 67; got != want {
		t.Errorf("a missing key of an entry is in line %d, want %d, where the entry begins", got, want)
	}
	if got := c.VAPIDSubject(); got != "mailto:postmaster@example.com" {
		t.Errorf("subject %q", got)
	}
}

func TestStateDir(t *testing.T) {
	user := "/home/p/.local/state/posthorn"
	xdg := "/x/posthorn"
	if os.Geteuid() == 0 {
		user, xdg = "/var/lib/posthorn", "/var/lib/posthorn"
	}
	for _, tc := range []struct {
		name, text string
		env        fakeEnv
		want       string
	}{
		{"home", "", fakeEnv{"HOME": "/home/p"}, user},
		{"XDG", "", fakeEnv{"HOME": "/home/p", "XDG_STATE_HOME": "/x"}, xdg},
		{"relative XDG is ignored", "", fakeEnv{"HOME": "/home/p", "XDG_STATE_HOME": "x"}, user},
		{"systemd", "", fakeEnv{"HOME": "/home/p", "STATE_DIRECTORY": "/s"}, "/s"},
		{"empty in the file", "state_dir: ''", fakeEnv{"STATE_DIRECTORY": "/s"}, "/s"},
		{"the file wins", "state_dir: /f", fakeEnv{"STATE_DIRECTORY": "/s"}, "/f"},
		{"relative to the file", "state_dir: ../f", nil, "/etc/f"},
	} {
		c, _, err := loadText(tc.text, tc.env, nil)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if c.StateDir != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, c.StateDir, tc.want)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	_, _, err := Load(filepath.Join(t.TempDir(), "none.yml"), fakeEnv{}.get)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want an error that wraps fs.ErrNotExist", err)
	}
	big := filepath.Join(t.TempDir(), "big.yml")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(big, fakeEnv{}.get); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("big file: %v", err)
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "---\n", "--- ~\n", "log:\ntransports:\n  apns:\n", "\ufefflog: {level: info}\n"} {
		if got := findings(text, nil, nil); got != "" {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// TestLoadErrors is the golden table of what is said about a file that cannot be understood.
func TestLoadErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "log:\n  lvele: info\n", `posthorn.yml:2: log.lvele: unknown key; did you mean log.level?`},
		{"other spelling", "State-Dir: /x\n", `posthorn.yml:1: State-Dir: unknown key; did you mean state_dir?`},
		{"unknown section", "transport: {}\n", `posthorn.yml:1: transport: unknown key; did you mean transports?`},
		{"in the wrong place", "vapid_key: x\n", `posthorn.yml:1: vapid_key: unknown key here; did you mean transports.webpush.vapid_key?`},
		{"nothing near", "log:\n  colour: red\n", `posthorn.yml:2: log.colour: unknown key; the keys here are level, format`},
		{
			"in an entry, echo suppressed",
			"transports:\n  fcm:\n    apps:\n    - client: a\n      service_acount_file: /x\n",
			`posthorn.yml:5: transports.fcm.apps[0].service_acount_file: unknown key; did you mean transports.fcm.apps[0].service_account_file?`,
		},
		{"twice", "log: {level: info}\nlog: {level: warn}\n", `posthorn.yml:2: log: given twice, first in line 1: remove one`},
		{"not a section", "log: info\n", `posthorn.yml:1: log: expected a section with keys of its own, found "info"`},
		{"not a file of keys", "- a\n", `posthorn.yml:1: expected a section with keys of its own, found a list`},
		{"text", "log:\n  level: [info]\n", `posthorn.yml:2: log.level: expected a text, found a list`},
		{"no value", "log:\n  level:\n", `posthorn.yml:2: log.level: expected a text, found nothing`},
		{"boolean for a text", "public:\n  url: true\n", `posthorn.yml:2: public.url: expected a text, found "true": put it in quotes if you mean the word`},
		{"boolean", "transports:\n  apns:\n    enabled: yes\n", `posthorn.yml:3: transports.apns.enabled: expected true or false, found "yes"`},
		{"number", "push:\n  max_in_flight: many\n", `posthorn.yml:2: push.max_in_flight: expected a whole number, found "many"`},
		{"fraction", "push:\n  max_in_flight: 1.5\n", `posthorn.yml:2: push.max_in_flight: expected a whole number, found "1.5"`},
		{"octal or not", "push:\n  max_in_flight: 010\n", `posthorn.yml:2: push.max_in_flight: expected a whole number, found "010"`},
		{
			"no unit", "sessions:\n  lifetime: 90\n",
			`posthorn.yml:2: sessions.lifetime: expected a duration such as 90d, 24h or 500ms, found "90": the unit is missing (d, h, m, s or ms)`,
		},
		{
			"bad unit", "sessions:\n  lifetime: 2 weeks\n",
			`posthorn.yml:2: sessions.lifetime: expected a duration such as 90d, 24h or 500ms, found "2 weeks"`,
		},
		{"list", "push:\n  allowed_clients: '*'\n", `posthorn.yml:2: push.allowed_clients: expected a list such as [a, b], found "*"`},
		{"list item", "push:\n  allowed_clients:\n  - a\n  - [b]\n", `posthorn.yml:4: push.allowed_clients[1]: expected a text, found a list`},
		{
			"network", "public:\n  trusted_proxies: [10.0.0.0/8, proxy]\n",
			`posthorn.yml:2: public.trusted_proxies[1]: "proxy" is not a network such as 10.0.0.0/8 or 2001:db8::/32`,
		},
		{
			"host bits", "public:\n  trusted_proxies: [10.0.0.1/8]\n",
			`posthorn.yml:2: public.trusted_proxies[0]: 10.0.0.1/8 has bits outside its mask: write 10.0.0.0/8, or 10.0.0.1 for the one address`,
		},
		{
			"mapped network", "public:\n  trusted_proxies: ['::ffff:10.0.0.0/104']\n",
			`posthorn.yml:2: public.trusted_proxies[0]: ::ffff:10.0.0.0/104 is an IPv4 network in IPv6 form: write it as IPv4`,
		},
		{"properties", "properties: [a]\n", `posthorn.yml:1: properties: expected names of properties with their values, found a list`},
		{"property twice", "properties:\n  a: 1\n  b: 2\n  a: 3\n", `posthorn.yml:4: properties.a: given twice, first in line 2: remove one`},
		{"property in parts", "properties:\n  push: {privacy: none}\n", `posthorn.yml:2: properties.push: expected a value, found a section: write names in one piece, as push.privacy, and a section of its own without the indent`},
		{"property without value", "properties:\n  a:\n", `posthorn.yml:2: properties.a: expected a value, found nothing; for an empty one write ''`},
		{"property with a comma", "properties:\n  a: [b, 'c,d']\n", `posthorn.yml:2: properties.a: expected texts without commas, found "c,d"`},
		{"entries", "transports:\n  apns:\n    apps: {client: a}\n", `posthorn.yml:3: transports.apns.apps: expected a list of entries, each with keys of its own, found a section`},
		{"empty entry", "transports:\n  apns:\n    apps:\n    -\n", `posthorn.yml:4: transports.apns.apps[0]: expected a section with keys of its own, found nothing`},
		{"entry of a wrong type", "transports:\n  fcm:\n    apps: [x]\n", `posthorn.yml:3: transports.fcm.apps[0]: expected a section with keys of its own, found "x"`},
		{"merge", "log:\n  <<: {level: info}\n", `posthorn.yml:2: log: merging with << is not supported: write the keys out`},
		{"key that is a list", "? [a]\n: b\n", `posthorn.yml:1: expected the name of a key, found a list`},
		{"control characters", "\"log\\e[31m\": 1\n", `posthorn.yml:1: log?[31m: unknown key; the keys here are state_dir, node_name, installation_id, hosts_file, properties, context_sets_dir, log, database, bus, public, internal, mailnotify, listen, sessions, credentials, sign_in, audit, push, outbound, transports`},
		{"two documents", "log: {}\n---\nlog: {}\n", `posthorn.yml:2: a second YAML document begins here: remove the line "---"`},
		{"tab", "log:\n\tlevel: info\n", "posthorn.yml:2: not valid YAML: found character that cannot start any token; indent with spaces, and put a value that begins with @, ` or % in quotes"},
		{"open quote", "log:\n  level: 'info\n\npush: {}\n", `posthorn.yml:5: not valid YAML: found unexpected end of stream; the quote of line 2 is never closed`},
		{"bad indent", "log:\n  level: info\n format: text\n", `posthorn.yml:3: not valid YAML: did not find expected key`},
		{"not UTF-8", "log:\n  level: \xff\n", `posthorn.yml:2: not valid UTF-8: save the file as UTF-8`},
		{
			"everything at once",
			"push:\n  max_in_flight: x\n  privacy: most\nlog:\n  level: inf\n  colour: red\npublic: {listen: here}\n",
			`posthorn.yml:2: push.max_in_flight: expected a whole number, found "x"
posthorn.yml:3: push.privacy: "most" is not one of full, sender, none, sealed
posthorn.yml:5: log.level: "inf" is not one of debug, info, warn, error; did you mean info?
posthorn.yml:6: log.colour: unknown key; the keys here are level, format
posthorn.yml:7: public.listen: "here" is not an address and a port, such as 127.0.0.1:8008 or [::1]:8008`,
		},
	} {
		if got := findings(tc.text, nil, nil); got != tc.want {
			t.Errorf("%s\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// TestScalarsAsWritten: what looks like a number stays the text that it is.
func TestScalarsAsWritten(t *testing.T) {
	for _, text := range []string{"0123", "12345E6789", "0x1F", "1_000", "2026-11-22", "1.50", "yes", "'true'", "!!str 1"} {
		c, _, err := loadText("internal: {notify: {login: "+text+", password: "+text+"}}", fakeEnv{"STATE_DIRECTORY": "/s"}, nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want := strings.Trim(strings.TrimPrefix(text, "!!str "), "'")
		if n := c.Internal.Notify; n.Login != want || n.Password.Reveal() != want {
			t.Errorf("%s became %q and %q", text, n.Login, n.Password.Reveal())
		}
	}
}

func TestAlias(t *testing.T) {
	c, _, err := loadText("public: {trusted_proxies: &lan [10.0.0.0/8]}\ninternal: {notify: {allow_from: *lan}}\n", fakeEnv{"STATE_DIRECTORY": "/s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Public.TrustedProxies, c.Internal.Notify.AllowFrom) || len(c.Public.TrustedProxies) != 1 {
		t.Errorf("got %v", c.Internal.Notify.AllowFrom)
	}
}

func TestNearest(t *testing.T) {
	for _, tc := range []struct{ word, want string }{
		{"listen", "listen"},
		{"lisetn", "listen"},
		{"Listen", "listen"},
		{"trustedProxies", "trusted_proxies"},
		{"trusted_proxy", "trusted_proxies"},
		{"uri", "url"},
		{"xyz", ""},
		{"", ""},
	} {
		if got := nearest(tc.word, []string{"listen", "url", "trusted_proxies"}); got != tc.want {
			t.Errorf("nearest(%q) = %q, want %q", tc.word, got, tc.want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	full, err := os.ReadFile("testdata/v0.1-full.yml")
	if err != nil {
		f.Fatal(err)
	}
	// One seed a section: the fuzzer spends its time shortening long ones.
	for _, seed := range regexp.MustCompile(`(?m)^[a-z_]+:.*\n(?:^ .*\n)*`).FindAllString(string(full), -1) {
		f.Add(seed)
	}
	for _, text := range []string{"", "---\n...\n---", "a: &a [*a]", "? {}", "log: !!binary aGk=", "- -", "<<: *x", "transports: {apns: {apps: [{client: }]}}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := loadText(text, fakeEnv{"STATE_DIRECTORY": "/s"}, nil)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("an error without problems: %v", err)
			}
			if c != nil {
				_, _ = c.HostsPath()
				_ = c.Problem("properties", "x").String()
				_ = c.Check().Error() // what could be read can be judged further
			}
			return
		}
		_ = c.Check().Error()
		out, err := c.RedactedYAML()
		if err != nil {
			t.Fatal(err)
		}
		// What show prints is itself understood, save for the secrets, which must not be taken for real.
		if _, problem := parse(out); problem != nil {
			t.Fatalf("%v\n%s", problem, out)
		}
	})
}

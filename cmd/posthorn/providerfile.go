package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// providerFlags are the flags of a provider that is added or changed.
type providerFlags struct {
	file, logo          string
	texts               map[string]*string   // by flag
	lists               map[string]*[]string // by flag
	listed              bool
	apns, fcm           map[string]*string
	secretFile, vapidIn string
}

// providerTexts are the flags of plain members: the member, and what it is.
var providerTexts = []struct{ flag, member, usage string }{
	{"title", "title", "`NAME` for people (default the name)"},
	{"colour", "colour", "the brand's `COLOUR` as #1c6ea4, from which the app's palettes are computed"},
	{"on-colour", "on_colour", "`COLOUR` of text on it, with a contrast of 4.5:1 or more (default black or white)"},
	{"base-url", "base_url", "`URL` that the app calls: https://, a host and perhaps a port (default public.url)"},
	{"contact", "contact", "`TEXT` that says where users turn to"},
	{"reseller", "reseller", "`NAME` of the reseller whose it is"},
	{"sign-in", "sign_in", "`HOW` users sign in: password or oidc (default password)"},
	{"vapid-subject", "vapid_subject", "`URI` of who is responsible, for push services: mailto: or https:"},
	{"oidc-issuer", "oidc.issuer", "`URL` of the identity provider, for --sign-in oidc"},
	{"oidc-client-id", "oidc.client_id", "`ID` of Posthorn there"},
	{"oidc-login-claim", "oidc.login_claim", "`CLAIM` that is the mail login (default email)"},
}

func (in *providerFlags) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	in.texts, in.lists, in.apns, in.fcm = map[string]*string{}, map[string]*[]string{}, map[string]*string{}, map[string]*string{}
	f.StringVar(&in.file, "file", "", "YAML or JSON `FILE` with what flags cannot say")
	for _, t := range providerTexts {
		in.texts[t.flag] = f.String(t.flag, "", t.usage)
	}
	for flag, usage := range map[string]string{
		"host": "`HOST` under which the app's requests come, or several with commas", "domain": "`DOMAIN` of its users' addresses, or several with commas",
		"mailhost": "`NAME` of the mail host where its users live, or several with commas", "oidc-scope": "`SCOPE` to ask for, or several with commas",
	} {
		in.lists[flag] = f.StringSlice(flag, nil, usage)
	}
	f.BoolVar(&in.listed, "listed", false, "put it into the public directory")
	f.StringVar(&in.logo, "logo", "", "PNG or SVG `FILE`")
	f.StringVar(&in.secretFile, "oidc-client-secret-file", "", "`FILE` with the client's secret")
	f.StringVar(&in.vapidIn, "vapid-key-file", "", "PEM `FILE` with its own key for Web Push")
	for flag, usage := range map[string]string{
		"apns-client": "`PATTERN` of the clients that the APNs credential is for (default *)", "apns-topic": "`ID` of the app's bundle",
		"apns-key-file": ".p8 `FILE` of Apple's", "apns-key-id": "`ID` of that key", "apns-team-id": "`ID` of the team",
		"apns-environment": "`WORD` production or sandbox (default production)",
	} {
		in.apns[flag] = f.String(flag, "", usage)
	}
	for flag, usage := range map[string]string{
		"fcm-client":  "`PATTERN` of the clients that the FCM credential is for (default *)",
		"fcm-package": "`NAME` of the app's package", "fcm-service-account-file": "JSON `FILE` from the Firebase console",
	} {
		in.fcm[flag] = f.String(flag, "", usage)
	}
}

// read returns what file and flags give, in the form of the API.
func (in *providerFlags) read(cmd *cobra.Command) (map[string]any, error) {
	p := map[string]any{}
	if in.file != "" {
		var err error
		if p, err = readProviderFile(in.file); err != nil {
			return nil, err
		}
	}
	f := cmd.Flags()
	put := func(member string, value any) {
		group, name, nested := strings.Cut(member, ".")
		if !nested {
			p[member] = value
			return
		}
		inner, _ := p[group].(map[string]any)
		if inner == nil {
			inner = map[string]any{}
		}
		inner[name] = value
		p[group] = inner
	}
	for _, t := range providerTexts {
		if f.Changed(t.flag) {
			put(t.member, *in.texts[t.flag])
		}
	}
	for flag, member := range map[string]string{"host": "hosts", "domain": "domains", "mailhost": "mailhosts", "oidc-scope": "oidc.scopes"} {
		if f.Changed(flag) {
			put(member, *in.lists[flag])
		}
	}
	if f.Changed("listed") {
		put("listed", in.listed)
	}
	for flag, file := range map[string]struct{ path, member string }{
		"logo": {in.logo, "logo"}, "oidc-client-secret-file": {in.secretFile, "oidc.client_secret"}, "vapid-key-file": {in.vapidIn, "vapid_key"},
	} {
		if !f.Changed(flag) {
			continue
		}
		value, err := contentFor(file.member, file.path)
		if err != nil {
			return nil, err
		}
		put(file.member, value)
	}
	for list, flags := range map[string]map[string]*string{"apns": in.apns, "fcm": in.fcm} {
		entry, err := credentialOf(cmd, list, flags)
		if err != nil {
			return nil, err
		}
		if entry != nil {
			put(list, []any{entry})
		}
	}
	return p, nil
}

// credentialOf is the one entry of apns or fcm that flags give; nil for none.
func credentialOf(cmd *cobra.Command, list string, flags map[string]*string) (map[string]any, error) {
	var entry map[string]any
	for flag, value := range flags {
		if !cmd.Flags().Changed(flag) {
			continue
		}
		if entry == nil {
			entry = map[string]any{}
		}
		member := strings.ReplaceAll(strings.TrimPrefix(flag, list+"-"), "-", "_")
		entry[member] = *value
	}
	return entry, readFiles(entry, ".")
}

// readProviderFile reads a provider as the API takes it, with files in place of what they hold.
func readProviderFile(path string) (map[string]any, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	p := map[string]any{}
	if err := yaml.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := readFiles(p, filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d := json.NewDecoder(bytes.NewReader(text)) // a name that is misspelt is told here: the API ignores what it does not know
	d.DisallowUnknownFields()
	if err := d.Decode(&api.Provider{}); err != nil {
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "json: "))
	}
	return p, nil
}

// readFiles puts the content of files in place of their names, in all members that end in _file.
func readFiles(v any, dir string) error {
	switch v := v.(type) {
	case []any:
		for _, inner := range v {
			if err := readFiles(inner, dir); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, inner := range v {
			member, isFile := strings.CutSuffix(name, "_file")
			path, isText := inner.(string)
			if !isFile || !isText {
				if err := readFiles(inner, dir); err != nil {
					return err
				}
				continue
			}
			if path != "" && !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			value, err := contentFor(member, path)
			if err != nil {
				return err
			}
			delete(v, name)
			v[member] = value
		}
	}
	return nil
}

// contentFor is a file's content as a member takes it; "" for no file.
func contentFor(member, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	raw, err := readBounded(path)
	if err != nil {
		return "", err
	}
	switch member {
	case "logo", "certificate": // not text
		return base64.StdEncoding.EncodeToString(raw), nil
	case "client_secret", "oidc.client_secret":
		return strings.TrimRight(string(raw), "\r\n"), nil
	}
	return string(raw), nil
}

func readBounded(path string) ([]byte, error) {
	const limit = 512 << 10 // bytes
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read what the provider needs: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(raw) > limit {
		err = fmt.Errorf("%s has more than %d KB", path, limit>>10)
	}
	return raw, err
}

// providerTests is what a check may use for its time.
type providerTests struct{ accounts, user string }

func (t *providerTests) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.accounts, "accounts", "", "`FILE` with a test account a line, LOGIN PASSWORD [MAILHOST] (- is standard input); kept nowhere")
	cmd.Flags().StringVar(&t.user, "user", "", "send a test notification to the phones of `USER`, as 3@1")
}

func (t *providerTests) read(c *cli) (map[string]any, error) {
	request := map[string]any{}
	if t.user != "" {
		if err := checkUser(t.user, false); err != nil {
			return nil, err
		}
		request["user"] = t.user
	}
	if t.accounts == "" {
		return request, nil
	}
	in := c.stdin
	if t.accounts != "-" {
		f, err := os.Open(t.accounts)
		if err != nil {
			return nil, fmt.Errorf("read the test accounts: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read from
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read the test accounts: %w", err)
	}
	var accounts []api.ProviderAccount
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
			continue
		case len(words) < 2 || len(words) > 3:
			return nil, usagef("--accounts: a line is LOGIN PASSWORD, and perhaps MAILHOST")
		}
		a := api.ProviderAccount{Login: words[0], Password: words[1]}
		if len(words) == 3 {
			a.MailHost = words[2]
		}
		accounts = append(accounts, a)
	}
	request["accounts"] = accounts
	return request, nil
}

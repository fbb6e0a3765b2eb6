package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// providerFlags are the flags of a provider that is added or changed.
type providerFlags struct {
	file                                      string
	title, colour, onColour, baseURL, contact string
	reseller, signIn, issuer, clientID, claim string
	logo, secretFile, vapidKey, vapidSubject  string
	hosts, domains, mailhosts, scopes         []string
	listed                                    bool
	apnsClient, apnsTopic, apnsEnvironment    string
	apnsKey, apnsKeyID, apnsTeamID            string
	fcmClient, fcmPackage, fcmAccount         string
}

func (in *providerFlags) addProviderFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&in.file, "file", "", "YAML or JSON `FILE` with what flags cannot say")
	f.StringVar(&in.title, "title", "", "`NAME` for people (default the name)")
	f.StringVar(&in.colour, "colour", "", "the brand's `COLOUR` as #1c6ea4, from which the app's palettes are computed")
	f.StringVar(&in.onColour, "on-colour", "", "`COLOUR` of text on it, with a contrast of 4.5:1 or more (default black or white)")
	f.StringVar(&in.baseURL, "base-url", "", "`URL` that the app calls: https://, a host and perhaps a port (default public.url)")
	f.StringVar(&in.contact, "contact", "", "`TEXT` that says where users turn to")
	f.StringSliceVar(&in.hosts, "host", nil, "`HOST` under which the app's requests come, or several with commas")
	f.StringSliceVar(&in.domains, "domain", nil, "`DOMAIN` of its users' addresses, or several with commas")
	f.StringSliceVar(&in.mailhosts, "mailhost", nil, "`NAME` of the mail host where its users live, or several with commas")
	f.StringVar(&in.reseller, "reseller", "", "`NAME` of the reseller whose it is")
	f.BoolVar(&in.listed, "listed", false, "put it into the public directory")
	f.StringVar(&in.logo, "logo", "", "PNG or SVG `FILE`")
	f.StringVar(&in.signIn, "sign-in", "", "`HOW` users sign in: password or oidc (default password)")
	f.StringVar(&in.issuer, "oidc-issuer", "", "`URL` of the identity provider, for --sign-in oidc")
	f.StringVar(&in.clientID, "oidc-client-id", "", "`ID` of Posthorn there")
	f.StringVar(&in.secretFile, "oidc-client-secret-file", "", "`FILE` with the client's secret")
	f.StringSliceVar(&in.scopes, "oidc-scope", nil, "`SCOPE` to ask for, or several with commas")
	f.StringVar(&in.claim, "oidc-login-claim", "", "`CLAIM` that is the mail login (default email)")
	f.StringVar(&in.vapidKey, "vapid-key-file", "", "PEM `FILE` with its own key for Web Push")
	f.StringVar(&in.vapidSubject, "vapid-subject", "", "`URI` of who is responsible, for push services: mailto: or https:")
	f.StringVar(&in.apnsTopic, "apns-topic", "", "`ID` of the app's bundle, for one APNs credential")
	f.StringVar(&in.apnsKey, "apns-key-file", "", ".p8 `FILE` of Apple's")
	f.StringVar(&in.apnsKeyID, "apns-key-id", "", "`ID` of that key")
	f.StringVar(&in.apnsTeamID, "apns-team-id", "", "`ID` of the team")
	f.StringVar(&in.apnsClient, "apns-client", "", "`PATTERN` of the clients that it is for (default *)")
	f.StringVar(&in.apnsEnvironment, "apns-environment", "", "`WORD` production or sandbox (default production)")
	f.StringVar(&in.fcmAccount, "fcm-service-account-file", "", "JSON `FILE` from the Firebase console, for one FCM credential")
	f.StringVar(&in.fcmClient, "fcm-client", "", "`PATTERN` of the clients that it is for (default *)")
	f.StringVar(&in.fcmPackage, "fcm-package", "", "`NAME` of the app's package")
}

// members are what each flag but --file gives, in the form of the API; what is a file's ends in _file.
func (in *providerFlags) members() map[string]struct {
	group, member string
	value         any
} {
	type member = struct {
		group, member string
		value         any
	}
	return map[string]member{
		"title": {"", "title", in.title}, "colour": {"", "colour", in.colour}, "on-colour": {"", "on_colour", in.onColour},
		"base-url": {"", "base_url", in.baseURL}, "contact": {"", "contact", in.contact}, "host": {"", "hosts", in.hosts},
		"domain": {"", "domains", in.domains}, "mailhost": {"", "mailhosts", in.mailhosts}, "reseller": {"", "reseller", in.reseller},
		"listed": {"", "listed", in.listed}, "logo": {"", "logo_file", in.logo}, "sign-in": {"", "sign_in", in.signIn},
		"vapid-key-file": {"", "vapid_key_file", in.vapidKey}, "vapid-subject": {"", "vapid_subject", in.vapidSubject},
		"oidc-issuer": {"oidc", "issuer", in.issuer}, "oidc-client-id": {"oidc", "client_id", in.clientID},
		"oidc-client-secret-file": {"oidc", "client_secret_file", in.secretFile}, "oidc-scope": {"oidc", "scopes", in.scopes},
		"oidc-login-claim": {"oidc", "login_claim", in.claim},
		"apns-topic":       {"apns", "topic", in.apnsTopic}, "apns-key-file": {"apns", "key_file", in.apnsKey}, "apns-key-id": {"apns", "key_id", in.apnsKeyID},
		"apns-team-id": {"apns", "team_id", in.apnsTeamID}, "apns-client": {"apns", "client", in.apnsClient}, "apns-environment": {"apns", "environment", in.apnsEnvironment},
		"fcm-service-account-file": {"fcm", "service_account_file", in.fcmAccount}, "fcm-client": {"fcm", "client", in.fcmClient}, "fcm-package": {"fcm", "package", in.fcmPackage},
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
	flags := map[string]any{}
	groups := map[string]map[string]any{"": flags, "oidc": {}, "apns": {}, "fcm": {}}
	for flag, m := range in.members() {
		if cmd.Flags().Changed(flag) {
			groups[m.group][m.member] = m.value
		}
	}
	for _, list := range []string{"apns", "fcm"} {
		if len(groups[list]) > 0 {
			flags[list] = []any{groups[list]}
		}
	}
	if err := readFiles(flags, "."); err != nil {
		return nil, err
	}
	if err := readFiles(groups["oidc"], "."); err != nil {
		return nil, err
	}
	if len(groups["oidc"]) > 0 {
		oidc, _ := p["oidc"].(map[string]any)
		if oidc == nil {
			oidc = map[string]any{}
		}
		maps.Copy(oidc, groups["oidc"])
		flags["oidc"] = oidc
	}
	maps.Copy(p, flags)
	return p, nil
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
	case "client_secret":
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

func (t *providerTests) addTestFlags(cmd *cobra.Command) {
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

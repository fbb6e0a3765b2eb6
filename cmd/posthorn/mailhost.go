package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const mailhostsPath = "/admin/v1/mailhosts"

func (c *cli) mailhostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "mailhost", Short: "Add, change, list and remove mail hosts (upstream IMAP servers)"}
	cmd.AddCommand(c.mailhostAdd(), c.mailhostSet(), c.mailhostList(), c.mailhostRemove())
	return cmd
}

// mailhostFlags are what add and set take.
type mailhostFlags struct {
	api.MailHost
	caFile   string
	contexts []string
	// Files with the secrets of the same names.
	notifyPassword, masterPassword, doveadmKey, oauthSecret string
}

func (in *mailhostFlags) addFlags(f *pflag.FlagSet) {
	f.StringVar(&in.IMAP, "imap", "", "the IMAP server as `HOST[:PORT]`; the port is 993 for tls, else 143")
	f.StringVar(&in.Security, "security", "tls", "`KIND` of connection: tls, starttls or none")
	f.BoolVar(&in.Insecure, "insecure", false, "let passwords travel over a connection without TLS or with an unverified certificate")
	f.StringVar(&in.caFile, "ca", "", "trust the PEM certificates in `FILE` for this host, instead of the system's")
	f.StringVar(&in.NotifyLogin, "notify-login", "", "`LOGIN` of a notify credential of its own")
	f.StringVar(&in.notifyPassword, "notify-password-file", "", "`FILE` with the password for --notify-login (- is standard input); made when not given")
	f.StringVar(&in.UserForm, "user-form", "", "`FORM` of \"user\" in what it sends: login or metadata (default login, or internal.notify.user_form without --notify-login)")
	f.BoolVar(&in.KeyedAlias, "keyed-alias", false, "with metadata: believe only values that carry our proof, since mailbox owners can write there")
	f.StringSliceVar(&in.AllowFrom, "allow-from", nil, "accept notifications only from `CIDR,...` (default any)")
	f.StringSliceVar(&in.contexts, "context", nil, "let it speak only for users of context `N,...` (default any)")
	f.StringVar(&in.Source, "source", "", "what tells us of new mail: `SOURCE` dovecot, idle, mailnotify, or auto: dovecot where it lets us register, else idle (default auto)")
	f.StringVar(&in.PasswordSource, "password-source", "", "sign in without the user by `KIND`: session (his password, kept at sign-in), global (--master-login) or oauth (default session)")
	f.StringVar(&in.MasterLogin, "master-login", "", "`LOGIN` of a master user, who may open every mailbox")
	f.StringVar(&in.masterPassword, "master-password-file", "", "`FILE` with the password for --master-login (- is standard input)")
	f.StringVar(&in.DoveadmURL, "doveadm-url", "", "`URL` of Dovecot's doveadm HTTP API: registers mailboxes without any user's password")
	f.StringVar(&in.doveadmKey, "doveadm-key-file", "", "`FILE` with the doveadm_api_key (- is standard input)")
	f.StringVar(&in.OAuthTokenURL, "oauth-token-url", "", "`URL` that gives access tokens for refresh tokens")
	f.StringVar(&in.OAuthClientID, "oauth-client-id", "", "our client `ID` there")
	f.StringVar(&in.oauthSecret, "oauth-client-secret-file", "", "`FILE` with our client secret there (- is standard input); none for a public client")
	f.StringVar(&in.OAuthScope, "oauth-scope", "", "`SCOPE` to ask tokens for")
}

// read reads the files that the flags name.
func (in *mailhostFlags) read(c *cli) error {
	if in.caFile != "" {
		pem, err := os.ReadFile(in.caFile)
		if err != nil {
			return fmt.Errorf("read the certificates of --ca: %w", err)
		}
		in.CA = string(pem)
	}
	for _, s := range []struct {
		file string
		into *string
	}{
		{in.notifyPassword, &in.NotifyPassword},
		{in.masterPassword, &in.MasterPassword},
		{in.doveadmKey, &in.DoveadmKey},
		{in.oauthSecret, &in.OAuthClientSecret},
	} {
		if s.file == "" {
			continue
		}
		var err error
		if *s.into, err = c.readSecret(s.file); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) mailhostAdd() *cobra.Command {
	var in mailhostFlags
	cmd := &cobra.Command{
		Use:   "add NAME --imap HOST[:PORT]",
		Short: "Add a mail host, and show what to set up there",
		Long: `Add a mail host: the IMAP server at which users sign in, and the credential with which it reports
new mail. Without --notify-login it uses the installation's credential (internal.notify in the
configuration). With --notify-login and no --notify-password-file a password is made and shown once.

Listeners work while no user is there. For that they need the user's password from his last sign-in, or
a master user, or for Dovecot its doveadm HTTP API. Secrets are kept sealed and are never shown.`,
		Example: `  posthorn mailhost add main --imap imap.example.org
  posthorn mailhost add local --imap 127.0.0.1:143 --security none
  posthorn mailhost add acme --imap mail.acme.example --notify-login acme --context 7 --allow-from 192.0.2.0/28
  posthorn mailhost add corp --imap mail.corp.example --notify-login corp --user-form metadata --keyed-alias
  posthorn mailhost add api --imap mail.api.example --doveadm-url https://mail.api.example:8443 --doveadm-key-file key
  posthorn mailhost add other --imap imap.other.example --source idle --password-source global --master-login posthorn --master-password-file -`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Name = args[0]
			if err := checkName("name of a mail host", in.Name); err != nil {
				return err
			}
			if err := in.checkNew(); err != nil {
				return err
			}
			if err := in.read(c); err != nil {
				return err
			}
			cfg, err := c.askingConfig() // for our address; before the addition, lest that is done but not told
			if err != nil {
				return err
			}
			var out api.MailHost
			if err := c.ask(cmd.Context(), http.MethodPost, mailhostsPath, nil, in.MailHost, &out); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(out)
			}
			return c.introduce(cfg, out, in.NotifyPassword)
		},
	}
	in.addFlags(cmd.Flags())
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) mailhostSet() *cobra.Command {
	var in mailhostFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a mail host: what a flag gives, and nothing else",
		Long: `Change a mail host. Only what a flag gives is changed; an empty value takes away what may be missing, and
--allow-from= or --context= allow any again. A secret goes with what it belongs to: --master-login= also
forgets the master password. Running servers know of the change within 5 seconds. A listener that stands takes it
over when it is looked at next (listen.audit), or when its connection breaks.`,
		Example: `  posthorn mailhost set main --imap imap2.example.org
  posthorn mailhost set main --ca /etc/ssl/own-ca.pem
  posthorn mailhost set main --password-source global --master-login posthorn --master-password-file -
  posthorn mailhost set main --doveadm-url https://imap2.example.org:8443 --doveadm-key-file key
  posthorn mailhost set main --doveadm-url=`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName("name of a mail host", args[0]); err != nil {
				return err
			}
			if err := in.checkLists(); err != nil {
				return err
			}
			if in.IMAP != "" {
				if _, err := withPort(in.IMAP, "993"); err != nil {
					return usagef("--imap %s: %s", in.IMAP, err)
				}
			}
			if err := in.read(c); err != nil {
				return err
			}
			change := in.changed(cmd.Flags())
			if len(change) == 0 {
				return usagef("nothing to change: give at least one flag")
			}
			var out api.MailHost
			if err := c.ask(cmd.Context(), http.MethodPatch, mailhostsPath+"/"+args[0], nil, change, &out); err != nil {
				return err
			}
			if c.json || out.NotifyPassword == "" {
				return c.done(out, "Mail host %s changed.", printable(out.Name))
			}
			return c.done(out, "Mail host %s changed. It reports as %s with the password %s, which is not shown again.",
				printable(out.Name), printable(out.NotifyLogin), out.NotifyPassword)
		},
	}
	in.addFlags(cmd.Flags())
	cmd.Flags().Lookup("security").DefValue = "" // none is implied here
	c.jsonFlag(cmd)
	return cmd
}

// changed returns what flags gave, by its name in the API.
func (in *mailhostFlags) changed(f *pflag.FlagSet) map[string]any {
	change := map[string]any{}
	for flag, v := range map[string]struct {
		name  string
		value any
	}{
		"imap": {"imap", in.IMAP}, "security": {"security", in.Security}, "insecure": {"insecure", in.Insecure}, "ca": {"ca", in.CA},
		"notify-login": {"notify_login", in.NotifyLogin}, "notify-password-file": {"notify_password", in.NotifyPassword},
		"user-form": {"user_form", in.UserForm}, "keyed-alias": {"keyed_alias", in.KeyedAlias},
		"allow-from": {"allow_from", in.AllowFrom}, "context": {"contexts", in.Contexts},
		"source": {"source", in.Source}, "password-source": {"password_source", in.PasswordSource},
		"master-login": {"master_login", in.MasterLogin}, "master-password-file": {"master_password", in.MasterPassword},
		"doveadm-url": {"doveadm_url", in.DoveadmURL}, "doveadm-key-file": {"doveadm_key", in.DoveadmKey},
		"oauth-token-url": {"oauth_token_url", in.OAuthTokenURL}, "oauth-client-id": {"oauth_client_id", in.OAuthClientID},
		"oauth-client-secret-file": {"oauth_client_secret", in.OAuthClientSecret}, "oauth-scope": {"oauth_scope", in.OAuthScope},
	} {
		if f.Changed(flag) {
			change[v.name] = v.value
		}
	}
	return change
}

// checkNew refuses what the server would, while it is still a matter of the command line, and completes the
// port of in.IMAP.
func (in *mailhostFlags) checkNew() error {
	ports := map[string]string{"tls": "993", "starttls": "143", "none": "143"}
	switch {
	case in.IMAP == "":
		return usagef("--imap is missing")
	case ports[in.Security] == "":
		return usagef("--security %s: say tls, starttls or none", in.Security)
	case !slices.Contains([]string{"", "login", "metadata"}, in.UserForm): // "" is the server's to fill in
		return usagef("--user-form %s: say login or metadata", in.UserForm)
	case !slices.Contains([]string{"", "dovecot", "idle", "mailnotify", "auto"}, in.Source):
		return usagef("--source %s: say dovecot, idle, mailnotify or auto", in.Source)
	case !slices.Contains([]string{"", "session", "global", "oauth"}, in.PasswordSource):
		return usagef("--password-source %s: say session, global or oauth", in.PasswordSource)
	case in.KeyedAlias && in.UserForm == "login":
		return usagef("--keyed-alias needs --user-form metadata: the proof is written into METADATA")
	case in.NotifyLogin == "" && in.notifyPassword != "":
		return usagef("--notify-password-file needs --notify-login")
	case in.NotifyLogin == "" && (len(in.AllowFrom) > 0 || len(in.contexts) > 0):
		return usagef("--allow-from and --context limit a credential: give the host its own with --notify-login")
	case (in.MasterLogin == "") != (in.masterPassword == ""):
		return usagef("--master-login and --master-password-file go together")
	case (in.DoveadmURL == "") != (in.doveadmKey == ""):
		return usagef("--doveadm-url and --doveadm-key-file go together")
	}
	imap, err := withPort(in.IMAP, ports[in.Security])
	if err != nil {
		return usagef("--imap %s: %s", in.IMAP, err)
	}
	in.IMAP = imap
	return in.checkLists()
}

func (in *mailhostFlags) checkLists() error {
	for i, s := range in.AllowFrom {
		if addr, err := netip.ParseAddr(s); err == nil {
			in.AllowFrom[i] = netip.PrefixFrom(addr, addr.BitLen()).String()
		} else if _, err := netip.ParsePrefix(s); err != nil {
			return usagef("--allow-from %s: say a network, as 192.0.2.0/24", s)
		}
	}
	for _, s := range in.contexts {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return usagef("--context %s: say a number from 1, or several with commas", s)
		}
		in.Contexts = append(in.Contexts, n)
	}
	return nil
}

// withPort completes "host", "host:port", "::1" or "[::1]:port" by a default port.
func withPort(s, port string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(s, port), nil
	}
	if !strings.Contains(s, ":") {
		return net.JoinHostPort(s, port), nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return "", errors.New("say HOST or HOST:PORT")
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
		return "", errors.New("the port is a number from 1 to 65535")
	}
	return net.JoinHostPort(host, p), nil
}

func (c *cli) mailhostList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the mail hosts",
		Example: "  posthorn mailhost list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.MailHost](cmd.Context(), c, mailhostsPath, nil)
			if err != nil {
				return err
			}
			return table[api.MailHost]{
				empty:  `There are no mail hosts; add one with "posthorn mailhost add NAME --imap HOST".`,
				header: []string{"MAILHOST", "IMAP", "SECURITY", "SOURCE", "PASSWORDS", "NOTIFY LOGIN", "USER FORM", "CONTEXTS", "ALLOW FROM"},
				row:    mailhostRow,
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func mailhostRow(h api.MailHost) []string {
	security, login, form, contexts, from := h.Security, h.NotifyLogin, h.UserForm, "any", "any"
	if h.Insecure {
		security += ", insecure"
	}
	if login == "" {
		login = "(installation's)"
	}
	if h.KeyedAlias {
		form += ", keyed"
	}
	if len(h.Contexts) > 0 {
		contexts = strings.Trim(strings.ReplaceAll(fmt.Sprint(h.Contexts), " ", ","), "[]")
	}
	if len(h.AllowFrom) > 0 {
		from = strings.Join(h.AllowFrom, ",")
	}
	return []string{h.Name, h.IMAP, security, h.Source, h.PasswordSource, login, form, contexts, from}
}

func (c *cli) mailhostRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a mail host that has no users",
		Example: "  posthorn mailhost remove main",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName("name of a mail host", args[0]); err != nil {
				return err
			}
			if err := c.ask(cmd.Context(), http.MethodDelete, mailhostsPath+"/"+args[0], nil, nil, nil); err != nil {
				return err
			}
			return c.done(removed{args[0]}, "Mail host %s removed.", args[0])
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

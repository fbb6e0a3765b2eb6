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

	"github.com/posthorn-mail/posthorn/internal/api"
)

const mailhostsPath = "/admin/v1/mailhosts"

func (c *cli) mailhostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "mailhost", Short: "Add, list and remove mail hosts (upstream IMAP servers)"}
	cmd.AddCommand(c.mailhostAdd(), c.mailhostList(), c.mailhostRemove())
	return cmd
}

func (c *cli) mailhostAdd() *cobra.Command {
	var (
		in                   api.MailHost
		caFile, passwordFile string
	)
	cmd := &cobra.Command{
		Use:   "add NAME --imap HOST[:PORT]",
		Short: "Add a mail host, and show what to paste into Dovecot's configuration",
		Long: `Add a mail host: the IMAP server at which users sign in, and the credential with which it reports
new mail. Without --notify-login it uses the installation's credential (internal.notify in the
configuration). With --notify-login and no --notify-password-file a password is made and shown once.`,
		Example: `  posthorn mailhost add main --imap imap.example.org
  posthorn mailhost add local --imap 127.0.0.1:143 --security none
  posthorn mailhost add acme --imap mail.acme.example --notify-login acme --context 7 --allow-from 192.0.2.0/28
  posthorn mailhost add corp --imap mail.corp.example --notify-login corp --user-form metadata --keyed-alias`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Name = args[0]
			if err := checkName("name of a mail host", in.Name); err != nil {
				return err
			}
			if err := checkMailhost(&in, passwordFile); err != nil {
				return err
			}
			if caFile != "" {
				pem, err := os.ReadFile(caFile) //nolint:gosec // the operator names the file
				if err != nil {
					return fmt.Errorf("read the certificates of --ca: %w", err)
				}
				in.CA = string(pem)
			}
			if passwordFile != "" {
				var err error
				if in.NotifyPassword, err = c.readSecret(passwordFile); err != nil {
					return err
				}
			}
			cfg, err := c.loadConfig() // for our address; before the addition, lest that is done but not told
			if err != nil {
				return err
			}
			var out api.MailHost
			if err := c.ask(cmd.Context(), http.MethodPost, mailhostsPath, nil, in, &out); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(out)
			}
			return c.introduce(cfg, out, in.NotifyPassword)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.IMAP, "imap", "", "the IMAP server as `HOST[:PORT]`; the port is 993 for tls, else 143")
	f.StringVar(&in.Security, "security", "tls", "`KIND` of connection: tls, starttls or none")
	f.BoolVar(&in.Insecure, "insecure", false, "let passwords travel over a connection without TLS or with an unverified certificate")
	f.StringVar(&caFile, "ca", "", "trust the PEM certificates in `FILE` for this host, instead of the system's")
	f.StringVar(&in.NotifyLogin, "notify-login", "", "`LOGIN` of a notify credential of its own")
	f.StringVar(&passwordFile, "notify-password-file", "", "`FILE` with the password for --notify-login (- is standard input); made when not given")
	f.StringVar(&in.UserForm, "user-form", "", "`FORM` of \"user\" in what it sends: login or metadata (default login, or internal.notify.user_form without --notify-login)")
	f.BoolVar(&in.KeyedAlias, "keyed-alias", false, "with metadata: believe only values that carry our proof, since mailbox owners can write there")
	f.StringSliceVar(&in.AllowFrom, "allow-from", nil, "accept notifications only from `CIDR,...` (default any)")
	f.Int64SliceVar(&in.Contexts, "context", nil, "let it speak only for users of context `N,...` (default any)")
	f.Lookup("context").DefValue = "" // or the help says "default []"
	c.jsonFlag(cmd)
	return cmd
}

// checkMailhost refuses what the server would, while it is still a matter of the command line, and
// completes the port of in.IMAP.
func checkMailhost(in *api.MailHost, passwordFile string) error {
	ports := map[string]string{"tls": "993", "starttls": "143", "none": "143"}
	switch {
	case in.IMAP == "":
		return usagef("--imap is missing")
	case ports[in.Security] == "":
		return usagef("--security %s: say tls, starttls or none", in.Security)
	case !slices.Contains([]string{"", "login", "metadata"}, in.UserForm): // "" is the server's to fill in
		return usagef("--user-form %s: say login or metadata", in.UserForm)
	case in.KeyedAlias && in.UserForm == "login":
		return usagef("--keyed-alias needs --user-form metadata: the proof is written into METADATA")
	case in.NotifyLogin == "" && passwordFile != "":
		return usagef("--notify-password-file needs --notify-login")
	case in.NotifyLogin == "" && (len(in.AllowFrom) > 0 || len(in.Contexts) > 0):
		return usagef("--allow-from and --context limit a credential: give the host its own with --notify-login")
	}
	imap, err := withPort(in.IMAP, ports[in.Security])
	if err != nil {
		return usagef("--imap %s: %s", in.IMAP, err)
	}
	in.IMAP = imap
	for i, s := range in.AllowFrom {
		if addr, err := netip.ParseAddr(s); err == nil {
			in.AllowFrom[i] = netip.PrefixFrom(addr, addr.BitLen()).String()
		} else if _, err := netip.ParsePrefix(s); err != nil {
			return usagef("--allow-from %s: say a network, as 192.0.2.0/24", s)
		}
	}
	if i := slices.IndexFunc(in.Contexts, func(n int64) bool { return n < 1 }); i >= 0 {
		return usagef("--context %d: contexts are counted from 1", in.Contexts[i])
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
				header: []string{"MAILHOST", "IMAP", "SECURITY", "NOTIFY LOGIN", "USER FORM", "CONTEXTS", "ALLOW FROM"},
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
	return []string{h.Name, h.IMAP, security, login, form, contexts, from}
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
